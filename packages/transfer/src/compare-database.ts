import { mkdir, mkdtemp, open, readdir, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { createCodec } from '@presync/format/codec';
import type { IndexedChunk, IndexedFile } from '@presync/format/index-file';
import type { Manifest } from '@presync/format/manifest';
import { errnoOf, ioError } from '@presync/runtime/errors';
import type { OnEvent } from './events.ts';
import { describeChunk } from './lib/chunk-names.ts';
import { getChunk } from './lib/chunk-objects.ts';
import { shapeOf } from './lib/chunk-shape.ts';
import { createChunkWorkers } from './lib/chunk-workers.ts';
import { boundedConcurrency, forEachConcurrent } from './lib/concurrency.ts';
import { chunksOf } from './lib/local-index.ts';
import { whileHeld } from './lib/reader-lease.ts';
import { matchesAny, type Selection, selectChunks } from './lib/select-chunks.ts';
import { allPaths, type PartPaths, partOf } from './lib/stage.ts';
import { partTargets, type RestorePlaces } from './part-targets.ts';
import { downloadIndex, type Repository } from './repository.ts';

export interface CompareOptions extends RestorePlaces {
  repository: Repository;
  /** Of a snapshot that was resolved and checked. */
  manifest: Manifest;
  /** Only files that never change once written, for a database that a node has opened since. */
  immutableOnly: boolean;
  selection?: Selection | undefined;
  /** Where the index is kept meanwhile. */
  scratchDir: string;
  concurrency?: number | undefined;
  onProgress?: ((bytes: number) => void) | undefined;
  onEvent?: OnEvent | undefined;
  signal: AbortSignal;
}

/** A file on disk that is not what the snapshot has. */
export interface DifferentFile {
  /** On this machine. */
  path: string;
  /** `content` at byte `at`; `size`: it has another; `missing`: it is not there; `extra`: the snapshot has no such file. */
  kind: 'content' | 'size' | 'missing' | 'extra';
  at: number | null;
}

export interface CompareResult {
  /** Files that were looked at. */
  files: number;
  /** Bytes that were read on this machine. */
  bytes: number;
  /** Files that were left out because a node changes them. */
  leftOut: number;
  different: DifferentFile[];
}

/** Different files that are told; a database that is another one is not listed to its end. */
const MAX_DIFFERENT = 10_000;
const DEFAULT_CONCURRENCY = 8;

/**
 * Compares a database on disk with a snapshot, by digests: what is the same is read here only. Where a chunk of several small files differs, it is fetched to
 * tell which of them it is.
 */
export function compareDatabase(options: CompareOptions): Promise<CompareResult> {
  const { repository, manifest, onEvent, signal } = options;
  return whileHeld({ repository, snapshot: { manifest }, onEvent, signal }, () => compareHeld(options));
}

async function compareHeld(options: CompareOptions): Promise<CompareResult> {
  const { repository, manifest, signal, selection = {} } = options;
  const parts = allPaths(partTargets(manifest, options));
  await mkdir(options.scratchDir, { recursive: true, mode: 0o700 });
  const scratch = await mkdtemp(join(options.scratchDir, 'compare-'));
  const concurrency = boundedConcurrency(options.concurrency ?? DEFAULT_CONCURRENCY, repository.chunkSize);
  const workers = createChunkWorkers({ concurrency });
  const result: CompareResult = { files: 0, bytes: 0, leftOut: 0, different: [] };
  /** Files that are known to differ, or not to be looked at: nothing more is to be found out about them. */
  const settled = new Set<string>();
  const names = new Map<PartPaths, Set<string>>(parts.map((part) => [part, new Set()]));
  const pathOf = (file: IndexedFile): string => join(partOf(parts, file).target, basename(file.path));
  const codec = await createCodec();

  function differs(file: IndexedFile, kind: DifferentFile['kind'], at: number | null = null): void {
    if (settled.has(file.path)) return;
    settled.add(file.path);
    if (result.different.length < MAX_DIFFERENT) result.different.push({ path: pathOf(file), kind, at });
  }

  async function begin(file: IndexedFile): Promise<void> {
    names.get(partOf(parts, file))?.add(basename(file.path));
    const { globs = [] } = selection;
    if (globs.length > 0 && !matchesAny(globs, file)) settled.add(file.path);
    else if (options.immutableOnly && file.class !== 'immutable') {
      settled.add(file.path);
      result.leftOut += 1;
    } else {
      result.files += 1;
      const size = await sizeOf(pathOf(file));
      if (size === undefined) differs(file, 'missing');
      else if (size !== file.size) differs(file, 'size');
    }
  }

  async function compare(chunk: IndexedChunk, abort: AbortSignal): Promise<void> {
    const open = [...new Set(chunk.segments.map(({ file }) => file))].filter(
      (file) => file.size > 0 && !settled.has(file.path),
    );
    const [first] = open;
    if (first === undefined) return;
    const from = shapeOf(chunk, (file) => ({ path: pathOf(file) }));
    const { matches } = await workers.run({ kind: 'match', from, sha256: chunk.sha256 });
    result.bytes += chunk.length;
    if (matches) return;
    const ofSeveral = new Set(chunk.segments.map(({ file }) => file)).size > 1;
    if (ofSeveral) await compareEach(chunk, abort);
    else await differsNow(first, offsetOf(chunk, first));
  }

  /** A node that runs may just have removed the file. */
  async function differsNow(file: IndexedFile, at: number): Promise<void> {
    if ((await sizeOf(pathOf(file))) === undefined) differs(file, 'missing');
    else differs(file, 'content', at);
  }

  async function compareEach(chunk: IndexedChunk, abort: AbortSignal): Promise<void> {
    const files = describeChunk(chunk);
    const shape = shapeOf(chunk, (file) => ({ path: file.path }));
    const frame = await getChunk(repository.sources, workers, chunk, {
      files,
      shape,
      use: 'keep',
      signal: abort,
    });
    const plain = await codec.decode(frame, { length: chunk.length, what: `chunk ${chunk.sha256}` });
    for (const segment of chunk.segments) {
      if (segment.kind !== 'data' || settled.has(segment.file.path)) continue;
      const wanted = plain.subarray(segment.at, segment.at + segment.length);
      const there = await readStretch(pathOf(segment.file), segment.offset, segment.length);
      if (Buffer.compare(wanted, there) !== 0) await differsNow(segment.file, segment.offset);
    }
  }

  async function* prepared(index: string): AsyncGenerator<IndexedChunk> {
    for await (const chunk of chunksOf(repository, manifest, index, signal)) {
      for (const file of chunk.begins) await begin(file);
      yield chunk;
    }
  }

  async function findExtras(): Promise<void> {
    for (const [part, known] of names) {
      const inner = parts.filter(({ within }) => within === part).map(({ target }) => target);
      for (const name of await listed(part.target)) {
        const path = join(part.target, name);
        if (known.has(name) || inner.some((target) => target.startsWith(path))) continue;
        if (OWN_OF_NODES.test(name) || result.different.length >= MAX_DIFFERENT) continue;
        result.different.push({ path, kind: 'extra', at: null });
      }
    }
  }

  try {
    const index = join(scratch, 'index.zst');
    await downloadIndex(repository, manifest, index, { signal });
    const chunks = selectChunks(prepared(index), selection);
    await forEachConcurrent(chunks, { concurrency, signal }, async (chunk, abort) => {
      await compare(chunk, abort);
      options.onProgress?.(chunk.length);
    });
    if (!options.immutableOnly && (selection.globs ?? []).length === 0) await findExtras();
    result.different.sort((a, b) => (a.path < b.path ? -1 : 1));
    return result;
  } finally {
    await workers.close();
    await rm(scratch, { recursive: true, force: true });
  }
}

/** What is in a database's folder and in no snapshot: locks, and logs for people. */
const OWN_OF_NODES = /^(?:LOCK|lock|LOG(?:\.old.*)?|stats\.txt)$/;

/** True when a node has opened the database since it was restored: a restore leaves no lock file and no log. */
export async function wasOpened(manifest: Manifest, places: RestorePlaces): Promise<boolean> {
  for (const { target } of partTargets(manifest, places))
    if ((await listed(target)).some((name) => OWN_OF_NODES.test(name))) return true;
  return false;
}

function offsetOf(chunk: IndexedChunk, file: IndexedFile): number {
  const segment = chunk.segments.find((one) => one.kind === 'data' && one.file === file);
  return segment?.kind === 'data' ? segment.offset : 0;
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    const found = await stat(path);
    return found.isFile() ? found.size : undefined;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return undefined;
    throw ioError(error, 'look at', path);
  }
}

async function listed(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return [];
    throw ioError(error, 'list', dir);
  }
}

/** Bytes of a file; shorter when it ends before. */
async function readStretch(path: string, offset: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  try {
    const handle = await open(path, 'r');
    try {
      const { bytesRead } = await handle.read(buffer, 0, length, offset);
      return buffer.subarray(0, bytesRead);
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return Buffer.alloc(0);
    throw ioError(error, 'read', path);
  }
}
