import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type ChunkLayout, compareFiles, planChunks } from '@presync/format/chunks';
import { DEFAULT_LEVEL } from '@presync/format/codec';
import { createIndexWriter, type IndexDigest, type StoredChunk } from '@presync/format/index-file';
import type { Manifest } from '@presync/format/manifest';
import type { PrivateKey } from '@presync/format/signature';
import { isPresyncError, throwIfAborted } from '@presync/runtime/errors';
import { putChunk } from './lib/chunk-objects.ts';
import { type ChunkTable, createChunkTable } from './lib/chunk-table.ts';
import { type ChunkWorkers, createChunkWorkers } from './lib/chunk-workers.ts';
import { boundedConcurrency, mapOrdered } from './lib/concurrency.ts';
import { dropLease, takeLease } from './lib/lease.ts';
import { chunksOf } from './lib/local-index.ts';
import { promote, prove, publish } from './lib/publish.ts';
import { readSource } from './lib/read-source.ts';
import { createUnchanged, remember } from './lib/source-reuse.ts';
import {
  assertChannel,
  downloadIndex,
  type Repository,
  readLatest,
  resolveSnapshot,
  type Snapshot,
} from './repository.ts';
import type { SourceFile } from './source.ts';

/** Everything of the manifest that the pipeline does not find out itself. */
export type SnapshotDescription = Pick<Manifest, 'chain' | 'node' | 'pause' | 'expires'>;

/** How much of a new snapshot is read back before `latest` moves: nothing, a sample of its chunks, or all of them. */
export type ProveMode = 'none' | 'sample' | 'full';

export interface UploadOptions {
  repository: Repository;
  channel: string;
  /** The frozen view's files, in any order. */
  files: SourceFile[];
  /** Tells a database from one that was made anew. */
  databaseIdentity: string;
  describe: SnapshotDescription;
  /** All of them sign. None makes an unsigned snapshot. */
  keys: readonly PrivateKey[];
  /** Holds the record of what was read, and scratch files while the snapshot is taken. */
  stateDir: string;
  level?: number | undefined;
  concurrency?: number | undefined;
  prove?: ProveMode | undefined;
  /** Called as soon as no more is read from the view, so that its room is given back early. */
  onRead?: (() => Promise<void>) | undefined;
  onProgress?: ((bytes: number) => void) | undefined;
  onEvent?:
    | ((event: `${string}.${string}`, message: string, details: Record<string, unknown>) => void)
    | undefined;
  signal: AbortSignal;
}

export interface UploadResult {
  manifest: Manifest;
  manifestSha256: string;
  /** Bytes of files that were read; the others were known unchanged. */
  readBytes: number;
  /** Objects that were put, index and manifest not counted. */
  addedChunks: number;
  /** False when a later snapshot of another writer is already the newest. */
  promoted: boolean;
}

const DEFAULT_CONCURRENCY = 8;

/**
 * Stores a frozen view as the channel's next snapshot: chunks, index, manifest, and, once it is proved, `latest`. Nothing that a manifest names is
 * missing at any instant: a process that is killed leaves chunks that nobody names, or a snapshot that is complete and not promoted.
 */
export async function uploadSnapshot(options: UploadOptions): Promise<UploadResult> {
  const { repository, signal } = options;
  const channel = assertChannel(options.channel);
  await mkdir(options.stateDir, { recursive: true, mode: 0o700 });
  const scratch = await mkdtemp(join(options.stateDir, 'snapshot-'));
  let lease: string | undefined;
  try {
    const latest = await readLatest(repository, channel, { signal });
    lease = await takeLease(repository, channel, latest?.document.sequence ?? null, signal);
    const known = createChunkTable();
    const previous =
      latest === undefined ? undefined : await loadPrevious(options, known, join(scratch, 'previous.zst'));

    const indexPath = join(scratch, 'index.zst');
    const stored = await storeChunks(options, known, indexPath);
    await options.onRead?.();

    const published = await publish(options, {
      indexPath,
      digest: stored.digest,
      totals: stored.totals,
      previous,
      floor: latest?.document.sequence ?? 0,
    });
    options.onEvent?.('snapshot.published', 'the snapshot is stored', {
      channel,
      sequence: published.manifest.sequence,
    });
    await prove(options, published);
    const promoted = await promote(repository, published, signal);
    options.onEvent?.(
      promoted ? 'snapshot.promoted' : 'snapshot.superseded',
      promoted ? 'the snapshot is the newest' : 'a later snapshot is the newest already',
      {
        channel,
        sequence: published.manifest.sequence,
      },
    );
    await remember(options, indexPath, published.manifest);
    return {
      manifest: published.manifest,
      manifestSha256: published.sha256,
      readBytes: stored.readBytes,
      addedChunks: stored.addedChunks,
      promoted,
    };
  } finally {
    await rm(scratch, { recursive: true, force: true });
    if (lease !== undefined) await dropLease(options, lease);
  }
}

/** Fills `known` from the newest snapshot, if that one is sound and, where this writer signs, signed by one of its keys. */
async function loadPrevious(
  options: UploadOptions,
  known: ChunkTable,
  indexPath: string,
): Promise<Snapshot | undefined> {
  const { repository, channel, keys, signal } = options;
  const previous = await resolveSnapshot(repository, {
    channel,
    snapshot: 'latest',
    trusted: 'anybody',
    allowExpired: true,
    signal,
  });
  try {
    await resolveSnapshot(repository, {
      channel,
      snapshot: previous.manifest.sequence,
      trusted: keys.length > 0 ? keys : 'anybody',
      allowExpired: true,
      signal,
    });
    await downloadIndex(repository, previous.manifest, indexPath, { signal });
    for await (const chunk of chunksOf(repository, previous.manifest, indexPath, signal)) known.add(chunk);
  } catch (error) {
    if (!isPresyncError(error) || error.exitCode !== 4) throw error;
    // A snapshot that cannot be trusted is not built upon; everything is then offered to the store anew.
    options.onEvent?.(
      'snapshot.previous_unusable',
      'the newest snapshot cannot be built upon; everything is offered anew',
      {
        sequence: previous.manifest.sequence,
        code: error.code,
        reason: error.message,
      },
    );
  }
  return previous;
}

interface StoreResult {
  digest: IndexDigest;
  totals: Manifest['totals'];
  readBytes: number;
  addedChunks: number;
}

/** Reads, hashes, compresses, proves and puts what is new, and writes the index. */
async function storeChunks(
  options: UploadOptions,
  known: ChunkTable,
  indexPath: string,
): Promise<StoreResult> {
  const concurrency = boundedConcurrency(
    options.concurrency ?? DEFAULT_CONCURRENCY,
    options.repository.chunkSize,
  );
  const workers = createChunkWorkers({ concurrency });
  try {
    return await storeWith(workers, options, { known, indexPath, concurrency });
  } finally {
    await workers.close();
  }
}

async function storeWith(
  workers: ChunkWorkers,
  options: UploadOptions,
  { known, indexPath, concurrency }: { known: ChunkTable; indexPath: string; concurrency: number },
): Promise<StoreResult> {
  const { repository, signal, level = DEFAULT_LEVEL } = options;
  const { store, chunkSize } = repository;
  const files = [...options.files].sort(compareFiles);
  const unchanged = await createUnchanged(options, workers, files, known);
  const inFlight = new Map<string, Promise<{ stored: StoredChunk; added: number }>>();
  const counted = createChunkTable();
  const totals = { files: 0, chunks: 0, bytes: 0, unique: 0, stored: 0, added: 0 };
  let readBytes = 0;
  let addedChunks = 0;

  async function chunkOf(layout: ChunkLayout<SourceFile>, abort: AbortSignal): Promise<StoredChunk> {
    const skipped = unchanged(layout);
    if (skipped !== undefined) return skipped;
    throwIfAborted(abort);
    const { sha256, kept } = await readSource(workers, layout);
    readBytes += layout.length;
    const before = known.get(sha256) ?? inFlight.get(sha256);
    if (before !== undefined) {
      await workers.run({ kind: 'drop', kept });
      return 'sha256' in before ? before : (await before).stored;
    }
    const task = putChunk(store, workers, { sha256, length: layout.length, kept }, { level, signal: abort });
    inFlight.set(sha256, task);
    try {
      const { stored, added } = await task;
      known.add(stored);
      totals.added += added;
      if (added > 0) addedChunks += 1;
      return stored;
    } finally {
      inFlight.delete(sha256);
    }
  }

  const index = createIndexWriter(indexPath, { chunkSize });
  try {
    const work = async (layout: ChunkLayout<SourceFile>, abort: AbortSignal) => ({
      layout,
      chunk: await chunkOf(layout, abort),
    });
    for await (const { layout, chunk } of mapOrdered(
      planChunks(files, chunkSize),
      { concurrency, signal },
      work,
    )) {
      for (const file of layout.begins) await index.file(file);
      await index.chunk(chunk);
      if (counted.get(chunk.sha256) === undefined) {
        counted.add(chunk);
        totals.unique += chunk.length;
        totals.stored += chunk.storedSize;
      }
      options.onProgress?.(layout.length);
    }
    const { digest, totals: indexed } = await index.finish();
    return { digest, totals: { ...totals, ...indexed }, readBytes, addedChunks };
  } catch (error) {
    await index.abort();
    throw error;
  }
}
