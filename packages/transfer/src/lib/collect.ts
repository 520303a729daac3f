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
const DELETING_MS = 10 * 60_000;
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

/** A collection that this run, and nobody else, removes. */
export interface Claim {
  collection: Collection;
  /** Sends no removal after that, by `clock.elapsed`. */
  holdsUntil: number;
  run: string;
  renewing?: Promise<void> | undefined;
}

/** Says that what the collection names is removed from now on. Undefined when another run has done so. */
export async function claim(
  { store, clock, signal }: CollectorOptions,
  collection: Collection,
  run: string,
): Promise<Claim | undefined> {
  const { state } = collection;
  if (state === undefined) return undefined;
  const holdsUntil = clock.elapsed() + DELETING_MS;
  const moved = await moveState(
    store,
    { ...state.document, phase: 'deleting', run, until: timeOf(clock.now() + DELETING_MS) },
    state.version,
    signal,
  );
  if (moved === undefined) return undefined;
  collection.state = moved;
  return { collection, holdsUntil, run };
}

/** Lets go of what was claimed and of which nothing was removed. */
export async function release({ store, signal }: CollectorOptions, { collection }: Claim): Promise<void> {
  const { state } = collection;
  if (state === undefined) return;
  await moveState(store, { ...state.document, phase: 'marked', until: null }, state.version, signal);
}

export interface Removed {
  chunks: number;
  bytes: number;
  indexes: number;
}

/**
 * Removes what a claimed collection names, but for what is named again, or what somebody has left a note for. Those notes are read only now: who leaves
 * one after the claim sees that.
 */
export async function removeClaimed(
  options: CollectorOptions,
  claimed: Claim,
  { named, visibleIndexes }: { named: Fingerprints; visibleIndexes: ReadonlySet<string> },
): Promise<Removed> {
  const { store, clock, concurrency, signal } = options;
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
      await holdOn(options, claimed);
      await store.remove(key, { signal: abort });
      if (sha256 === undefined) removed.indexes += 1;
      else {
        removed.chunks += 1;
        removed.bytes += size;
      }
    });
  }
  const { state } = collection;
  if (state !== undefined)
    await moveState(
      store,
      { ...state.document, phase: 'deleted', until: timeOf(clock.now()) },
      state.version,
      signal,
    );
  return removed;
}

/** Renews the claim when half of its time has passed. Throws when it is over: another run may have taken it up. */
async function holdOn({ store, clock, signal }: CollectorOptions, claimed: Claim): Promise<void> {
  // By both clocks: the one that never jumps stands still while a machine is suspended.
  const left = (): number =>
    Math.min(
      claimed.holdsUntil - clock.elapsed(),
      Date.parse(claimed.collection.state?.document.until ?? '') - clock.now(),
    );
  if (left() < DELETING_MS / 2) {
    claimed.renewing ??= renew();
    await claimed.renewing;
  }
  if (!(left() > 0)) throw lostClaim(claimed);

  async function renew(): Promise<void> {
    const { collection } = claimed;
    const { state } = collection;
    const holdsUntil = clock.elapsed() + DELETING_MS;
    const document = state?.document;
    if (document === undefined || !(left() > 0)) throw lostClaim(claimed);
    const next: CollectionDocument = { ...document, until: timeOf(clock.now() + DELETING_MS) };
    const moved = await moveState(store, next, state?.version, signal);
    if (moved === undefined) throw lostClaim(claimed);
    collection.state = moved;
    claimed.holdsUntil = holdsUntil;
    claimed.renewing = undefined;
  }
}

function lostClaim({ collection }: Claim): PresyncError {
  return new PresyncError(
    'LEASE_LOST',
    `the collection ${collection.id} was not removed in time, or was taken up by another run`,
    {
      hint: 'run "presync prune" again: it goes on where this one ended',
    },
  );
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
