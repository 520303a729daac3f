import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { compareFiles } from '@presync/format/chunks';
import { DEFAULT_LEVEL } from '@presync/format/codec';
import type { Manifest } from '@presync/format/manifest';
import { repositoryKeys } from '@presync/format/paths';
import type { PrivateKey } from '@presync/format/signature';
import type { EventName } from '@presync/runtime/events';
import { putChunk } from './lib/chunk-objects.ts';
import { type ChunkTable, createChunkTable } from './lib/chunk-table.ts';
import { createChunkWorkers } from './lib/chunk-workers.ts';
import { boundedConcurrency } from './lib/concurrency.ts';
import { createConfirmations } from './lib/confirm-stored.ts';
import { dropLease, takeLease } from './lib/lease.ts';
import { loadPrevious } from './lib/previous.ts';
import { promote, prove, publish } from './lib/publish.ts';
import { createUnchanged, remember } from './lib/source-reuse.ts';
import { type StoreChunksResult, storeChunks } from './lib/store-chunks.ts';
import { assertChannel, type Repository, readLatest } from './repository.ts';
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
  onEvent?: ((event: EventName, message: string, details: Record<string, unknown>) => void) | undefined;
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

/** Chunks that are read at a time. */
export const DEFAULT_CONCURRENCY = 8;

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
    const stored = await storeView(options, known, indexPath);
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

/** Reads, hashes, compresses, proves and puts what is new, looks whether it is there, and writes the index. */
async function storeView(
  options: UploadOptions,
  known: ChunkTable,
  indexPath: string,
): Promise<StoreChunksResult> {
  const { repository, signal, level = DEFAULT_LEVEL } = options;
  const { store, chunkSize } = repository;
  const concurrency = boundedConcurrency(options.concurrency ?? DEFAULT_CONCURRENCY, chunkSize);
  const files = [...options.files].sort(compareFiles);
  const workers = createChunkWorkers({ concurrency });
  const confirmations = createConfirmations(store, signal);
  try {
    const result = await storeChunks(workers, {
      files,
      chunkSize,
      indexPath,
      concurrency,
      known,
      unchanged: await createUnchanged(options, workers, files, known),
      keep: async (chunk, abort) => {
        const kept = await putChunk(store, workers, chunk, { level, signal: abort });
        if (kept.added > 0) await confirmations.add(repositoryKeys.chunk(chunk.sha256), kept.added);
        return kept;
      },
      onProgress: options.onProgress,
      signal,
    });
    await confirmations.all();
    return result;
  } finally {
    await confirmations.stop();
    await workers.close();
  }
}
