import { bodySize } from './lib/calls.ts';
import type { Pace } from './lib/pace.ts';
import type { ObjectStore } from './object-store.ts';

export { createPace, type Pace } from './lib/pace.ts';

/** The same store, whose reads and puts keep to a pace. Give several stores the same one to limit them together. */
export function withBandwidth(store: ObjectStore, pace: Pace): ObjectStore {
  return {
    location: store.location,
    traits: store.traits,
    stat: (key, call) => store.stat(key, call),
    async read(key, call) {
      const settle = await pace.take(
        Math.min(call.maxBytes, call.range?.length ?? call.maxBytes),
        call.signal,
      );
      let moved = 0;
      try {
        const data = await store.read(key, call);
        moved = data.bytes.byteLength;
        return data;
      } finally {
        settle(moved);
      }
    },
    async put(key, body, call) {
      // What is sent counts also when it is refused at the end.
      await pace.take(bodySize(body), call.signal);
      return store.put(key, body, call);
    },
    remove: (key, call) => store.remove(key, call),
    list: (prefix, call) => store.list(prefix, call),
    close: () => store.close(),
  } satisfies Required<ObjectStore>;
}
