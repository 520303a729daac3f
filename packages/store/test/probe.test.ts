import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PresyncError } from '@presync/runtime/errors';
import { storeConformance } from '@presync/store/conformance';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectStore, PutCondition } from '@presync/store/object-store';
import { proveConditionalWrites } from '@presync/store/probe';

const signal = AbortSignal.timeout(120_000);

/** A store that forgets the conditions for which `ignores` is true, as some S3-compatible servers do. */
function forgetful(ignores: (condition: PutCondition, exists: boolean) => boolean): ObjectStore {
  const memory = createMemoryStore();
  return {
    ...memory,
    async put(key, body, call) {
      const exists = (await memory.stat(key, call)) !== undefined;
      const ignored = call.condition !== undefined && ignores(call.condition, exists);
      return memory.put(key, body, ignored ? { signal: call.signal } : call);
    },
  };
}

const FORGETFUL: Record<string, ObjectStore> = {
  'ignores If-None-Match': forgetful((condition) => 'ifAbsent' in condition),
  'ignores If-Match': forgetful((condition, exists) => 'ifVersion' in condition && exists),
  'takes If-Match on a missing object': forgetful((condition, exists) => 'ifVersion' in condition && !exists),
};

async function keysOf(store: ObjectStore): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list('', { signal })) keys.push(key);
  return keys;
}

for (const [name, store] of Object.entries(FORGETFUL)) {
  test(`a store that ${name} is not published to`, async () => {
    await assert.rejects(proveConditionalWrites(store, { signal }), { code: 'STORE_NO_CONDITIONAL_WRITES' });
    assert.deepEqual(await keysOf(store), [], 'probes were left behind');
  });

  test(`a store that ${name} does not conform`, async () => {
    const failed: string[] = [];
    for (const { name: promise, run } of storeConformance({ largeBytes: 1000, manyObjects: 10 })) {
      await run(store, { signal }).catch((error: unknown) => {
        assert.ok(
          error instanceof PresyncError && error.message.startsWith('the store breaks a promise'),
          String(error),
        );
        failed.push(promise);
      });
    }
    assert.notDeepEqual(failed, []);
    assert.deepEqual(await keysOf(store), [], 'objects were left behind');
  });
}

test('a put that is refused and carried out all the same is found out', async () => {
  const memory = createMemoryStore();
  const store: ObjectStore = {
    ...memory,
    async put(key, body, call) {
      try {
        return await memory.put(key, body, call);
      } catch (error) {
        await memory.put(key, body, { signal });
        throw error;
      }
    },
  };
  await assert.rejects(proveConditionalWrites(store, { signal }), PresyncError);
  assert.deepEqual(await keysOf(store), []);
});

test('one answer that is not that to the request makes no store unfit', async () => {
  type Put = ObjectStore['put'];
  const lies: Record<string, (put: Put, calls: number) => Put> = {
    'a refusal is told as a success': (put, calls) => async (key, body, call) => {
      try {
        return await put(key, body, call);
      } catch (error) {
        if (calls === 2) return { version: 'of another object' };
        throw error;
      }
    },
    'a success has the version of another object': (put, calls) => async (key, body, call) => {
      const { version } = await put(key, body, call);
      return { version: calls === 1 ? 'of another object' : version };
    },
  };
  for (const [name, lie] of Object.entries(lies)) {
    const memory = createMemoryStore();
    let calls = 0;
    const glitching: ObjectStore = {
      ...memory,
      put: (key, body, call) => {
        calls += 1;
        return lie(memory.put.bind(memory), calls)(key, body, call);
      },
    };
    await proveConditionalWrites(glitching, { signal });
    assert.ok(calls > 5, name);
    assert.deepEqual(await keysOf(memory), []);
  }
});

test('a store that cannot be written is told as such', async () => {
  const memory = createMemoryStore();
  const readOnly: ObjectStore = { ...memory, traits: { writable: false, listable: true } };
  await assert.rejects(proveConditionalWrites(readOnly, { signal }), { code: 'STORE_READ_ONLY' });
  const forbidden = new PresyncError('STORE_FORBIDDEN', 'no');
  const refused: ObjectStore = {
    ...memory,
    put: () => Promise.reject(forbidden),
    remove: () => Promise.reject(new Error('unlike')),
  };
  await assert.rejects(proveConditionalWrites(refused, { signal }), forbidden);
});
