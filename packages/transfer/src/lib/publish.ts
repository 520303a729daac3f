import { sha256 as digestOf } from '@presync/format/digest';
import { encodeDocument } from '@presync/format/documents';
import type { IndexDigest } from '@presync/format/index-file';
import { encodeManifest, type Manifest, PARTS_FEATURE } from '@presync/format/manifest';
import { repositoryKeys } from '@presync/format/paths';
import { sealEnvelope } from '@presync/format/signature';
import { isPresyncError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Clock } from '../clock.ts';
import { type Repository, readLatest, resolveSnapshot, type Snapshot } from '../repository.ts';
import type { UploadOptions } from '../snapshot.ts';
import { verifySnapshot } from '../verify.ts';
import { confirmStored } from './confirm-stored.ts';
import { beginProof, endProof, type KeptProof } from './keep-proof.ts';
import type { Lease } from './lease.ts';

/** Sequence numbers that are tried when others publish, or were killed half-way, in the same channel. */
const MAX_SEQUENCE_TRIES = 1000;

export interface Published {
  manifest: Manifest;
  sha256: string;
  size: number;
  /** Absent when it is not going to be proved. */
  proof: KeptProof | undefined;
}

/** What the proof is to consist of; empty when there is none. */
function checksOf({ prove: mode = 'sample', proof }: UploadOptions): string[] {
  return [...(mode === 'none' ? [] : [mode]), ...(proof?.checks ?? [])];
}

/** Puts index and manifest under the next free number. The index's create-only put decides who owns a number. */
export async function publish(
  options: UploadOptions,
  {
    lease,
    clock,
    indexPath,
    digest,
    totals,
    previous,
    floor,
  }: {
    /** None in a repository that nobody collects. */
    lease?: Lease;
    clock: Clock;
    indexPath: string;
    digest: IndexDigest;
    totals: Manifest['totals'];
    previous: Snapshot | undefined;
    floor: number;
  },
): Promise<Published> {
  const { repository, channel, describe, keys, signal } = options;
  const { store } = repository;
  for (let tried = 1; tried <= MAX_SEQUENCE_TRIES; tried++) {
    const sequence = floor + tried;
    const index = { path: indexPath, size: digest.size };
    if (!(await putIfAbsent(store, repositoryKeys.index(channel, sequence), index, digest.sha256, signal)))
      continue;
    await confirmStored(store, repositoryKeys.index(channel, sequence), digest.size, signal, clock);
    await lease?.confirm(signal);
    const manifest: Manifest = {
      presync: 'manifest',
      format: { version: 1, minReader: 1, features: describe.node.parts.length > 1 ? [PARTS_FEATURE] : [] },
      repository: { id: repository.id, sha256: repository.sha256 },
      channel,
      sequence,
      previous:
        previous === undefined ? null : { sequence: previous.manifest.sequence, sha256: previous.sha256 },
      created: new Date(clock.now()).toISOString(),
      ...describe,
      totals,
      index: digest,
    };
    const bytes = sealEnvelope(encodeManifest(manifest), keys);
    const sha256 = await digestOf(bytes);
    const size = bytes.length;
    const checks = checksOf(options);
    const subject = { channel, sequence, manifest: { size, sha256 }, checks };
    const proof = checks.length === 0 ? undefined : await beginProof(repository, subject, signal);
    const key = repositoryKeys.manifest(channel, sequence);
    // The last moment: nothing is awaited between this look at the clock and the put.
    lease?.assertHeld();
    // A put that fails, or is given up, may still be carried out, when nobody waits for this writer any more.
    if (lease !== undefined) lease.mayLand = true;
    const isOurs = await putIfAbsent(store, key, bytes, sha256, signal);
    if (isOurs && lease !== undefined) await assertStillHeld(store, lease, key, signal);
    if (lease !== undefined) lease.mayLand = false;
    if (!isOurs) continue;
    return { manifest, sha256, size, proof };
  }
  throw new PresyncError(
    'STORE_FAILED',
    `no free sequence number after ${floor + MAX_SEQUENCE_TRIES} in channel ${channel}`,
    {
      hint: 'something fills the channel with unfinished snapshots; see "presync list"',
    },
  );
}

/** A manifest that was put so late that a collector may not have waited for it is taken back. */
async function assertStillHeld(
  store: Repository['store'],
  lease: Lease,
  key: string,
  signal: AbortSignal,
): Promise<void> {
  try {
    await lease.confirm(signal);
  } catch (error) {
    await store.remove(key, { signal: AbortSignal.timeout(TAKE_BACK_MS) });
    throw error;
  }
}

const TAKE_BACK_MS = 60_000;

async function putIfAbsent(
  store: Repository['store'],
  key: string,
  body: Buffer | { path: string; size: number },
  sha256: string,
  signal: AbortSignal,
): Promise<boolean> {
  try {
    await store.put(key, body, { condition: { ifAbsent: true }, sha256, signal });
    return true;
  } catch (error) {
    if (isPresyncError(error, 'CONDITION_FAILED')) return false;
    throw error;
  }
}

/** How long a proof's failure is tried to be written down. */
const QUARANTINE_MS = 60_000;

/**
 * Proves the snapshot as an agent would see it. What fails here is never promoted: it stays in quarantine, with its reason. A proof that could not be
 * carried out to its end leaves it in quarantine too, as not proved yet.
 */
export async function prove(options: UploadOptions, published: Published): Promise<void> {
  const { repository, channel, onEvent } = options;
  const { manifest, proof } = published;
  if (proof === undefined) return;
  const { sequence } = manifest;
  try {
    await carryOut(options, published);
  } catch (error) {
    if (!isPresyncError(error) || error.exitCode !== 4) throw error;
    onEvent?.('snapshot.quarantined', `${channel}#${sequence} failed its proof, and is not promoted`, {
      channel,
      sequence,
      code: error.code,
      reason: error.message,
    });
    // Also when presync is to stop: a reason is worth more than the time.
    await endProof(repository, proof, error, AbortSignal.timeout(QUARANTINE_MS)).catch((failure: unknown) => {
      onEvent?.('snapshot.reason_not_kept', 'why it failed could not be written beside the snapshot', {
        channel,
        sequence,
        reason: messageOf(failure),
      });
    });
    throw new PresyncError(error.code, `${channel}#${sequence} was not promoted: ${error.message}`, {
      cause: error,
      hint: error.hint,
    });
  }
  await endProof(repository, proof, 'passed', options.signal);
}

async function carryOut(options: UploadOptions, published: Published): Promise<void> {
  const { repository, channel, keys, signal, prove: mode = 'sample' } = options;
  const { sequence } = published.manifest;
  const snapshot = await resolveSnapshot(repository, {
    channel,
    snapshot: sequence,
    trusted: keys.length > 0 ? keys : 'anybody',
    signal,
  });
  if (snapshot.sha256 !== published.sha256) {
    throw new PresyncError('CONTENT_MISMATCH', 'its manifest reads back differently than it was written', {
      hint: 'the store does not keep what it is given; run "presync verify"',
    });
  }
  if (mode !== 'none') {
    const { problems } = await verifySnapshot({
      repository,
      manifest: snapshot.manifest,
      scope: mode,
      scratchDir: options.stateDir,
      concurrency: options.concurrency,
      createWorkers: options.createWorkers,
      signal,
    });
    const [first] = problems;
    if (first !== undefined) {
      throw new PresyncError(first.code, first.message, {
        hint: 'the snapshot stays in quarantine; find out why the store lost or changed an object, then take another',
      });
    }
  }
  await options.proof?.run(snapshot);
}

/** Successes that did not show, after which a store is not believed any more. */
const MAX_UNSEEN_MOVES = 3;

/** Moves `latest` forward, never back. What it says afterwards counts, not the answer to the put. False when it names a later snapshot. */
export async function promote(
  repository: Repository,
  { manifest, sha256, size }: Pick<Published, 'manifest' | 'sha256' | 'size'>,
  signal: AbortSignal,
): Promise<boolean> {
  const { channel, sequence } = manifest;
  const key = repositoryKeys.latest(channel);
  const document = encodeDocument({
    presync: 'latest',
    version: 1,
    channel,
    sequence,
    manifest: { size, sha256 },
  });
  for (let moves = 0; ; ) {
    throwIfAborted(signal);
    const current = await readLatest(repository, channel, { signal });
    if (current !== undefined && current.document.sequence >= sequence)
      return current.document.manifest.sha256 === sha256;
    if (moves >= MAX_UNSEEN_MOVES) {
      throw new PresyncError(
        'CONTENT_MISMATCH',
        `${repository.store.location} said that ${key} is written, and it names ${current?.document.sequence ?? 'nothing'}, not ${sequence}`,
        {
          hint: 'the snapshot is stored and not the newest: take another; if it goes on, look for a cache or proxy between this machine and the store',
        },
      );
    }
    try {
      const condition =
        current === undefined ? ({ ifAbsent: true } as const) : { ifVersion: current.version };
      await repository.store.put(key, document, { condition, signal });
      moves += 1;
    } catch (error) {
      if (!isPresyncError(error, 'CONDITION_FAILED')) throw error;
    }
  }
}
