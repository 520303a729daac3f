import { isChannel, repositoryKeys } from '@presync/format/paths';
import type { PublicKey } from '@presync/format/signature';
import { isPresyncError, messageOf } from '@presync/runtime/errors';
import type { OnEvent } from './events.ts';
import { whileHeld } from './lib/reader-lease.ts';
import { includes, type Ranges, readRemoved, wasRemoved } from './lib/removed.ts';
import { resolvePinned } from './pins.ts';
import { readProof } from './proof.ts';
import { listSequences, type Repository, readLatest, resolveSnapshot, type Snapshot } from './repository.ts';
import type { Seen } from './seen.ts';
import { type Problem, type Selection, verifySnapshot } from './verify.ts';

export interface VerifyRepositoryOptions {
  repository: Repository;
  /** Default: all channels. */
  channel?: string | undefined;
  /** Default: all snapshots. */
  snapshot?: 'latest' | 'pinned' | number | undefined;
  /** Of each snapshot, only these chunks. */
  selection?: Selection | undefined;
  trusted: readonly PublicKey[] | 'anybody';
  /** What this machine has accepted from a channel before. */
  seenOf: (channel: string) => Promise<Seen | undefined>;
  scope: 'sample' | 'full';
  scratchDir: string;
  concurrency?: number | undefined;
  /** Called for each snapshot with its bytes, before its chunks are read. */
  onSnapshot?: ((snapshot: Snapshot) => void) | undefined;
  onProgress?: ((bytes: number) => void) | undefined;
  onEvent?: OnEvent | undefined;
  signal: AbortSignal;
}

export interface VerifyRepositoryResult {
  /** `meant`: chunks that the selection names, of which `chunks` were proved. */
  snapshots: {
    channel: string;
    sequence: number;
    chunks: number;
    meant: number;
    bytes: number;
    sound: boolean;
  }[];
  problems: Problem[];
}

/**
 * Proves a repository, or one channel or snapshot of it: pointers, manifests, the chain of manifests, indexes and chunks. Damage is
 * returned; a store that fails is thrown. Expiry is not damage here, and neither is what retention takes away meanwhile: each snapshot is held by a lease
 * while it is read, where one can be had.
 */
export async function verifyRepository(options: VerifyRepositoryOptions): Promise<VerifyRepositoryResult> {
  const { repository, signal } = options;
  const result: VerifyRepositoryResult = { snapshots: [], problems: [] };
  const channels = options.channel === undefined ? await allChannels(repository, signal) : [options.channel];
  if (channels.length === 0) {
    result.problems.push({
      code: 'CHANNEL_NOT_FOUND',
      object: repositoryKeys.channels,
      message: `${repository.store.location} holds no snapshot`,
      files: [],
    });
  }
  for (const channel of channels) await verifyChannel(options, channel, result);
  return result;
}

/** Channels by their snapshots as well as by their pointers, so that one whose pointer was deleted is missed. */
export async function allChannels({ store }: Repository, signal: AbortSignal): Promise<string[]> {
  const channels = new Set<string>();
  for (const [prefix, pattern] of [
    [repositoryKeys.channels, /^channels\/(.+)\/latest\.json$/],
    ['snapshots/', /^snapshots\/(.+)\/[0-9]+\/manifest\.json$/],
  ] as const) {
    for await (const { key } of store.list(prefix, { signal })) {
      const channel = pattern.exec(key)?.[1];
      if (channel !== undefined && isChannel(channel)) channels.add(channel);
    }
  }
  return [...channels].sort();
}

async function verifyChannel(
  options: VerifyRepositoryOptions,
  channel: string,
  result: VerifyRepositoryResult,
): Promise<void> {
  const { repository, signal } = options;
  const snapshot =
    options.snapshot === undefined
      ? 'all'
      : await resolvePinned(repository, channel, { snapshot: options.snapshot, signal });
  const pointer = repositoryKeys.latest(channel);
  const sequences = await listSequences(repository, channel, { signal });
  const latest = await attempt(result, pointer, () => readLatest(repository, channel, { signal }));
  if (latest === undefined) {
    if (!result.problems.some(({ object }) => object === pointer)) {
      result.problems.push({
        code: 'CHANNEL_NOT_FOUND',
        object: pointer,
        message: `${pointer} is missing`,
        files: [],
      });
    }
  } else if (typeof snapshot !== 'number') {
    const highest = await highestProved(repository, channel, sequences, latest.document.sequence, signal);
    if (highest > latest.document.sequence)
      result.problems.push({
        code: 'MANIFEST_ROLLED_BACK',
        object: pointer,
        message: `${pointer} names snapshot ${latest.document.sequence}, and snapshot ${highest} is there: the pointer was replayed, or a snapshot was stopped before it was promoted`,
        files: [],
      });
  }
  // A snapshot that is asked for by its number need not be the newest.
  if (latest !== undefined && typeof snapshot !== 'number')
    await attempt(result, pointer, () => resolve(options, channel, 'latest'));
  const wanted =
    typeof snapshot === 'number'
      ? [snapshot]
      : snapshot === 'latest'
        ? latest === undefined
          ? []
          : [latest.document.sequence]
        : sequences;
  const manifests = new Map<number, Snapshot>();
  for (const sequence of wanted) {
    const before = { problems: result.problems.length, snapshots: result.snapshots.length };
    const found = await verifyOne(options, channel, sequence, result);
    if (
      result.problems.length > before.problems &&
      typeof snapshot !== 'number' &&
      (await wasRemoved(repository.store, channel, sequence, signal))
    ) {
      result.problems.length = before.problems;
      result.snapshots.length = before.snapshots;
      options.onEvent?.('verify.snapshot_removed', 'retention has removed a snapshot while it was verified', {
        channel,
        sequence,
      });
    } else if (found !== undefined) manifests.set(sequence, found);
  }
  if (snapshot !== 'all') return;
  const removed = await attempt(result, repositoryKeys.removed(channel), () =>
    readRemoved(repository.store, channel, signal),
  );
  verifyChain(channel, manifests, removed?.ranges ?? [], result);
}

/** Adds what is wrong with a snapshot to the result; gives its manifest, where that is sound. */
async function verifyOne(
  options: VerifyRepositoryOptions,
  channel: string,
  sequence: number,
  result: VerifyRepositoryResult,
): Promise<Snapshot | undefined> {
  const { repository, scope, selection, scratchDir, concurrency, onProgress, onEvent, signal } = options;
  const key = repositoryKeys.manifest(channel, sequence);
  const found = await attempt(result, key, () => resolve(options, channel, sequence));
  const verified =
    found === undefined
      ? undefined
      : await attempt(result, key, () =>
          whileHeld({ repository, snapshot: found, onEvent, signal }, async () => {
            await verifyProof(repository, found, result, signal);
            options.onSnapshot?.(found);
            const { manifest } = found;
            return verifySnapshot({
              repository,
              manifest,
              scope,
              selection,
              scratchDir,
              concurrency,
              onProgress,
              signal,
            });
          }),
        );
  result.problems.push(...(verified?.problems ?? []));
  const { chunks = 0, meant = 0, bytes = 0 } = verified ?? {};
  const sound = verified?.problems.length === 0;
  result.snapshots.push({ channel, sequence, chunks, meant, bytes, sound });
  return found;
}

/** What is said of a snapshot's proof must be readable, and of this snapshot; that it is in quarantine is no damage. */
async function verifyProof(
  repository: Repository,
  { manifest, sha256 }: Snapshot,
  result: VerifyRepositoryResult,
  signal: AbortSignal,
): Promise<void> {
  const { channel, sequence } = manifest;
  const object = repositoryKeys.proof(channel, sequence);
  const proof = await attempt(result, object, () => readProof(repository, { channel, sequence, signal }));
  if (proof === undefined || proof.manifest.sha256 === sha256) return;
  const message = `${object} is the proof of another manifest`;
  result.problems.push({ code: 'FORMAT_INVALID', object, message, files: [] });
}

/** The highest snapshot that is not in quarantine, or the pointer's: one that has failed its proof is not meant to be the newest. */
async function highestProved(
  repository: Repository,
  channel: string,
  sequences: readonly number[],
  newest: number,
  signal: AbortSignal,
): Promise<number> {
  for (const sequence of sequences.filter((number) => number > newest).toReversed()) {
    const proof = await readProof(repository, { channel, sequence, signal }).catch((error: unknown) => {
      if (isPresyncError(error) && error.exitCode === 4) return undefined;
      throw error;
    });
    if (proof === undefined || proof.state === 'passed') return sequence;
  }
  return newest;
}

async function resolve(
  options: VerifyRepositoryOptions,
  channel: string,
  snapshot: 'latest' | number,
): Promise<Snapshot> {
  const { repository, trusted, signal } = options;
  const seen = await options.seenOf(channel);
  return resolveSnapshot(repository, { channel, snapshot, trusted, seen, allowExpired: true, signal });
}

/** Each manifest names the one before it by digest: one that was replaced, or taken out of the middle by anybody but retention, shows. */
function verifyChain(
  channel: string,
  manifests: ReadonlyMap<number, Snapshot>,
  removed: Ranges,
  result: VerifyRepositoryResult,
): void {
  for (const { manifest } of manifests.values()) {
    const { previous } = manifest;
    if (previous === null) continue;
    const before = manifests.get(previous.sequence);
    const object = repositoryKeys.manifest(channel, previous.sequence);
    if (before?.sha256 === previous.sha256 || result.problems.some((problem) => problem.object === object))
      continue;
    if (before === undefined && includes(removed, previous.sequence)) continue;
    const why =
      before === undefined
        ? 'is missing'
        : `is not the manifest that snapshot ${manifest.sequence} was built upon`;
    result.problems.push({ code: 'MANIFEST_CORRUPT', object, message: `${object} ${why}`, files: [] });
  }
}

/** Turns damage into a problem, named after the object; everything else passes. */
async function attempt<T>(
  result: VerifyRepositoryResult,
  object: string,
  work: () => Promise<T>,
): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (!isPresyncError(error) || (error.exitCode !== 4 && error.exitCode !== 5)) throw error;
    if (!result.problems.some((problem) => problem.message === messageOf(error))) {
      result.problems.push({ code: error.code, object, message: error.message, files: [] });
    }
    return undefined;
  }
}
