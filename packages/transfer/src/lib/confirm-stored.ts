import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import { type Clock, createClock } from '../clock.ts';

/** Looks before an object counts as not there: an answer may be that to another question. */
const LOOKS = 3;
const PAUSE_MS = 50;

/** Looks at a time, beside the puts. */
const CONCURRENCY = 16;

/**
 * Throws CONTENT_MISMATCH unless an object that was put is there. A success may have been the answer to another put, or the store may lose
 * what it takes: what a manifest is to name is looked at before the manifest is there.
 */
export async function confirmStored(
  store: ObjectStore,
  key: string,
  size: number,
  signal: AbortSignal,
  clock: Clock = createClock(),
): Promise<void> {
  for (let look = 1; look <= LOOKS; look++) {
    if (look > 1) await clock.sleep(PAUSE_MS * 2 ** look, signal);
    throwIfAborted(signal);
    if ((await store.stat(key, { signal }))?.size === size) return;
  }
  throw new PresyncError(
    'CONTENT_MISMATCH',
    `${store.location} said that ${key} is stored, and it is not there with its ${size} bytes`,
    {
      hint: 'take the snapshot again; if it goes on, look for a proxy between this machine and the store that mixes up answers, or use another store',
    },
  );
}

/** Looks at many objects, while others are put. */
export interface Confirmations {
  /** Begins to look at an object. Waits while too many are looked at, and throws when one was not there. */
  add(key: string, size: number): Promise<void>;
  /** Waits until all were looked at, and throws when one was not there. */
  all(): Promise<void>;
  /** Gives up what is under way, and waits until it has ended. */
  stop(): Promise<void>;
}

export function createConfirmations(store: ObjectStore, signal: AbortSignal, clock?: Clock): Confirmations {
  const stopped = new AbortController();
  const either = AbortSignal.any([signal, stopped.signal]);
  const running = new Set<Promise<void>>();
  let failure: unknown;

  function throwFailure(): void {
    if (failure !== undefined) throw failure;
  }

  return {
    async add(key, size) {
      while (running.size >= CONCURRENCY) await Promise.race(running);
      throwFailure();
      const look = confirmStored(store, key, size, either, clock).then(
        () => {
          running.delete(look);
        },
        (error: unknown) => {
          running.delete(look);
          failure ??= error;
        },
      );
      running.add(look);
    },
    async all() {
      await Promise.all(running);
      throwFailure();
    },
    async stop() {
      stopped.abort();
      await Promise.all(running);
    },
  };
}
