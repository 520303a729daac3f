import { mkdir, mkdtemp, rm, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { type ChunkLayout, compareFiles, planChunks } from '@presync/format/chunks';
import { createCodec, DEFAULT_LEVEL } from '@presync/format/codec';
import { sha256 as digestOf } from '@presync/format/digest';
import { encodeDocument } from '@presync/format/documents';
import { createIndexWriter, type IndexDigest, type StoredChunk } from '@presync/format/index-file';
import { MAX_CHUNK_OVERHEAD } from '@presync/format/limits';
import { encodeManifest, type Manifest } from '@presync/format/manifest';
import { repositoryKeys } from '@presync/format/paths';
import { type PrivateKey, sealEnvelope } from '@presync/format/signature';
import { isPresyncError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { createBufferPool } from './lib/buffers.ts';
import { putChunk } from './lib/chunk-objects.ts';
import { type ChunkTable, createChunkTable } from './lib/chunk-table.ts';
import { boundedConcurrency, mapOrdered } from './lib/concurrency.ts';
import { chunksOf } from './lib/local-index.ts';
import { readChunk } from './lib/read-chunk.ts';
import { loadSourceRecord, saveSourceRecord, sourceKey } from './lib/source-record.ts';
import {
  assertChannel,
  downloadIndex,
  type Repository,
  readLatest,
  resolveSnapshot,
  type Snapshot,
} from './repository.ts';
import type { SourceFile } from './source.ts';
import { verifySnapshot } from './verify.ts';

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
/** How long a writer's lease holds without renewal. */
const LEASE_MS = 24 * 60 * 60 * 1000;
/** Chunks taken from the record that are read anyway, to catch a file that changed although it must not. */
const RECHECKED_CHUNKS = 16;
/** Sequence numbers that are tried when others publish, or were killed half-way, in the same channel. */
const MAX_SEQUENCE_TRIES = 1000;

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

async function takeLease(
  { store }: Repository,
  channel: string,
  sequence: number | null,
  signal: AbortSignal,
): Promise<string> {
  const id = crypto.randomUUID();
  const now = Date.now();
  const key = repositoryKeys.lease('writer', id);
  const document = encodeDocument({
    presync: 'lease',
    version: 1,
    kind: 'writer',
    id,
    channel,
    sequence,
    holder: `${hostname()} ${process.pid}`.slice(0, 255),
    created: new Date(now).toISOString(),
    expires: new Date(now + LEASE_MS).toISOString(),
  });
  await store.put(key, document, { condition: { ifAbsent: true }, signal });
  return key;
}

/** Also after an abort, so with a signal of its own; a lease that cannot be dropped expires by itself. */
async function dropLease({ repository, onEvent }: UploadOptions, key: string): Promise<void> {
  try {
    await repository.store.remove(key, { signal: AbortSignal.timeout(10_000) });
  } catch (error) {
    onEvent?.('lease.not_dropped', 'the lease could not be dropped; it expires by itself', {
      key,
      reason: messageOf(error),
    });
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
  const { repository, signal } = options;
  const { store, chunkSize } = repository;
  const codec = await createCodec();
  const concurrency = boundedConcurrency(options.concurrency ?? DEFAULT_CONCURRENCY, chunkSize);
  const buffers = createBufferPool(chunkSize + MAX_CHUNK_OVERHEAD);
  const files = [...options.files].sort(compareFiles);
  const unchanged = await createUnchanged(options, files, known);
  const inFlight = new Map<string, Promise<{ stored: StoredChunk; added: number }>>();
  const counted = createChunkTable();
  const totals = { files: 0, chunks: 0, bytes: 0, unique: 0, stored: 0, added: 0 };
  let readBytes = 0;
  let addedChunks = 0;

  async function storeOne(
    layout: ChunkLayout<SourceFile>,
    abort: AbortSignal,
  ): Promise<{ layout: ChunkLayout<SourceFile>; chunk: StoredChunk }> {
    const skipped = unchanged(layout);
    if (skipped !== undefined) return { layout, chunk: skipped };
    return buffers.use(async (buffer) => {
      const plain = await readSource(layout, buffer, abort);
      readBytes += layout.length;
      const sha256 = await digestOf(plain);
      const before = known.get(sha256);
      if (before !== undefined) return { layout, chunk: before };
      const other = inFlight.get(sha256);
      if (other !== undefined) return { layout, chunk: (await other).stored };
      const task = putChunk(store, codec, { sha256, plain, level: options.level ?? DEFAULT_LEVEL }, abort);
      inFlight.set(sha256, task);
      try {
        const { stored, added } = await task;
        known.add(stored);
        totals.added += added;
        if (added > 0) addedChunks += 1;
        return { layout, chunk: stored };
      } finally {
        inFlight.delete(sha256);
      }
    });
  }

  const index = createIndexWriter(indexPath, { chunkSize });
  try {
    for await (const { layout, chunk } of mapOrdered(
      planChunks(files, chunkSize),
      { concurrency, signal },
      storeOne,
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

async function readSource(
  layout: ChunkLayout<SourceFile>,
  buffer: Buffer,
  signal: AbortSignal,
): Promise<Buffer> {
  const plain = await readChunk(layout, buffer, (file) => file.readPath, signal);
  if (plain !== undefined) return plain;
  const names = [...new Set(layout.segments.map(({ file }) => file.path))].slice(0, 3).join(', ');
  throw new PresyncError('NODE_CHANGED', `one of ${names} vanished or shrank while it was read`, {
    hint: 'nothing must write to a frozen view; with --pause none the node must be stopped',
  });
}

/**
 * Answers which chunks need not be read, from the last run's record. Some of them are read all the same; if one differs, the
 * record is not believed at all.
 */
async function createUnchanged(
  options: UploadOptions,
  files: SourceFile[],
  known: ChunkTable,
): Promise<(layout: ChunkLayout<SourceFile>) => StoredChunk | undefined> {
  const { repository, channel, databaseIdentity, signal } = options;
  const record = await loadSourceRecord(recordPath(options), { repositoryId: repository.id, channel });
  if (record === undefined) return () => undefined;
  const lookup = (layout: ChunkLayout<SourceFile>): StoredChunk | undefined => {
    const key = sourceKey(layout, databaseIdentity);
    const sha256 = key === undefined ? undefined : record.lookup(key);
    return sha256 === undefined ? undefined : known.get(sha256);
  };
  // Reservoir sampling: every candidate has the same chance, and the candidates need not be held.
  const sample: { layout: ChunkLayout<SourceFile>; sha256: string }[] = [];
  let candidates = 0;
  for (const layout of planChunks(files, repository.chunkSize)) {
    const chunk = lookup(layout);
    if (chunk === undefined) continue;
    candidates += 1;
    const place = candidates <= RECHECKED_CHUNKS ? candidates - 1 : Math.floor(Math.random() * candidates);
    if (place < RECHECKED_CHUNKS) sample[place] = { layout, sha256: chunk.sha256 };
  }
  const buffer = Buffer.allocUnsafeSlow(repository.chunkSize + MAX_CHUNK_OVERHEAD);
  for (const { layout, sha256 } of sample) {
    if ((await digestOf(await readSource(layout, buffer, signal))) === sha256) continue;
    options.onEvent?.('snapshot.record_wrong', 'a file changed that must not; everything is read', {
      files: [...new Set(layout.segments.map(({ file }) => file.path))].slice(0, 3),
    });
    return () => undefined;
  }
  return lookup;
}

interface Published {
  manifest: Manifest;
  sha256: string;
  size: number;
}

/** Puts index and manifest under the next free number. The index's create-only put decides who owns a number. */
async function publish(
  options: UploadOptions,
  {
    indexPath,
    digest,
    totals,
    previous,
    floor,
  }: {
    indexPath: string;
    digest: IndexDigest;
    totals: Manifest['totals'];
    previous: Snapshot | undefined;
    floor: number;
  },
): Promise<Published> {
  const { repository, channel, describe, keys, signal } = options;
  const { store } = repository;
  const created = new Date().toISOString();
  for (let tried = 1; tried <= MAX_SEQUENCE_TRIES; tried++) {
    const sequence = floor + tried;
    const index = { path: indexPath, size: digest.size };
    if (!(await putIfAbsent(store, repositoryKeys.index(channel, sequence), index, signal))) continue;
    const manifest: Manifest = {
      presync: 'manifest',
      format: { version: 1, minReader: 1, features: [] },
      repository: { id: repository.id, sha256: repository.sha256 },
      channel,
      sequence,
      previous:
        previous === undefined ? null : { sequence: previous.manifest.sequence, sha256: previous.sha256 },
      created,
      ...describe,
      totals,
      index: digest,
    };
    const bytes = sealEnvelope(encodeManifest(manifest), keys);
    if (!(await putIfAbsent(store, repositoryKeys.manifest(channel, sequence), bytes, signal))) continue;
    return { manifest, sha256: await digestOf(bytes), size: bytes.length };
  }
  throw new PresyncError(
    'STORE_FAILED',
    `no free sequence number after ${floor + MAX_SEQUENCE_TRIES} in channel ${channel}`,
    {
      hint: 'something fills the channel with unfinished snapshots; see "presync list"',
    },
  );
}

async function putIfAbsent(
  store: Repository['store'],
  key: string,
  body: Buffer | { path: string; size: number },
  signal: AbortSignal,
): Promise<boolean> {
  try {
    await store.put(key, body, { condition: { ifAbsent: true }, signal });
    return true;
  } catch (error) {
    if (isPresyncError(error, 'CONDITION_FAILED')) return false;
    throw error;
  }
}

/** Reads the snapshot back as an agent would. What fails here is never promoted. */
async function prove(options: UploadOptions, published: Published): Promise<void> {
  const mode = options.prove ?? 'sample';
  if (mode === 'none') return;
  const { repository, channel, keys, signal } = options;
  const { sequence } = published.manifest;
  const snapshot = await resolveSnapshot(repository, {
    channel,
    snapshot: sequence,
    trusted: keys.length > 0 ? keys : 'anybody',
    signal,
  });
  if (snapshot.sha256 !== published.sha256) {
    throw new PresyncError(
      'CONTENT_MISMATCH',
      `the manifest of ${channel}#${sequence} reads back differently than it was written`,
      {
        hint: 'the store does not keep what it is given; run "presync verify"',
      },
    );
  }
  const { problems } = await verifySnapshot({
    repository,
    manifest: snapshot.manifest,
    scope: mode,
    scratchDir: options.stateDir,
    concurrency: options.concurrency,
    signal,
  });
  const [first] = problems;
  if (first !== undefined) {
    throw new PresyncError(first.code, `${channel}#${sequence} was not promoted: ${first.message}`, {
      hint: 'the snapshot stays unpromoted; find out why the store lost or changed an object, then take another',
    });
  }
}

/** Moves `latest` forward, never back. */
async function promote(
  repository: Repository,
  { manifest, sha256, size }: Published,
  signal: AbortSignal,
): Promise<boolean> {
  const { channel, sequence } = manifest;
  const document = encodeDocument({
    presync: 'latest',
    version: 1,
    channel,
    sequence,
    manifest: { size, sha256 },
  });
  for (;;) {
    throwIfAborted(signal);
    const current = await readLatest(repository, channel, { signal });
    if (current !== undefined && current.document.sequence >= sequence)
      return current.document.manifest.sha256 === sha256;
    try {
      const condition =
        current === undefined ? ({ ifAbsent: true } as const) : { ifVersion: current.version };
      await repository.store.put(repositoryKeys.latest(channel), document, { condition, signal });
      return true;
    } catch (error) {
      if (!isPresyncError(error, 'CONDITION_FAILED')) throw error;
    }
  }
}

function recordPath({ stateDir, channel }: UploadOptions): string {
  return join(stateDir, `source-${channel.replace('/', '-')}.record`);
}

/** Writes what was read, for the next run. Taking and giving back a hard link changes a file's ctime, so its stat is taken anew. */
async function remember(options: UploadOptions, indexPath: string, manifest: Manifest): Promise<void> {
  const { repository, channel, databaseIdentity, signal } = options;
  async function* rows(): AsyncGenerator<{ key: Buffer; sha256: string }> {
    const files = [...options.files].sort(compareFiles);
    for (const file of files) {
      if (file.class === 'immutable') file.identity = await currentIdentity(file);
    }
    const layouts = planChunks(files, repository.chunkSize);
    for await (const chunk of chunksOf(repository, manifest, indexPath, signal)) {
      const { value } = layouts.next();
      const key = value === undefined ? undefined : sourceKey(value, databaseIdentity);
      if (key !== undefined) yield { key, sha256: chunk.sha256 };
    }
  }
  try {
    await saveSourceRecord(recordPath(options), { repositoryId: repository.id, channel }, rows());
  } catch (error) {
    // The snapshot is complete; without the record the next one only takes longer.
    options.onEvent?.('snapshot.record_not_saved', 'the next snapshot will read everything', {
      reason: messageOf(error),
    });
  }
}

/** An identity that matches nothing, for a file that changed or went since it was frozen. */
const GONE = { dev: -1n, ino: -1n, mtimeNs: -1n, ctimeNs: -1n };

async function currentIdentity(file: SourceFile): Promise<SourceFile['identity']> {
  try {
    const now = await stat(file.sourcePath, { bigint: true });
    const same =
      now.ino === file.identity.ino &&
      now.mtimeNs === file.identity.mtimeNs &&
      Number(now.size) === file.size;
    return same ? { dev: now.dev, ino: now.ino, mtimeNs: now.mtimeNs, ctimeNs: now.ctimeNs } : GONE;
  } catch {
    return GONE;
  }
}
