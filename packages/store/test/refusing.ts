/** A store in memory that refuses some calls, as a cloud does without a permission. */
import { PresyncError } from '@presync/runtime/errors';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectStore } from '@presync/store/object-store';

export interface Refusals {
  stat?: (key: string) => boolean;
  read?: (key: string) => boolean;
  put?: (key: string, exists: boolean) => boolean;
  remove?: (key: string) => boolean;
  list?: () => boolean;
}

export const always = (): boolean => true;

export function refusing(refusals: Refusals, memory: ObjectStore = createMemoryStore()): ObjectStore {
  const refuse = (what: string): never => {
    throw new PresyncError('STORE_FORBIDDEN', `the store refuses to ${what}`, {
      hint: 'what an adapter guesses',
    });
  };
  return {
    ...memory,
    async stat(key, call) {
      return refusals.stat?.(key) === true ? refuse(`look at ${key}`) : memory.stat(key, call);
    },
    async read(key, call) {
      return refusals.read?.(key) === true ? refuse(`give ${key}`) : memory.read(key, call);
    },
    async put(key, body, call) {
      const exists = (await memory.stat(key, call)) !== undefined;
      return refusals.put?.(key, exists) === true ? refuse(`take ${key}`) : memory.put(key, body, call);
    },
    async remove(key, call) {
      return refusals.remove?.(key) === true ? refuse(`remove ${key}`) : memory.remove(key, call);
    },
    async *list(prefix, call) {
      if (refusals.list?.() === true) refuse('list');
      yield* memory.list(prefix, call);
    },
  };
}

export async function keysOf(store: ObjectStore): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list('', { signal: AbortSignal.timeout(10_000) })) keys.push(key);
  return keys;
}
