import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { compareFiles } from '@presync/format/chunks';
import { DEFAULT_LEVEL } from '@presync/format/codec';
import type { Manifest } from '@presync/format/manifest';
import { repositoryKeys } from '@presync/format/paths';
import type { PrivateKey } from '@presync/format/signature';
import { type Clock, createClock } from './clock.ts';
import type { OnEvent } from './events.ts';
import { putChunk } from './lib/chunk-objects.ts';
import { type ChunkTable, createChunkTable } from './lib/chunk-table.ts';
import { type ChunkWorkers, createChunkWorkers } from './lib/chunk-workers.ts';
import { boundedConcurrency } from './lib/concurrency.ts';
import { createConfirmations } from './lib/confirm-stored.ts';
import { type Lease, takeLease } from './lib/lease.ts';
import { loadPrevious } from './lib/previous.ts';
import { promote, prove, publish } from './lib/publish.ts';
import { loadTombstones, type Tombstones } from './lib/rescue.ts';
import { createUnchanged, remember } from './lib/source-reuse.ts';
import { type StoreChunksResult, storeChunks } from './lib/store-chunks.ts';
import { assertChannel, type Repository, readLatest, type Snapshot } from './repository.ts';
import type { SourceFile } from './source.ts';

/** Everything of the manifest that the pipeline does not find out itself. */
export type SnapshotDescription = Pick<Manifest, 'chain' | 'node' | 'pause' | 'expires'>;

/** How much of a new snapshot is read back before `latest` moves: nothing, a sample of its chunks, or all of them. */
export type ProveMode = 'none' | 'sample' | 'full';

/** A proof that needs more than the store, as a node that opens the copy. */
export interface FurtherProof {
  /** What it consists of, for `proof.json`. */
  readonly checks: readonly string[];
  /** Rejects with an error of exit code 4 when the snapshot is bad, and with any other when that could not be found out. */
  run(snapshot: Snapshot): Promise<void>;
}

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
  /** What else must hold before `latest` moves. */
  proof?: FurtherProof | undefined;
  /** Called as soon as no more is read from the view, so that its room is given back early. */
  onRead?: (() => Promise<void>) | undefined;
  onProgress?: ((bytes: number) => void) | undefined;
  onEvent?: OnEvent | undefined;
  /** Default: this machine's. */
  clock?: Clock | undefined;
  /** Default: threads. */
  createWorkers?: ((options: { concurrency: number }) => ChunkWorkers) | undefined;
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
 * missing at any instant: a process that is killed leaves chunks that nobody names, or a snapshot that is complete and not promoted. A lease
 * keeps collectors from removing what the snapshot relies on; when it is lost, the snapshot ends with LEASE_LOST.
 */
export async function uploadSnapshot(options: UploadOptions): Promise<UploadResult> {
  const { repository, onEvent, signal, clock = createClock() } = options;
  const { store } = repository;
  const channel = assertChannel(options.channel);
  await mkdir(options.stateDir, { recursive: true, mode: 0o700 });
  const scratch = await mkdtemp(join(options.stateDir, 'snapshot-'));
  try {
    const base = (await readLatest(repository, channel, { signal }))?.document.sequence ?? null;
    const lease = await takeLease({ store, kind: 'writer', channel, sequence: base, clock, onEvent, signal });
    try {
      return await uploadUnderLease(
        { ...options, signal: AbortSignal.any([signal, lease.lost]) },
        { lease, base, clock, scratch },
      );
    } finally {
      await lease.drop();
    }
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function uploadUnderLease(
  options: UploadOptions,
  { lease, base, clock, scratch }: { lease: Lease; base: number | null; clock: Clock; scratch: string },
): Promise<UploadResult> {
  const { repository, channel, signal } = options;
  const { store } = repository;
  // All three after the lease is there: what a collector does from now on, it does with the lease in sight.
  const floor = (await readLatest(repository, channel, { signal }))?.document.sequence ?? 0;
  const tombstones = await loadTombstones({ store, clock, onEvent: options.onEvent, signal });
  const known = createChunkTable();
  const previous =
    base === null
      ? undefined
      : await loadPrevious(options, { base, latest: floor }, known, join(scratch, 'previous.zst'));

  const indexPath = join(scratch, 'index.zst');
  const stored = await storeView(options, known, tombstones, indexPath);
  await options.onRead?.();

  const { digest, totals } = stored;
  const published = await publish(options, { lease, clock, indexPath, digest, totals, previous, floor });
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
}

/** Reads, hashes, compresses, proves and puts what is new, looks whether it is there, and writes the index. */
async function storeView(
  options: UploadOptions,
  known: ChunkTable,
  tombstones: Tombstones,
  indexPath: string,
): Promise<StoreChunksResult> {
  const { repository, signal, level = DEFAULT_LEVEL, createWorkers = createChunkWorkers } = options;
  const { store, chunkSize } = repository;
  const concurrency = boundedConcurrency(options.concurrency ?? DEFAULT_CONCURRENCY, chunkSize);
  const files = [...options.files].sort(compareFiles);
  const workers = createWorkers({ concurrency });
  const confirmations = createConfirmations(store, signal, options.clock);
  try {
    const result = await storeChunks(workers, {
      files,
      chunkSize,
      indexPath,
      concurrency,
      known,
      unchanged: await createUnchanged(options, workers, files, known),
      keep: async (chunk, abort) => {
        await tombstones.rescue(chunk.sha256, abort);
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
