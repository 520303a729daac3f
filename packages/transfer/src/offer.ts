import { randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { createPlacer } from '@presync/format/chunk-places';
import { type ArchiveFile, compareFiles, planChunks } from '@presync/format/chunks';
import { rawFrameLength } from '@presync/format/frame';
import type { StoredChunk } from '@presync/format/index-file';
import type { Manifest } from '@presync/format/manifest';
import { errnoOf, ioError, isPresyncError, messageOf, type PresyncError } from '@presync/runtime/errors';
import { createFileStore } from '@presync/store/file';
import { createSources } from '@presync/store/sources';
import { type MadeStore, withMadeObjects } from '@presync/store/with-made-objects';
import { createClock } from './clock.ts';
import { type ChunkTable, createChunkTable } from './lib/chunk-table.ts';
import { type ChunkWorkers, createChunkWorkers } from './lib/chunk-workers.ts';
import { boundedConcurrency } from './lib/concurrency.ts';
import { loadPrevious } from './lib/previous.ts';
import { promote, prove, publish } from './lib/publish.ts';
import { createUnchanged, remember } from './lib/source-reuse.ts';
import { type StoreChunksResult, storeChunks } from './lib/store-chunks.ts';
import { createViewChunks, type ViewChunks } from './lib/view-chunks.ts';
import {
  assertChannel,
  openOrCreateRepository,
  openRepository,
  type Repository,
  readLatest,
} from './repository.ts';
import { DEFAULT_CONCURRENCY, type UploadOptions } from './snapshot.ts';
import type { SourceFile } from './source.ts';

export { MAX_VIEW_CHUNKS } from './lib/view-chunks.ts';

export interface OfferOptions
  extends Pick<
    UploadOptions,
    | 'channel'
    | 'files'
    | 'databaseIdentity'
    | 'describe'
    | 'keys'
    | 'concurrency'
    | 'prove'
    | 'onProgress'
    | 'onEvent'
    | 'signal'
  > {
  chunkSize: number;
  /** The snapshot's number in its repository. */
  sequence: number;
  /** A folder of this offer's own, where documents and the record of what was read are kept, also for the next one. The caller holds a lock on it. */
  dir: string;
  /** What the store is called in messages. */
  location: string;
  /** Told of each chunk that could not be made, since the view does not hold any more what it held. */
  onDamage?: ((error: PresyncError) => void) | undefined;
}

/** A frozen view as a repository of its own, with one snapshot: what is small lies on disk, the chunks are made from the view. */
export interface Offer {
  readonly store: MadeStore;
  readonly repositoryId: string;
  readonly manifest: Manifest;
  readonly manifestSha256: string;
  /** Bytes of files that were read; the others were known unchanged. */
  readonly readBytes: number;
  /** Ends the threads. The store must not be used after. */
  close(): Promise<void>;
}

/** Documents of one offer each. */
const FOLDER = /^offer-[0-9a-f-]{36}$/;
/** What a process that was killed may leave beside them. */
const SCRATCH = /^(?:work|verify)-/;

/** Threads and buffers of the chunks that are proved, beside those of the chunks that are made for it. */
const PROVE_CONCURRENCY = 2;

/** How many chunks these files are, for a check against `MAX_VIEW_CHUNKS` before a view is taken. */
export function countChunks(files: readonly ArchiveFile[], chunkSize: number): number {
  let count = 0;
  for (const _ of planChunks([...files].sort(compareFiles), chunkSize)) count += 1;
  return count;
}

/**
 * Makes a snapshot of a frozen view without storing its chunks. It is a repository of its own, with an id that nobody has seen before: so no machine can
 * take it for one that has gone back (decision 13). The view must stay until `close`.
 */
export async function offerView(options: OfferOptions): Promise<Offer> {
  const { dir, chunkSize } = options;
  assertChannel(options.channel);
  const concurrency = boundedConcurrency(options.concurrency ?? DEFAULT_CONCURRENCY, chunkSize);
  const files = [...options.files].sort(compareFiles);
  const workers = createChunkWorkers({ concurrency });
  const own = `offer-${randomUUID()}`;
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const before = await tidy(dir);
    const work = await mkdtemp(join(dir, 'work-'));
    try {
      const chunks = createViewChunks({
        files,
        chunkSize,
        workers,
        maxMade: boundedConcurrency(Number.MAX_SAFE_INTEGER, chunkSize),
        onDamage: options.onDamage,
      });
      const offer = await makeOffer(options, { files, workers, concurrency, chunks, own, before, work });
      if (before !== undefined) await rm(join(dir, before), { recursive: true });
      return offer;
    } catch (error) {
      await rm(join(dir, own), { recursive: true, force: true });
      throw error;
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  } catch (error) {
    await workers.close();
    throw errnoOf(error) === undefined ? error : ioError(error, 'keep the offer in', dir);
  }
}

interface Parts {
  files: SourceFile[];
  workers: ChunkWorkers;
  concurrency: number;
  chunks: ViewChunks;
  /** Name of the folder of this offer's documents. */
  own: string;
  /** Name of that of the offer before. */
  before: string | undefined;
  /** For scratch files. */
  work: string;
}

async function makeOffer(options: OfferOptions, parts: Parts): Promise<Offer> {
  const { dir, channel, chunkSize, location, sequence, signal } = options;
  const { workers, chunks, own, work } = parts;
  const documents = createFileStore({ dir: join(dir, own) });
  const store = withMadeObjects(documents, chunks, { location });
  // Documents are put where they are kept, and chunks read from where everybody reads them.
  const repository: Repository = {
    ...(await openOrCreateRepository(documents, { chunkSize, signal })),
    sources: createSources({ stores: [store], rounds: 1 }),
  };
  const upload: UploadOptions = { ...options, repository, stateDir: dir };
  const indexPath = join(work, 'index.zst');
  const { digest, totals, readBytes } = await planView(upload, parts, indexPath);
  const published = await publish(upload, {
    clock: createClock(),
    indexPath,
    digest,
    totals,
    previous: undefined,
    floor: sequence - 1,
  });
  await prove({ ...upload, concurrency: PROVE_CONCURRENCY }, published);
  await promote(repository, published, signal);
  await remember(upload, indexPath, published.manifest);
  options.onEvent?.('offer.made', 'the view has its index and manifest', {
    channel,
    sequence: published.manifest.sequence,
    chunks: totals.chunks,
    readBytes,
  });
  return {
    store,
    repositoryId: repository.id,
    manifest: published.manifest,
    manifestSha256: published.sha256,
    readBytes,
    close: () => workers.close(),
  };
}

/** Hashes what is not known from the offer before, remembers where each chunk lies, and writes the index. */
async function planView(
  upload: UploadOptions,
  { files, workers, concurrency, chunks, before, work }: Parts,
  indexPath: string,
): Promise<StoreChunksResult> {
  const { chunkSize } = upload.repository;
  const known = createChunkTable();
  const base = before === undefined ? undefined : await loadBefore(upload, before, known, work);
  const placeOf = createPlacer(chunkSize);
  return storeChunks(workers, {
    files,
    chunkSize,
    indexPath,
    concurrency,
    known,
    unchanged:
      base === undefined
        ? () => undefined
        : await createUnchanged({ ...upload, repository: base }, workers, files, known),
    keep: async ({ sha256, length, kept }) => ({
      stored: { sha256, length, ...(await workers.run({ kind: 'measure', kept })) },
      added: 0,
    }),
    onChunk: (layout, { sha256 }) => chunks.add(sha256, placeOf(layout)),
    onProgress: upload.onProgress,
    signal: upload.signal,
  });
}

/**
 * The chunks of the offer before, so that of files that never change nothing is read again. It is a cache in this machine's own state folder: when it
 * does not fit, everything is read.
 */
async function loadBefore(
  upload: UploadOptions,
  before: string,
  known: ChunkTable,
  work: string,
): Promise<Repository | undefined> {
  const { repository, stateDir, signal } = upload;
  try {
    const base = await openRepository(createFileStore({ dir: join(stateDir, before) }), { signal });
    if (base.chunkSize !== repository.chunkSize) return undefined;
    const raw = {
      add: (chunk: StoredChunk): void => {
        if (chunk.storedSize === rawFrameLength(chunk.length)) known.add(chunk);
      },
    };
    const latest = (await readLatest(base, upload.channel, { signal }))?.document.sequence;
    if (latest === undefined) return undefined;
    const place = { base: latest, latest, stored: false };
    await loadPrevious({ ...upload, repository: base }, place, raw, join(work, 'before.zst'));
    return base;
  } catch (error) {
    if (!isPresyncError(error) || (error.exitCode !== 4 && error.exitCode !== 5)) throw error;
    upload.onEvent?.('offer.before_unusable', 'the last offer is of no help; everything is read', {
      reason: messageOf(error),
    });
    return undefined;
  }
}

/** Removes what killed processes have left, and gives the name of the last offer's folder, if there is one that is whole. */
async function tidy(dir: string): Promise<string | undefined> {
  const whole: string[] = [];
  for (const name of (await readdir(dir)).sort()) {
    if (SCRATCH.test(name)) await rm(join(dir, name), { recursive: true });
    if (!FOLDER.test(name)) continue;
    if ((await readdir(join(dir, name))).includes('channels')) whole.push(name);
    else await rm(join(dir, name), { recursive: true });
  }
  // Two are left by a process that was killed between making the second and removing the first; either will do.
  for (const name of whole.slice(1)) await rm(join(dir, name), { recursive: true });
  return whole[0];
}
