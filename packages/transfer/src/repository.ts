import { randomUUID } from 'node:crypto';
import { open, rm } from 'node:fs/promises';
import { createSha256, sha256 as digestOf } from '@presync/format/digest';
import {
  encodeDocument,
  isChunkSize,
  type LatestDocument,
  parseLatest,
  parseRepository,
} from '@presync/format/documents';
import { MAX_DOCUMENT_SIZE } from '@presync/format/limits';
import { checkManifest, type Manifest, parseManifest } from '@presync/format/manifest';
import { isChannel, repositoryKeys } from '@presync/format/paths';
import { openEnvelope, type PublicKey } from '@presync/format/signature';
import { isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { CHECKS_PREFIX } from '@presync/store/keys';
import type { ObjectStore } from '@presync/store/object-store';
import { createSources, type Sources } from '@presync/store/sources';
import { readAgain } from './lib/read-again.ts';

/** An opened repository. */
export interface Repository {
  readonly store: ObjectStore;
  /** Where chunks are read from: the store, and whatever else has the same objects. */
  readonly sources: Sources;
  /** Stores with the same objects, to turn to when the index that the store gives is none. */
  readonly mirrors: readonly ObjectStore[];
  readonly id: string;
  /** SHA-256 of `presync.json`. */
  readonly sha256: string;
  /** Bytes. */
  readonly chunkSize: number;
}

/** 4 MiB: see `docs/decisions` for the measurement. */
export const DEFAULT_CHUNK_SIZE = 4 * 1024 * 1024;

export interface OpenRepositoryOptions {
  /** Default: the store alone, which is taken to ask again by itself (`withRetry`). */
  sources?: Sources | undefined;
  mirrors?: readonly ObjectStore[] | undefined;
  signal: AbortSignal;
}

/** Opens the repository at a store. REPOSITORY_NOT_FOUND when there is none. */
export async function openRepository(
  store: ObjectStore,
  { sources = createSources({ stores: [store], rounds: 1 }), mirrors = [], signal }: OpenRepositoryOptions,
): Promise<Repository> {
  const key = repositoryKeys.repository;
  const { bytes, document } = await readAgain(signal, async () => {
    const found = await readIfPresent(store, key, signal);
    if (found === undefined) {
      throw new PresyncError(
        'REPOSITORY_NOT_FOUND',
        `${store.location} is no presync repository: it has no ${key}`,
        {
          hint: 'check --store; a repository is made by the first "presync snapshot"',
        },
      );
    }
    return { bytes: found, document: parseRepository(found, `${key} at ${store.location}`) };
  });
  return {
    store,
    sources,
    mirrors,
    id: document.id,
    sha256: await digestOf(bytes),
    chunkSize: document.chunkSize,
  };
}

/**
 * Throws unless the store holds a repository that can be opened, or nothing at all (STORE_OCCUPIED). Writes nothing. A folder that is not there
 * yet passes, since the first put makes it.
 */
export async function assertRepositoryOrEmpty(
  store: ObjectStore,
  { signal }: { signal: AbortSignal },
): Promise<void> {
  try {
    await openRepository(store, { signal });
  } catch (error) {
    if (isPresyncError(error, 'STORE_NOT_FOUND')) return;
    if (!isPresyncError(error, 'REPOSITORY_NOT_FOUND')) throw error;
    await assertEmpty(store, signal);
  }
}

/**
 * Opens the repository, or makes one in an empty store. A store prefix that holds something else is STORE_OCCUPIED. When two make one
 * at the same time, one wins and both use it.
 */
export async function openOrCreateRepository(
  store: ObjectStore,
  { chunkSize = DEFAULT_CHUNK_SIZE, signal }: { chunkSize?: number | undefined; signal: AbortSignal },
): Promise<Repository> {
  try {
    return await openRepository(store, { signal });
  } catch (error) {
    if (!isPresyncError(error, 'REPOSITORY_NOT_FOUND') && !isPresyncError(error, 'STORE_NOT_FOUND'))
      throw error;
    // A missing folder is made by the first put; a missing bucket fails there again.
    if (isPresyncError(error, 'REPOSITORY_NOT_FOUND')) await assertEmpty(store, signal);
  }
  if (!isChunkSize(chunkSize)) {
    throw new PresyncError('CONFIG_INVALID', `a chunk size of ${chunkSize} bytes is not possible`, {
      hint: 'choose a power of two from 64KiB to 64MiB',
    });
  }
  const document = encodeDocument({
    presync: 'repository',
    version: 1,
    id: randomUUID(),
    chunkSize,
    created: new Date().toISOString(),
  });
  try {
    await store.put(repositoryKeys.repository, document, { condition: { ifAbsent: true }, signal });
  } catch (error) {
    if (!isPresyncError(error, 'CONDITION_FAILED')) throw error;
  }
  return openRepository(store, { signal });
}

async function assertEmpty(store: ObjectStore, signal: AbortSignal): Promise<void> {
  for await (const { key } of store.list('', { signal })) {
    // What a killed probe of conditional writes or a check left behind is presync's own.
    if (key.startsWith('probes/') || key.startsWith(CHECKS_PREFIX) || key === repositoryKeys.repository)
      continue;
    throw new PresyncError('STORE_OCCUPIED', `${store.location} holds ${key}, and is no presync repository`, {
      hint: 'give presync a prefix of its own, as s3://bucket/presync',
    });
  }
}

/** The channel's newest snapshot, or undefined when it has none. */
export function readLatest(
  repository: Repository,
  channel: string,
  { signal }: { signal: AbortSignal },
): Promise<{ document: LatestDocument; version: string } | undefined> {
  return readAgain(signal, () => readPointer(repository, channel, signal));
}

async function readPointer(
  { store }: Repository,
  channel: string,
  signal: AbortSignal,
): Promise<{ document: LatestDocument; version: string } | undefined> {
  const key = repositoryKeys.latest(assertChannel(channel));
  try {
    const { bytes, version } = await store.read(key, { maxBytes: MAX_DOCUMENT_SIZE, signal });
    const document = parseLatest(bytes, `${key} at ${store.location}`);
    if (document.channel !== channel) {
      throw new PresyncError(
        'MANIFEST_CORRUPT',
        `${key} is of channel ${document.channel}: it was moved or replayed`,
        {
          hint: 'do not use this channel; find out who wrote to the repository',
        },
      );
    }
    return { document, version };
  } catch (error) {
    if (isPresyncError(error, 'OBJECT_NOT_FOUND')) return undefined;
    throw tooLargeIsInvalid(error, key);
  }
}

/** A manifest that was read, trusted and checked. */
export interface Snapshot {
  manifest: Manifest;
  /** SHA-256 and size of `manifest.json`. */
  sha256: string;
  size: number;
  /** Trusted keys that signed it. */
  trustedBy: string[];
  signedBy: string[];
}

export interface ResolveOptions {
  channel: string;
  snapshot: 'latest' | number;
  trusted: readonly PublicKey[] | 'anybody';
  genesisHash?: string | undefined;
  /** What this machine has accepted from the channel before. A snapshot that was asked for by number may be older. */
  seen?: { sequence: number; sha256: string } | undefined;
  now?: Date | undefined;
  /** Accept a manifest past its expiry; only for looking, never for restoring. */
  allowExpired?: boolean | undefined;
  signal: AbortSignal;
}

/** Finds a snapshot, verifies its manifest's signatures and checks that it is the one that was asked for. */
export function resolveSnapshot(repository: Repository, options: ResolveOptions): Promise<Snapshot> {
  return readAgain(options.signal, () => resolve(repository, options));
}

async function resolve(repository: Repository, options: ResolveOptions): Promise<Snapshot> {
  const { channel, signal, seen } = options;
  assertChannel(channel);
  const byPointer = options.snapshot === 'latest';
  const latest = byPointer ? await readPointer(repository, channel, signal) : undefined;
  if (byPointer && latest === undefined) {
    const channels = await firstChannels(repository, signal);
    throw new PresyncError('CHANNEL_NOT_FOUND', `${repository.store.location} has no channel ${channel}`, {
      hint:
        channels.length > 0
          ? `give one of these with --channel: ${channels.join(', ')}`
          : 'take a snapshot first',
    });
  }
  const sequence = latest?.document.sequence ?? Number(options.snapshot);
  const key = repositoryKeys.manifest(channel, sequence);
  const bytes = await readIfPresent(repository.store, key, signal);
  if (bytes === undefined) {
    throw latest === undefined
      ? new PresyncError('SNAPSHOT_NOT_FOUND', `channel ${channel} has no snapshot ${sequence}`, {
          hint: 'see "presync list"',
        })
      : new PresyncError('MANIFEST_CORRUPT', `${key}, which latest.json names, is missing`, {
          hint: 'restore an older snapshot by its number (see "presync list"), and find out who deleted the manifest',
        });
  }
  const sha256 = await digestOf(bytes);
  if (
    latest !== undefined &&
    (latest.document.manifest.sha256 !== sha256 || latest.document.manifest.size !== bytes.length)
  ) {
    throw new PresyncError('MANIFEST_CORRUPT', `${key} is not the manifest that latest.json names`, {
      hint: 'the manifest or the pointer was changed; find out who wrote to the repository',
    });
  }
  const { payload, trustedBy, signedBy } = openEnvelope(bytes, options.trusted, key);
  const manifest = parseManifest(payload, key);
  if (seen !== undefined && seen.sequence === sequence && seen.sha256 !== sha256) {
    throw new PresyncError(
      'MANIFEST_ROLLED_BACK',
      `${key} is not the manifest that this machine saw under the same number before`,
      {
        hint: 'find out who rewrote the repository',
      },
    );
  }
  const now = options.now ?? new Date();
  checkManifest(options.allowExpired === true ? { ...manifest, expires: null } : manifest, {
    now,
    repository,
    channel,
    sequence,
    sequenceFloor: byPointer ? (seen?.sequence ?? 0) : 0,
    genesisHash: options.genesisHash,
  });
  return { manifest, sha256, size: bytes.length, trustedBy, signedBy };
}

async function firstChannels(repository: Repository, signal: AbortSignal): Promise<string[]> {
  const found: string[] = [];
  if (!repository.store.traits.listable) return found;
  for await (const channel of listChannels(repository, { signal })) {
    found.push(channel);
    if (found.length >= 10) break;
  }
  return found;
}

/** The channels that have a newest snapshot, in order. */
export async function* listChannels(
  { store }: Repository,
  { signal }: { signal: AbortSignal },
): AsyncGenerator<string> {
  for await (const { key } of store.list(repositoryKeys.channels, { signal })) {
    const channel = /^channels\/(.+)\/latest\.json$/.exec(key)?.[1];
    if (channel !== undefined && isChannel(channel)) yield channel;
  }
}

/** Snapshots that have a manifest, by number. A listing of manifests is short: a channel's retention bounds it. */
export async function listSequences(
  { store }: Repository,
  channel: string,
  { signal }: { signal: AbortSignal },
): Promise<number[]> {
  const prefix = repositoryKeys.snapshots(assertChannel(channel));
  const sequences: number[] = [];
  for await (const { key } of store.list(prefix, { signal })) {
    const sequence = /^([1-9][0-9]{0,14})\/manifest\.json$/.exec(key.slice(prefix.length))?.[1];
    if (sequence !== undefined) sequences.push(Number(sequence));
  }
  return sequences.sort((a, b) => a - b);
}

/** Bytes of an index that are asked for at a time. */
const INDEX_RANGE = 8 * 1024 * 1024;

/** Copies a snapshot's index into a new file, and proves that it is the one that the manifest names (INDEX_CORRUPT). */
export async function downloadIndex(
  { store, mirrors }: Repository,
  manifest: Manifest,
  path: string,
  { signal }: { signal: AbortSignal },
): Promise<void> {
  const failures: unknown[] = [];
  for (const place of [store, ...mirrors]) {
    try {
      await readAgain(signal, async () => {
        await rm(path, { force: true });
        await downloadFrom(place, manifest, path, signal);
      });
      return;
    } catch (error) {
      await rm(path, { force: true });
      throwIfAborted(signal);
      if (!isPresyncError(error) || (error.exitCode !== 4 && error.exitCode !== 7)) throw error;
      failures.push(error);
    }
  }
  throw failures[0];
}

async function downloadFrom(
  store: ObjectStore,
  manifest: Manifest,
  path: string,
  signal: AbortSignal,
): Promise<void> {
  const key = repositoryKeys.index(manifest.channel, manifest.sequence);
  const corrupt = (why: string, cause?: unknown): PresyncError =>
    new PresyncError('INDEX_CORRUPT', `${key} ${why}`, {
      cause,
      hint: 'restore another snapshot; this one has lost its index',
    });
  const digest = createSha256();
  const { size } = manifest.index;
  const file = await open(path, 'wx', 0o600);
  try {
    for (let offset = 0; offset < size; ) {
      const length = Math.min(INDEX_RANGE, size - offset);
      const part = await store.read(key, { range: { offset, length }, maxBytes: length, signal });
      if (part.size !== size || part.bytes.length !== length)
        throw corrupt(`is ${part.size} bytes long, and the manifest says ${size}`);
      digest.update(part.bytes);
      await file.write(part.bytes, 0, length, offset);
      offset += length;
    }
  } catch (error) {
    throw isPresyncError(error, 'OBJECT_NOT_FOUND') ? corrupt('is missing', error) : error;
  } finally {
    await file.close();
  }
  if (digest.digest() !== manifest.index.sha256)
    throw corrupt('is not what the manifest says: its SHA-256 differs');
}

/** Throws CONFIG_INVALID unless it has the form of a channel. */
export function assertChannel(channel: string): string {
  if (isChannel(channel)) return channel;
  throw new PresyncError('CONFIG_INVALID', `${JSON.stringify(channel)} is not a channel`, {
    hint: 'a channel is <chain spec id>/<profile>, as polkadot/paritydb-archive',
  });
}

async function readIfPresent(
  store: ObjectStore,
  key: string,
  signal: AbortSignal,
): Promise<Uint8Array | undefined> {
  try {
    return (await store.read(key, { maxBytes: MAX_DOCUMENT_SIZE, signal })).bytes;
  } catch (error) {
    if (isPresyncError(error, 'OBJECT_NOT_FOUND')) return undefined;
    throw tooLargeIsInvalid(error, key);
  }
}

/** A document that is too large to be one is damage to the repository, not a failure of the store. */
function tooLargeIsInvalid(error: unknown, key: string): unknown {
  if (!isPresyncError(error, 'OBJECT_TOO_LARGE')) return error;
  return new PresyncError(
    'FORMAT_INVALID',
    `${key} does not follow the format: it is larger than ${MAX_DOCUMENT_SIZE} bytes`,
    {
      cause: error,
      hint: 'the object was not written by presync; find out who wrote to the repository',
    },
  );
}
