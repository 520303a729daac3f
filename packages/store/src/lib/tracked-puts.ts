import { messageOf, PresyncError } from '@presync/runtime/errors';
import { isKey } from '../keys.ts';
import type { ObjectStore } from '../object-store.ts';
import { unlessAborted } from './abort.ts';

/** An object that could not be removed again. */
export interface LeftObject {
  key: string;
  reason: string;
}

export interface TrackedPuts {
  /** The same store. */
  store: ObjectStore;
  /**
   * Refuses further writes, waits for those under way, and removes what was put, also where a listing is not allowed. Gives what is left
   * of it; never rejects.
   */
  cleanUp(): Promise<LeftObject[]>;
}

/** Clean-up must also be possible after an abort, so it has a time limit of its own. */
const CLEANUP_MS = 120_000;

const REMOVALS_AT_A_TIME = 16;

/** Remembers the objects that are put, all of which lie under `corner`, to remove them in the end. */
export function trackPuts(store: ObjectStore, corner: string): TrackedPuts {
  /** How many puts of a key have made an object, or may have. */
  const puts = new Map<string, number>();
  const underWay = new Set<Promise<unknown>>();
  let ended = false;

  function write<T>(work: () => Promise<T>): Promise<T> {
    // Of calls that were made together one may have failed and ended the check, while the others go on.
    if (ended) return Promise.reject(new PresyncError('ABORTED', 'the check has ended'));
    const call = work();
    underWay.add(call);
    const settle = (): void => void underWay.delete(call);
    call.then(settle, settle);
    return call;
  }

  const count = (key: string, by: 1 | -1): void => {
    if (isKey(key)) puts.set(key, (puts.get(key) ?? 0) + by);
  };

  const tracked: ObjectStore = {
    location: store.location,
    traits: store.traits,
    stat: (key, call) => store.stat(key, call),
    read: (key, call) => store.read(key, call),
    put: (key, body, call) =>
      write(async () => {
        count(key, 1);
        try {
          return await store.put(key, body, call);
        } catch (error) {
          if (isRefusal(error)) count(key, -1);
          throw error;
        }
      }),
    remove: (key, call) => write(() => store.remove(key, call)),
    list: (prefix, call) => store.list(prefix, call),
    close: () => store.close(),
  } satisfies Required<ObjectStore>;

  async function cleanUp(): Promise<LeftObject[]> {
    ended = true;
    const signal = AbortSignal.timeout(CLEANUP_MS);
    await unlessAborted(Promise.allSettled(underWay), signal).catch(() => undefined);
    const keys = [...puts].filter(([, made]) => made > 0).map(([key]) => key);
    const left = await removeAll(store, keys, signal);
    if (!store.traits.listable) return left;
    // A put that was given up may have been carried out after its removal. And what was never there is not left.
    try {
      const found: string[] = [];
      for await (const { key } of store.list(corner, { signal })) found.push(key);
      const again = await removeAll(store, found, signal);
      return again;
    } catch {
      return left;
    }
  }

  return { store: tracked, cleanUp };
}

/** True for an error after which the put has certainly not been carried out. */
function isRefusal(error: unknown): boolean {
  return error instanceof PresyncError && !error.retryable && error.code !== 'ABORTED';
}

async function removeAll(
  store: ObjectStore,
  keys: readonly string[],
  signal: AbortSignal,
): Promise<LeftObject[]> {
  const left: LeftObject[] = [];
  for (let at = 0; at < keys.length; at += REMOVALS_AT_A_TIME) {
    await Promise.all(
      keys.slice(at, at + REMOVALS_AT_A_TIME).map(async (key) => {
        try {
          await store.remove(key, { signal });
        } catch (error) {
          left.push({ key, reason: messageOf(error) });
        }
      }),
    );
  }
  return left;
}
