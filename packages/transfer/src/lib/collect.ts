import type { CollectionDocument } from '@presync/format/documents';
import { repositoryKeys } from '@presync/format/paths';
import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import type { Clock } from '../clock.ts';
import {
  type Collection,
  encodePart,
  isSettled,
  moveState,
  PART_TOMBSTONES,
  readPart,
  type Tombstone,
} from './collections.ts';
import { forEachConcurrent } from './concurrency.ts';
import { createFingerprints, type Fingerprints } from './fingerprints.ts';
import { type FoundLease, listLeases } from './leases.ts';

/** For how long a collector says that it goes on removing, each time it says so. */
const DELETING_MS = 30 * 60_000;
const RENEW_MS = 5 * 60_000;
/** A collection that was begun and never finished is given up. Its collector finds that out when it goes on. */
const ABANDONED_MS = 24 * 60 * 60_000;

export interface CollectorOptions {
  store: ObjectStore;
  clock: Clock;
  concurrency: number;
  /** How long what nobody names stays. */
  graceMs: number;
  signal: AbortSignal;
}

export interface Ripeness {
  /** To be removed now. */
  ripe: Collection[];
  /** Have nothing more to do. */
  done: Collection[];
  waiting: Collection[];
}

export function sortCollections(
  collections: readonly Collection[],
  leases: readonly FoundLease[],
  { clock, graceMs }: Pick<CollectorOptions, 'clock' | 'graceMs'>,
): Ripeness {
  const held = new Set(leases.filter(({ expired }) => !expired).map(({ name }) => name));
  const sorted: Ripeness = { ripe: [], done: [], waiting: [] };
  const now = clock.now();
  for (const collection of collections) {
    const document = collection.state?.document;
    const settled = document === undefined || isSettled(document, clock);
    const age = document === undefined ? 0 : now - Date.parse(document.created);
    if (document === undefined || (document.phase === 'marking' && age > ABANDONED_MS))
      sorted.done.push(collection);
    else if (document.phase === 'deleted' && settled) sorted.done.push(collection);
    else if (document.phase === 'deleting' && settled) sorted.ripe.push(collection);
    else if (
      document.phase === 'marked' &&
      age >= graceMs &&
      document.leases.every((name) => !held.has(name))
    )
      sorted.ripe.push(collection);
    else sorted.waiting.push(collection);
  }
  return sorted;
}

/** A collection that this run, and nobody else, removes. It is renewed until it is ended. */
export interface Claim {
  collection: Collection;
  /** Throws LEASE_LOST when another run may have taken it up. */
  assertHeld(): void;
  /** Ends it, and says what comes next: back to `marked` when nothing was removed. */
  end(phase: 'marked' | 'deleted' | 'deleting'): Promise<void>;
}

/** Says that what the collection names is removed from now on. Undefined when another run has done so. */
export async function claim(
  { store, clock, signal }: CollectorOptions,
  collection: Collection,
  run: string,
): Promise<Claim | undefined> {
  if (collection.state === undefined) return undefined;
  let state = collection.state;
  let until = { elapsed: 0, now: 0 };
  const stopped = new AbortController();
  const either = AbortSignal.any([signal, stopped.signal]);
  // By both clocks: the one that never jumps stands still while a machine is suspended.
  const isHeld = (): boolean => clock.elapsed() < until.elapsed && clock.now() < until.now;

  async function move(phase: CollectionDocument['phase'], ms: number | null): Promise<boolean> {
    const next = { elapsed: clock.elapsed() + (ms ?? 0), now: clock.now() + (ms ?? 0) };
    const document = { ...state.document, phase, run, until: ms === null ? null : timeOf(next.now) };
    const moved = await moveState(store, document, state.version, signal);
    if (moved === undefined) return false;
    state = moved;
    until = next;
    return true;
  }

  async function keepRenewing(): Promise<void> {
    for (;;) {
      await clock.sleep(RENEW_MS, either);
      if (either.aborted || !isHeld()) return;
      try {
        if (!(await move('deleting', DELETING_MS))) until = { elapsed: 0, now: 0 };
      } catch {
        // It is tried again as long as it holds; when it does not any more, whoever removes something hears of it.
      }
    }
  }

  if (!(await move('deleting', DELETING_MS))) return undefined;
  const renewing = keepRenewing();
  return {
    collection,
    assertHeld() {
      if (isHeld()) return;
      throw new PresyncError(
        'LEASE_LOST',
        `the collection ${collection.id} was not removed in time, or was taken up by another run`,
        { hint: 'run "presync prune" again: it goes on where this one ended' },
      );
    },
    async end(phase) {
      stopped.abort();
      await renewing;
      if (isHeld() && phase !== 'deleting') await move(phase, phase === 'marked' ? null : 0);
    },
  };
}

export interface Removed {
  chunks: number;
  bytes: number;
  /** Indexes, or what else is left of a snapshot without a manifest. */
  indexes: number;
}

/**
 * Removes what a claimed collection names, and the proofs of snapshots that were never finished, but for what is named again, or what somebody has left a note for. Those notes are read only now: who leaves
 * one after the claim sees that.
 */
export async function removeClaimed(
  options: CollectorOptions,
  claimed: Claim,
  {
    named,
    visibleIndexes,
    proofs,
  }: {
    named: Fingerprints;
    visibleIndexes: ReadonlySet<string>;
    /** The proofs of snapshots without a manifest, by the key of the index. */
    proofs: ReadonlyMap<string, string>;
  },
): Promise<Removed> {
  const { store, concurrency, signal } = options;
  const { collection } = claimed;
  const kept = createFingerprints();
  for await (const { key } of store.list(`${repositoryKeys.tombstones}${collection.id}/kept/`, { signal }))
    kept.add(key.slice(key.lastIndexOf('/') + 1));
  const removed: Removed = { chunks: 0, bytes: 0, indexes: 0 };
  for (const part of collection.parts) {
    const doomed = (await readPart(store, part, signal)).filter(({ key, sha256 }) =>
      sha256 === undefined ? !visibleIndexes.has(key) : !named.has(sha256) && !kept.has(sha256),
    );
    await forEachConcurrent(doomed, { concurrency, signal }, async ({ key, size, sha256 }, abort) => {
      const proof = proofs.get(key);
      for (const each of proof === undefined ? [key] : [proof, key]) {
        claimed.assertHeld();
        await store.remove(each, { signal: abort });
      }
      if (sha256 === undefined) removed.indexes += 1;
      else {
        removed.chunks += 1;
        removed.bytes += size;
      }
    });
  }
  await claimed.end('deleted');
  return removed;
}

/** Removes a collection that has nothing more to do, its state last, so that half of one is found again. */
export async function dispose(
  { store, concurrency, signal }: CollectorOptions,
  { id, parts, notes }: Collection,
): Promise<void> {
  await forEachConcurrent([...parts, ...notes], { concurrency, signal }, (key, abort) =>
    store.remove(key, { signal: abort }),
  );
  await store.remove(repositoryKeys.collection(id), { signal });
}

/**
 * Puts tombstones, and then looks who holds a lease: whoever takes one later sees the tombstones, and the others are waited for. Undefined when there is
 * nothing to put them on.
 */
export async function begin(
  { store, clock, signal }: CollectorOptions,
  tombstones: AsyncIterable<Tombstone>,
  run: string,
): Promise<Removed> {
  const id = crypto.randomUUID();
  const found: Removed = { chunks: 0, bytes: 0, indexes: 0 };
  let state: Awaited<ReturnType<typeof moveState>>;
  let batch: Tombstone[] = [];
  let parts = 0;
  const document: CollectionDocument = {
    presync: 'collection',
    version: 1,
    id,
    phase: 'marking',
    created: timeOf(clock.now()),
    run,
    leases: [],
    until: null,
  };
  const flush = async (): Promise<void> => {
    if (batch.length === 0) return;
    state ??= await moveState(store, document, undefined, signal);
    await store.put(repositoryKeys.tombstonePart(id, parts), encodePart(batch), { signal });
    parts += 1;
    batch = [];
  };
  for await (const tombstone of tombstones) {
    throwIfAborted(signal);
    batch.push(tombstone);
    if (tombstone.sha256 === undefined) found.indexes += 1;
    else {
      found.chunks += 1;
      found.bytes += tombstone.size;
    }
    if (batch.length >= PART_TOMBSTONES) await flush();
  }
  await flush();
  if (state === undefined) return found;
  const leases = (await listLeases(store, clock, signal)).filter(({ expired }) => !expired);
  await moveState(
    store,
    { ...document, phase: 'marked', leases: leases.map(({ name }) => name) },
    state.version,
    signal,
  );
  return found;
}

function timeOf(ms: number): string {
  return new Date(ms).toISOString();
}
