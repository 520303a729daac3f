import { copyFile, rm } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import { zeroDigest } from '@presync/format/digest';
import type { IndexedChunk, IndexedFile } from '@presync/format/index-file';
import { errnoOf, ioError, isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { formatBytes } from '@presync/runtime/units';
import pLimit from 'p-limit';
import type { OnEvent } from './events.ts';
import { assertArchiveEnd } from './lib/archive-check.ts';
import { describeChunk } from './lib/chunk-names.ts';
import { getChunk } from './lib/chunk-objects.ts';
import { shapeOf } from './lib/chunk-shape.ts';
import type { ChunkShape } from './lib/chunk-tasks.ts';
import { type ChunkWorkers, createChunkWorkers } from './lib/chunk-workers.ts';
import { boundedConcurrency, forEachConcurrent } from './lib/concurrency.ts';
import { finishFile } from './lib/finish-file.ts';
import { type Journal, openJournal } from './lib/journal.ts';
import { chunksOf } from './lib/local-index.ts';
import { whileHeld } from './lib/reader-lease.ts';
import {
  assertRoom,
  type CountedRoom,
  clearRemoved,
  countRoom,
  isOnSeveralDisks,
  type RoomNeed,
  removeOld,
  roomNeeds,
  shortOfRoom,
} from './lib/restore-room.ts';
import {
  allPaths,
  assertNothingThere,
  clearWork,
  createStagedFile,
  journalPath,
  openStage,
  type PartPaths,
  partOf,
  partPaths,
  readState,
  sealStage,
  stagedPath,
  statePath,
  undoHalfSwap,
  writeState,
} from './lib/stage.ts';
import { isSwapOf, readSwap, swapIn, undoSwap, writeSwap } from './lib/swap.ts';
import { makeFolders } from './made-folders.ts';
import { partTargets } from './part-targets.ts';
import { downloadIndex, type Repository, type Snapshot } from './repository.ts';

/** What happens to a database that is already at the target. */
export type ExistingPolicy = 'refuse' | 'reuse' | 'replace';

export interface RestoreOptions {
  repository: Repository;
  /** Resolved and checked. */
  snapshot: Snapshot;
  /** The node's base path. Made when it is not there. */
  basePath: string;
  /** That of its relay chain; default `polkadot/` in the base path, as the node's own default. */
  relayBasePath?: string | undefined;
  /** Default `refuse`. `reuse` takes from it every chunk that already matches; both others replace it when the new one is sealed. */
  existing?: ExistingPolicy | undefined;
  /** Called for each file of the index before anything is written for it; throws to refuse it. */
  assertFile: (file: IndexedFile) => void;
  /** Where the disk has no room for both, remove the old database before the new one is there. Default false. */
  freeRoom?: boolean | undefined;
  /** The snapshot's index, where it was downloaded and proved before. */
  index?: string | undefined;
  /** Owner of all that is made; by default who runs presync. */
  owner?: { uid: number; gid: number } | undefined;
  concurrency?: number | undefined;
  onProgress?: ((bytes: number) => void) | undefined;
  onEvent?: OnEvent | undefined;
  /** Called when a step begins: the lease is taken; the bytes come, are made durable and take their place. */
  onPhase?: ((phase: 'lease' | 'restore') => void) | undefined;
  /** Called when a whole and durable copy lies beside the database, before it takes its place. */
  beforeSwap?: (() => Promise<void>) | undefined;
  signal: AbortSignal;
}

export interface RestoreResult {
  files: number;
  /** Bytes of files. */
  bytes: number;
  fetchedChunks: number;
  /** Bytes that came from the store, the index not counted. */
  fetchedBytes: number;
  /** Chunks that an earlier attempt had written already. */
  resumedChunks: number;
  /** Chunks that the old database gave. */
  reusedChunks: number;
  /** True when an earlier attempt had come far enough that only the swap was left. */
  wasSealed: boolean;
  /** True when the old database was removed first, to make room. */
  removedOld: boolean;
}

const DEFAULT_CONCURRENCY = 16;
/** Files whose data is brought to disk at once, beside the transfer. */
const SYNC_CONCURRENCY = 4;

/**
 * Restores a snapshot. The database's own folder is not touched until a whole and durable copy lies beside it; then a rename puts it in place. Safe to kill
 * at any instant and to call again: what an earlier attempt wrote is proved and kept. One restore at a time for a target; the caller holds a lock.
 */
export async function restoreSnapshot(options: RestoreOptions): Promise<RestoreResult> {
  const { snapshot, basePath, signal } = options;
  const { manifest } = snapshot;
  const parts = allPaths(partTargets(manifest, options));
  const roots = parts.filter(({ within }) => within === undefined);
  const [first] = roots;
  if (first === undefined) throw new PresyncError('INTERNAL', 'a manifest without parts');
  try {
    const found = await readState(first);
    const state = found !== undefined && 'manifest' in found ? found : undefined;
    const swap = await readSwap(first);
    const wasSealed =
      state?.phase === 'sealed' &&
      state.manifest === snapshot.sha256 &&
      (roots.length === 1 || (await isSwapOf(swap, roots, snapshot.sha256)));
    const result: RestoreResult = {
      files: manifest.totals.files,
      bytes: manifest.totals.bytes,
      fetchedChunks: 0,
      fetchedBytes: 0,
      resumedChunks: 0,
      reusedChunks: 0,
      wasSealed,
      removedOld: false,
    };
    if (!wasSealed) {
      if (swap !== undefined) await undoSwap(swap);
      for (const part of roots) await undoHalfSwap(part);
      if ((options.existing ?? 'refuse') === 'refuse')
        for (const part of roots) await assertNothingThere(part);
      const short = await preflight(options, parts, first);
      const sameSnapshot = state?.manifest === snapshot.sha256;
      const names = await fetchHeld({ options, parts, first, sameSnapshot, short, result });
      // Those that lie in others first, since these keep what lies in them.
      for (const part of parts.toSorted((a, b) => b.stage.length - a.stage.length)) {
        await sealStage(part, names.get(part.part) ?? new Set(), options.owner);
      }
      await writeSwap(roots, snapshot.sha256);
      await writeState(first, { ...stateOf(snapshot), phase: 'sealed' });
    }
    throwIfAborted(signal);
    await options.beforeSwap?.();
    await swapIn(roots);
    for (const part of roots) await clearWork(part);
    return result;
  } catch (error) {
    throw errnoOf(error) === undefined || isPresyncError(error)
      ? error
      : ioError(error, 'restore into', basePath);
  }
}

function stateOf({ manifest, sha256 }: Snapshot): { channel: string; sequence: number; manifest: string } {
  return { channel: manifest.channel, sequence: manifest.sequence, manifest: sha256 };
}

/**
 * All that can be refused before anything is staged: the room, and every line of the index. Leaves the index in the work folder;
 * when it refuses, it leaves nothing that was not there. Returns the disks whose room only the old database can give.
 */
async function preflight(options: RestoreOptions, parts: PartPaths[], first: PartPaths): Promise<RoomNeed[]> {
  const { repository, snapshot, owner, signal } = options;
  const { manifest } = snapshot;
  const undo: (() => Promise<void>)[] = [];
  const indexPath = indexPathOf(first);
  try {
    for (const part of parts) {
      if (part.within !== undefined) continue;
      undo.unshift((await makeFolders(dirname(part.target), owner)).undo);
      undo.unshift((await makeFolders(part.work)).undo);
    }
    await clearRemoved(parts);
    const freeing = options.freeRoom === true;
    const counted: CountedRoom | undefined = (await isOnSeveralDisks(parts)) ? new Map() : undefined;
    let needs: RoomNeed[] = [];
    if (counted === undefined) {
      needs = await roomNeeds(parts, manifest);
      assertRoom(needs, { freeing });
    }
    await rm(indexPath, { force: true });
    if (options.index === undefined) await downloadIndex(repository, manifest, indexPath, { signal });
    else await copyFile(options.index, indexPath);
    for await (const chunk of chunksOf(repository, manifest, indexPath, signal)) {
      for (const file of chunk.begins) {
        options.assertFile(file);
        partOf(parts, file);
      }
      if (counted !== undefined) countRoom(counted, chunk, repository.chunkSize, parts);
    }
    if (counted !== undefined) {
      needs = await roomNeeds(parts, manifest, counted);
      assertRoom(needs, { freeing });
    }
    return shortOfRoom(needs);
  } catch (error) {
    await rm(indexPath, { force: true });
    for (const step of undo) await step();
    throw error;
  }
}

function indexPathOf({ work }: PartPaths): string {
  return join(work, 'restore-index.zst');
}

/** A file that is being put together. */
interface StagedFile {
  path: string;
  /** Nothing but holes before this run. */
  fresh: boolean;
  /** Bytes of content, and one for the header, that are not yet in place. */
  missing: number;
}

/** Fetches while a lease keeps collectors from removing what is fetched, where one can be had. */
function fetchHeld(work: FetchWork): ReturnType<typeof fetchAll> {
  const { onPhase, ...options } = work.options;
  onPhase?.('lease');
  return whileHeld(options, () => {
    onPhase?.('restore');
    return fetchAll(work);
  });
}

interface FetchWork {
  options: RestoreOptions;
  parts: PartPaths[];
  first: PartPaths;
  /** The stage holds an earlier attempt at this very snapshot. */
  sameSnapshot: boolean;
  /** Disks that the old databases must leave first. */
  short: readonly RoomNeed[];
  result: RestoreResult;
}

/** Fetches all chunks into the stage. Returns the names of each part's files. */
async function fetchAll(work: FetchWork): Promise<Map<string, Set<string>>> {
  const { options, parts, first, sameSnapshot, result } = work;
  const { repository, snapshot, signal } = options;
  const { manifest } = snapshot;
  // The note first: once a stage is opened, no note may say of it that it is sealed.
  if (!sameSnapshot) await rm(journalPath(first), { force: true });
  await writeState(first, { ...stateOf(snapshot), phase: 'fetching' });
  if (work.short.length > 0) {
    for (const { dir, free, needed, old } of work.short)
      options.onEvent?.(
        'restore.old_removed',
        `${dir} has ${formatBytes(free)} free, and ${formatBytes(needed)} are needed: the old database (${formatBytes(old)}) is REMOVED NOW, before the new one is there`,
        { dir, freeBytes: free, neededBytes: needed, oldBytes: old },
      );
    await removeOld(parts);
    result.removedOld = true;
  }
  for (const part of parts) await openStage(part);

  const journal = await openJournal(journalPath(first), manifest.totals.chunks);
  const concurrency = boundedConcurrency(options.concurrency ?? DEFAULT_CONCURRENCY, repository.chunkSize);
  const workers = createChunkWorkers({ concurrency });
  const names = new Map(parts.map((part) => [part.part, new Set(insideOf(part, parts))]));
  const context: FetchContext = {
    options,
    workers,
    journal,
    // Files of another snapshot in the stage may hold any chunk; files of this one hold those that the journal names.
    trustJournal: sameSnapshot,
    staged: new Map(),
    seeds: new Map(options.existing === 'reuse' ? parts.map((part) => [part.part, part.target]) : []),
    finishing: new Set(),
    limitSync: pLimit(SYNC_CONCURRENCY),
    result,
  };

  async function* prepared(): AsyncGenerator<IndexedChunk> {
    for await (const chunk of chunksOf(repository, manifest, indexPathOf(first), signal)) {
      for (const file of chunk.begins) {
        const part = partOf(parts, file);
        names.get(part.part)?.add(basename(file.path));
        const path = stagedPath(part, file);
        context.staged.set(file, {
          path,
          fresh: await createStagedFile(path, file.size),
          missing: file.size + 1,
        });
      }
      yield chunk;
    }
  }

  try {
    await forEachConcurrent(prepared(), { concurrency, signal }, (chunk, abort) =>
      placeChunk(context, chunk, abort),
    );
  } finally {
    await Promise.allSettled(context.finishing);
    await workers.close();
    await journal.close();
  }
  await Promise.all(context.finishing);
  return names;
}

/** Names in a part's folder that are the way to parts that lie in it. */
function insideOf(outer: PartPaths, parts: readonly PartPaths[]): string[] {
  return parts
    .filter(({ within }) => within === outer)
    .map(({ target }) => relative(outer.target, target).split('/')[0] ?? '');
}

interface FetchContext {
  options: RestoreOptions;
  workers: ChunkWorkers;
  journal: Journal;
  trustJournal: boolean;
  staged: Map<IndexedFile, StagedFile>;
  seeds: Map<string, string>;
  finishing: Set<Promise<void>>;
  limitSync: ReturnType<typeof pLimit>;
  result: RestoreResult;
}

async function placeChunk(context: FetchContext, chunk: IndexedChunk, signal: AbortSignal): Promise<void> {
  const { options, journal, result } = context;
  if (chunk.segments.length === 0) {
    assertArchiveEnd(chunk);
  } else if (await isInPlace(context, chunk)) {
    result.resumedChunks += 1;
    if (!journal.has(chunk.ordinal)) await journal.add(chunk.ordinal);
  } else {
    await fillChunk(context, chunk, signal);
    await journal.add(chunk.ordinal);
  }
  for (const segment of chunk.segments) {
    const staged = stagedOf(context, segment.file);
    staged.missing -= segment.kind === 'data' ? segment.length : 1;
    if (staged.missing === 0) finish(context, segment.file, staged);
  }
  options.onProgress?.(chunk.length);
}

function stagedOf({ staged }: FetchContext, file: IndexedFile): StagedFile {
  const found = staged.get(file);
  if (found === undefined) throw new PresyncError('INTERNAL', `${file.path} was never staged`);
  return found;
}

/** True when an earlier attempt wrote this chunk, and it is proved to be there. */
async function isInPlace(context: FetchContext, chunk: IndexedChunk): Promise<boolean> {
  if (chunk.segments.some(({ file }) => stagedOf(context, file).fresh && file.size > 0)) return false;
  if (context.trustJournal && !context.journal.has(chunk.ordinal)) return false;
  const { matches } = await context.workers.run({
    kind: 'match',
    from: stagedShape(context, chunk),
    sha256: chunk.sha256,
  });
  return matches;
}

/** The chunk in the staged files. */
function stagedShape(context: FetchContext, chunk: IndexedChunk): ChunkShape {
  return shapeOf(chunk, (file) => {
    const { path, fresh } = stagedOf(context, file);
    return { path, sparse: fresh };
  });
}

/** Brings a chunk into place: from nowhere when it is zero, from the old database when that has it, from the store otherwise. */
async function fillChunk(context: FetchContext, chunk: IndexedChunk, signal: AbortSignal): Promise<void> {
  const { options, seeds, result, workers } = context;
  const { chunkSize, sources } = options.repository;
  const to = stagedShape(context, chunk);
  const [only] = chunk.segments;
  const zero =
    chunk.length === chunkSize &&
    only?.kind === 'data' &&
    only.length === chunkSize &&
    chunk.sha256 === zeroDigest(chunkSize);
  if (zero) {
    if (!stagedOf(context, only.file).fresh) await workers.run({ kind: 'zero', to });
    return;
  }
  if (seeds.size > 0) {
    const from = shapeOf(chunk, (file) => ({
      path: join(seeds.get(dirname(file.path)) ?? '', basename(file.path)),
    }));
    const { matches } = await workers.run({ kind: 'match', from, sha256: chunk.sha256, to });
    if (matches) {
      result.reusedChunks += 1;
      return;
    }
  }
  await getChunk(sources, workers, chunk, { files: describeChunk(chunk), shape: to, use: 'write', signal });
  result.fetchedChunks += 1;
  result.fetchedBytes += chunk.storedSize;
}

/** Brings a complete file to disk with its metadata, beside the transfer. */
function finish(context: FetchContext, file: IndexedFile, staged: StagedFile): void {
  const { owner } = context.options;
  context.staged.delete(file);
  const task = context.limitSync(() => finishFile(staged.path, { mtimeMs: file.mtimeMs, owner }));
  context.finishing.add(task);
  // A finished task is forgotten; one that failed stays, and is reported at the end.
  task.then(
    () => context.finishing.delete(task),
    () => {},
  );
}

/** The restore that was begun and not finished at a target, if there is one; `sequence` is that of its snapshot, if it is of one. */
export async function interruptedRestore(
  basePath: string,
  part: string,
): Promise<{ sequence: number | undefined; path: string } | undefined> {
  const paths = partPaths(basePath, part);
  const state = await readState(paths);
  if (state === undefined) return undefined;
  return { sequence: 'sequence' in state ? state.sequence : undefined, path: statePath(paths) };
}
