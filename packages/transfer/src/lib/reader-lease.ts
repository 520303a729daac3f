import { repositoryKeys } from '@presync/format/paths';
import { isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import { type Clock, createClock } from '../clock.ts';
import type { OnEvent } from '../events.ts';
import { openRepository, type Repository, type Snapshot } from '../repository.ts';
import { type Lease, takeLease } from './lease.ts';

export interface HoldOptions {
  repository: Repository;
  snapshot: Pick<Snapshot, 'manifest'>;
  clock?: Clock | undefined;
  onEvent?: OnEvent | undefined;
  signal: AbortSignal;
}

/**
 * Takes a lease on a snapshot, and then looks whether it is still there: SNAPSHOT_NOT_FOUND when a collector was faster. Undefined where no lease can be
 * put: the snapshot can be read all the same, for as long as the grace lasts.
 */
export async function holdSnapshot({
  repository,
  snapshot,
  clock = createClock(),
  onEvent,
  signal,
}: HoldOptions): Promise<Lease | undefined> {
  const { channel, sequence } = snapshot.manifest;
  const store = await writableStore(repository, signal);
  if (store === undefined) return undefined;
  let lease: Lease;
  try {
    lease = await takeLease({ store, kind: 'reader', channel, sequence, clock, onEvent, signal });
  } catch (error) {
    throwIfAborted(signal);
    // Who may only read can hold no lease, and a store that is full can still be read: the grace of collectors is for them.
    if (!isPresyncError(error)) throw error;
    onEvent?.(
      'lease.not_taken',
      'the store takes no lease; what is read stays for the grace of collectors only',
      {
        reason: error.message,
      },
    );
    return undefined;
  }
  try {
    if ((await store.stat(repositoryKeys.manifest(channel, sequence), { signal })) !== undefined)
      return lease;
    throw new PresyncError('SNAPSHOT_NOT_FOUND', `snapshot ${channel}#${sequence} was removed just now`, {
      hint: 'run it again: it takes a newer one',
    });
  } catch (error) {
    await lease.drop();
    throw error;
  }
}

/** Does the work while a lease keeps collectors from removing what it reads, where one can be had. */
export async function whileHeld<T>(options: HoldOptions, work: () => Promise<T>): Promise<T> {
  const lease = await holdSnapshot(options);
  try {
    return await work();
  } finally {
    await lease?.drop();
  }
}

/** The first that can be written and holds this very repository: a mirror may hold another one, in which nobody waits for the lease. */
async function writableStore(repository: Repository, signal: AbortSignal): Promise<ObjectStore | undefined> {
  for (const store of [repository.store, ...repository.mirrors]) {
    if (!store.traits.writable) continue;
    if (store === repository.store || (await idOf(store, signal)) === repository.id) return store;
  }
  return undefined;
}

async function idOf(store: ObjectStore, signal: AbortSignal): Promise<string | undefined> {
  try {
    return (await openRepository(store, { signal })).id;
  } catch (error) {
    throwIfAborted(signal);
    if (!isPresyncError(error)) throw error;
    return undefined;
  }
}
