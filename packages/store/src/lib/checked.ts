import { assertKey, assertPrefix } from '../keys.ts';
import type { ObjectStore } from '../object-store.ts';

/** An adapter that is given only keys and prefixes which the contract allows. */
export function checked(adapter: ObjectStore): ObjectStore {
  return {
    ...adapter,
    async stat(key, call) {
      assertKey(key);
      return adapter.stat(key, call);
    },
    async read(key, call) {
      assertKey(key);
      return adapter.read(key, call);
    },
    async put(key, body, call) {
      assertKey(key);
      return adapter.put(key, body, call);
    },
    async remove(key, call) {
      assertKey(key);
      return adapter.remove(key, call);
    },
    async *list(prefix, call) {
      assertPrefix(prefix);
      yield* adapter.list(prefix, call);
    },
  };
}
