import { hostname } from 'node:os';
import { encodeDocument } from '@presync/format/documents';
import { MAX_DOCUMENT_SIZE } from '@presync/format/limits';
import { repositoryKeys } from '@presync/format/paths';
import { isPresyncError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import type { Clock } from '../clock.ts';
import type { OnEvent } from '../events.ts';
import { confirmStored } from './confirm-stored.ts';

/** How long a lease holds without renewal. */
export const LEASE_MS = 60 * 60_000;
const RENEW_MS = 10 * 60_000;
/** Between attempts, when a renewal failed. */
const RETRY_MS = 60_000;
const DROP_MS = 10_000;

export interface LeaseOptions {
  store: ObjectStore;
  kind: 'writer' | 'reader';
  channel: string;
  /** The snapshot that is built upon, or read. */
  sequence: number | null;
  clock: Clock;
  onEvent?: OnEvent | undefined;
  signal: AbortSignal;
}

/** A lease that is renewed until it is dropped. */
export interface Lease {
  readonly key: string;
  /** Fires, with LEASE_LOST as its reason, when the lease could not be renewed in time or somebody removed it. */
  readonly lost: AbortSignal;
  /** Throws LEASE_LOST unless the lease holds by this machine's clock. */
  assertHeld(): void;
  /** The same, and looks whether it is in the store. */
  confirm(signal: AbortSignal): Promise<void>;
  /**
   * To be set before something is sent that must not arrive when nothing is protected any more, and unset when it is known to have arrived, or not to. While it is
   * set, `drop` leaves the lease to expire, which takes longer than what was sent can take.
   */
  mayLand: boolean;
  /** Also after an abort, so without a signal; a lease that cannot be dropped expires by itself. */
  drop(): Promise<void>;
}

/**
 * Puts a lease and renews it. It holds by two clocks of this machine: one that never jumps, and the one on the wall, because the first stands still while
 * a machine is suspended.
 */
export async function takeLease(options: LeaseOptions): Promise<Lease> {
  const { store, kind, clock, onEvent, signal } = options;
  const id = crypto.randomUUID();
  const key = repositoryKeys.lease(kind, id);
  const created = clock.now();
  const lost = new AbortController();
  const stopped = new AbortController();
  let version = '';
  let until = { elapsed: 0, now: 0 };

  const attempt = () => {
    const now = clock.now();
    const body = encodeDocument({
      presync: 'lease',
      version: 1,
      kind,
      id,
      channel: options.channel,
      sequence: options.sequence,
      holder: `${hostname()} ${process.pid}`.slice(0, 255),
      created: new Date(created).toISOString(),
      expires: new Date(now + LEASE_MS).toISOString(),
    });
    return { body, until: { elapsed: clock.elapsed() + LEASE_MS, now: now + LEASE_MS } };
  };

  const isHeld = (): boolean =>
    !lost.signal.aborted && clock.elapsed() < until.elapsed && clock.now() < until.now;

  function lose(why: string): PresyncError {
    const error = new PresyncError('LEASE_LOST', `the lease ${key} ${why}`, {
      hint: 'run it again: what is stored already is found again; see that the store can be reached, and that this machine is not suspended',
    });
    lost.abort(error);
    return error;
  }

  /** Renews once. A renewal whose answer was lost is found in the store. */
  async function renew(tried: ReturnType<typeof attempt>[]): Promise<void> {
    const next = attempt();
    tried.push(next);
    try {
      ({ version } = await store.put(key, next.body, {
        condition: { ifVersion: version },
        signal: stopped.signal,
      }));
      until = next.until;
      return;
    } catch (error) {
      if (!isPresyncError(error, 'CONDITION_FAILED')) throw error;
    }
    const found = await readLease(store, key, stopped.signal);
    if (found === undefined) {
      lose('was removed');
      return;
    }
    const earlier = tried.find(({ body }) => Buffer.compare(body, found.bytes) === 0);
    if (earlier === undefined) {
      lose('was replaced by somebody');
      return;
    }
    version = found.version;
    until = earlier.until;
  }

  async function keepRenewing(): Promise<void> {
    let tried: ReturnType<typeof attempt>[] = [];
    let pause = RENEW_MS;
    for (;;) {
      await clock.sleep(pause, stopped.signal);
      if (stopped.signal.aborted || lost.signal.aborted) return;
      if (!isHeld()) {
        lose('ran out before it was renewed');
        return;
      }
      try {
        await renew(tried);
        tried = [];
        pause = RENEW_MS;
      } catch (error) {
        if (stopped.signal.aborted) return;
        pause = RETRY_MS;
        onEvent?.('lease.not_renewed', 'the lease could not be renewed, and is tried again', {
          key,
          reason: messageOf(error),
        });
      }
    }
  }

  const first = attempt();
  // Nobody else knows the key, so that the put may be made again; and without a lease nothing protects what is put.
  ({ version } = await store.put(key, first.body, { signal }));
  until = first.until;
  let renewing: Promise<void> = Promise.resolve();

  const lease: Lease = {
    key,
    lost: lost.signal,
    mayLand: false,
    assertHeld() {
      throwIfAborted(lost.signal);
      if (!isHeld()) throw lose('ran out');
    },
    async confirm(abort) {
      lease.assertHeld();
      try {
        // A renewal changes the times in it, and not their length.
        await confirmStored(store, key, first.body.byteLength, abort, clock);
      } catch (error) {
        if (!isPresyncError(error, 'CONTENT_MISMATCH')) throw error;
        throw lose('was removed');
      }
      lease.assertHeld();
    },
    async drop() {
      stopped.abort();
      await renewing;
      if (lease.mayLand) return;
      try {
        await store.remove(key, { signal: AbortSignal.timeout(DROP_MS) });
      } catch (error) {
        onEvent?.('lease.not_dropped', 'the lease could not be dropped; it expires by itself', {
          key,
          reason: messageOf(error),
        });
      }
    },
  };
  try {
    await confirmStored(store, key, first.body.byteLength, signal, clock);
  } catch (error) {
    const late = isHeld() ? undefined : lose('ran out before it was confirmed');
    await lease.drop();
    throw late ?? error;
  }
  renewing = keepRenewing();
  return lease;
}

async function readLease(
  store: ObjectStore,
  key: string,
  signal: AbortSignal,
): Promise<{ bytes: Uint8Array; version: string } | undefined> {
  try {
    return await store.read(key, { maxBytes: MAX_DOCUMENT_SIZE, signal });
  } catch (error) {
    if (isPresyncError(error, 'OBJECT_NOT_FOUND')) return undefined;
    throw error;
  }
}
