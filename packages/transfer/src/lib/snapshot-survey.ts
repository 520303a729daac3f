import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isChannel, repositoryKeys } from '@presync/format/paths';
import { isPresyncError, throwIfAborted } from '@presync/runtime/errors';
import { quarantineOf, readProof } from '../proof.ts';
import { downloadIndex, type Repository, readLatest, resolveSnapshot, type Snapshot } from '../repository.ts';
import { forEachConcurrent } from './concurrency.ts';
import type { Fingerprints } from './fingerprints.ts';
import { chunksOf } from './local-index.ts';
import type { NamedCache } from './named-cache.ts';

/** What lies under a snapshot's prefix. */
export interface SurveyedSnapshot {
  channel: string;
  sequence: number;
  /** The index, where there is one. */
  index: { key: string; size: number } | undefined;
  hasManifest: boolean;
  hasProof: boolean;
  /** True when it has not passed the proof that its writer set out to make. */
  isQuarantined: boolean;
  /** Undefined without a manifest, or when it cannot be read: `problem` then says why. */
  manifest: Snapshot['manifest'] | undefined;
  problem: string | undefined;
}

export interface SurveyOptions {
  repository: Repository;
  concurrency: number;
  signal: AbortSignal;
}

/** All snapshots, by channel and number, finished ones and others. Manifests that `known` has are not read again. */
export async function surveySnapshots(
  { repository, concurrency, signal }: SurveyOptions,
  known: ReadonlyMap<string, SurveyedSnapshot> = new Map(),
): Promise<Map<string, SurveyedSnapshot>> {
  const found = new Map<string, SurveyedSnapshot>();
  for await (const { key, size } of repository.store.list(repositoryKeys.allSnapshots, { signal })) {
    const [, channel = '', number, kind] =
      /^snapshots\/(.+)\/([1-9][0-9]{0,14})\/(index\.zst|manifest\.json|proof\.json)$/.exec(key) ?? [];
    if (number === undefined || !isChannel(channel)) continue;
    const sequence = Number(number);
    const name = snapshotName(channel, sequence);
    const entry = found.get(name) ?? {
      channel,
      sequence,
      index: undefined,
      hasManifest: false,
      hasProof: false,
      isQuarantined: false,
      manifest: undefined,
      problem: undefined,
    };
    found.set(name, entry);
    if (kind === 'index.zst') entry.index = { key, size };
    else if (kind === 'proof.json') entry.hasProof = true;
    else entry.hasManifest = true;
  }
  const unread: SurveyedSnapshot[] = [];
  for (const [name, entry] of found) {
    const before = known.get(name);
    if (before?.manifest !== undefined) {
      entry.manifest = before.manifest;
      entry.isQuarantined = before.isQuarantined;
    } else if (entry.hasManifest) unread.push(entry);
  }
  await forEachConcurrent(unread, { concurrency, signal }, async (entry, abort) => {
    try {
      const { channel, sequence } = entry;
      const resolved = await resolveSnapshot(repository, {
        channel,
        snapshot: sequence,
        trusted: 'anybody',
        allowExpired: true,
        signal: abort,
      });
      if (entry.hasProof)
        entry.isQuarantined =
          quarantineOf(await readProof(repository, { channel, sequence, signal: abort }), resolved) !==
          undefined;
      entry.manifest = resolved.manifest;
    } catch (error) {
      if (isPresyncError(error, 'SNAPSHOT_NOT_FOUND')) entry.hasManifest = false;
      else if (isPresyncError(error) && error.exitCode === 4) entry.problem = error.message;
      else throw error;
    }
  });
  return found;
}

export function snapshotName(channel: string, sequence: number): string {
  return `${channel}#${sequence}`;
}

/** What each channel's pointer names. A channel whose pointer cannot be read has none, and loses nothing then. */
export async function readPointers(
  repository: Repository,
  channels: Iterable<string>,
  signal: AbortSignal,
): Promise<Map<string, number>> {
  const pointers = new Map<string, number>();
  for (const channel of channels) {
    try {
      const latest = await readLatest(repository, channel, { signal });
      if (latest !== undefined) pointers.set(channel, latest.document.sequence);
    } catch (error) {
      if (!isPresyncError(error) || error.exitCode !== 4) throw error;
    }
  }
  return pointers;
}

/** What a snapshot names, and whether it is there. */
export interface Marked {
  /** Chunks that it names and that are gone. */
  missing: number;
  /** The first of them. */
  example: string | undefined;
  /** Why its index cannot be read: then nobody knows what it names. */
  unreadable: string | undefined;
}

/** Looks at chunks one by one that the listing does not have, before a snapshot counts as damaged. */
const MAX_LOOKS = 32;

export interface MarkTarget {
  named: Fingerprints;
  present: Fingerprints;
  scratchDir: string;
  cache: NamedCache | undefined;
}

/** Adds what a snapshot names to `named`, and looks whether it is among `present`. Undefined when the snapshot was removed meanwhile. */
export async function markSnapshot(
  { repository, signal }: SurveyOptions,
  { manifest, index }: Pick<SurveyedSnapshot, 'index'> & { manifest: Snapshot['manifest'] },
  target: MarkTarget,
): Promise<Marked | undefined> {
  const { store } = repository;
  const mark = (digests: AsyncIterable<string>): Promise<Marked> =>
    markChunks(repository, digests, target, signal);
  // An index that is not there as it was put is to be told of, whatever is known of it.
  const isWhole = index?.size === manifest.index.size;
  const marked =
    (isWhole ? await target.cache?.use(manifest.index.sha256, mark) : undefined) ??
    (await markFromStore(repository, manifest, target, mark, signal));
  if (marked.missing === 0 && marked.unreadable === undefined) return marked;
  const key = repositoryKeys.manifest(manifest.channel, manifest.sequence);
  return (await store.stat(key, { signal })) === undefined ? undefined : marked;
}

async function markFromStore(
  repository: Repository,
  manifest: Snapshot['manifest'],
  { scratchDir, cache }: MarkTarget,
  mark: (digests: AsyncIterable<string>) => Promise<Marked>,
  signal: AbortSignal,
): Promise<Marked> {
  const path = join(scratchDir, `${manifest.channel.replace('/', '-')}-${manifest.sequence}.zst`);
  try {
    await downloadIndex(repository, manifest, path, { signal });
    const chunks = chunksOf(repository, manifest, path, signal);
    const count = manifest.totals.chunks;
    return await mark(digestsOf(cache?.keep(manifest.index.sha256, chunks, { count }) ?? chunks));
  } catch (error) {
    if (!isPresyncError(error) || error.exitCode !== 4) throw error;
    return { missing: 0, example: undefined, unreadable: error.message };
  } finally {
    await rm(path, { force: true });
  }
}

async function* digestsOf(chunks: AsyncIterable<{ sha256: string }>): AsyncGenerator<string> {
  for await (const { sha256 } of chunks) yield sha256;
}

async function markChunks(
  { store }: Repository,
  digests: AsyncIterable<string>,
  { named, present }: MarkTarget,
  signal: AbortSignal,
): Promise<Marked> {
  const marked: Marked = { missing: 0, example: undefined, unreadable: undefined };
  let looks = 0;
  for await (const sha256 of digests) {
    throwIfAborted(signal);
    named.add(sha256);
    if (present.has(sha256)) continue;
    // It may have come after the listing.
    if (looks < MAX_LOOKS) {
      looks += 1;
      if ((await store.stat(repositoryKeys.chunk(sha256), { signal })) !== undefined) continue;
      marked.example ??= sha256;
    }
    if (marked.example !== undefined) marked.missing += 1;
  }
  return marked;
}
