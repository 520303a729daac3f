import { limited, newLimiter } from './lib/limited.ts';
import { stepwise } from './lib/stepwise.ts';
import type { ObjectStore } from './object-store.ts';

export interface LimitOptions {
  /** Calls at a time, 1 or more. */
  concurrency: number;
}

/**
 * The same store, with at most `concurrency` calls under way at a time; the others wait in the order in which they
 * came. A waiting call whose signal fires leaves the queue at once. A listing takes a place for each step, not
 * between the steps, so that its consumer may make other calls.
 */
export function withLimit(store: ObjectStore, options: LimitOptions): ObjectStore {
  const limiter = newLimiter(options.concurrency);
  return {
    location: store.location,
    traits: store.traits,
    stat: (key, call) => limited(limiter, call.signal, () => store.stat(key, call)),
    read: (key, call) => limited(limiter, call.signal, () => store.read(key, call)),
    put: (key, body, call) => limited(limiter, call.signal, () => store.put(key, body, call)),
    remove: (key, call) => limited(limiter, call.signal, () => store.remove(key, call)),
    list: (prefix, call) =>
      stepwise(
        () => store.list(prefix, call),
        (step) => limited(limiter, call.signal, step),
      ),
    close: () => store.close(),
  } satisfies Required<ObjectStore>;
}
