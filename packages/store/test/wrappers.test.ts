import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { PresyncError } from '@presync/runtime/errors';
import { createFileStore } from '@presync/store/file';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectInfo, ObjectStore } from '@presync/store/object-store';
import { withLimit } from '@presync/store/with-limit';
import { type StoreObservation, withMetrics } from '@presync/store/with-metrics';
import { withRetry } from '@presync/store/with-retry';

const signal = AbortSignal.timeout(120_000);
const QUICK = { minDelayMs: 1, maxDelayMs: 5 };

function passing(retryAfterMs?: number): PresyncError {
  return new PresyncError('STORE_FAILED', 'a fault', { retryable: true, retryAfterMs });
}

/** The store, with an error before or after the work of the first calls. */
function faulty(
  store: ObjectStore,
  faults: ('before' | 'after' | undefined)[],
): { store: ObjectStore; calls: string[] } {
  const calls: string[] = [];
  async function around<T>(name: string, work: () => Promise<T>): Promise<T> {
    calls.push(name);
    const fault = faults.shift();
    if (fault === 'before') throw passing();
    const result = await work();
    if (fault === 'after') throw passing();
    return result;
  }
  return {
    calls,
    store: {
      ...store,
      stat: (key, call) => around('stat', () => store.stat(key, call)),
      read: (key, call) => around('read', () => store.read(key, call)),
      put: (key, body, call) => around('put', () => store.put(key, body, call)),
      remove: (key, call) => around('remove', () => store.remove(key, call)),
      async *list(prefix, call) {
        let given = 0;
        for await (const info of store.list(prefix, call)) {
          if (++given === 3) await around('list', async () => undefined);
          yield info;
        }
      },
    },
  };
}

test('every adapter and wrapper has every method', async () => {
  const memory = createMemoryStore();
  const names = ['location', 'traits', 'stat', 'read', 'put', 'remove', 'list', 'close'].sort();
  const all = [
    memory,
    createFileStore({ dir: '/none' }),
    withRetry(memory),
    withLimit(memory, { concurrency: 1 }),
    withMetrics(memory, { observe: () => undefined }),
  ];
  for (const store of all) assert.deepEqual(Object.keys(store).sort(), names);
});

test('what may pass is tried again, as often as is said and no more', async () => {
  const memory = createMemoryStore();
  await memory.put('a', Buffer.from('x'), { signal });
  const twice = faulty(memory, ['before', 'before']);
  assert.equal((await withRetry(twice.store, { attempts: 3, ...QUICK }).stat('a', { signal }))?.size, 1);
  assert.equal(twice.calls.length, 3);
  const thrice = faulty(memory, ['before', 'before', 'before']);
  await assert.rejects(withRetry(thrice.store, { attempts: 3, ...QUICK }).stat('a', { signal }), {
    message: 'a fault',
  });
  assert.equal(thrice.calls.length, 3);
  const counted = faulty(memory, []);
  const absent = withRetry(counted.store, QUICK).read('absent', { maxBytes: 1, signal });
  await assert.rejects(absent, { code: 'OBJECT_NOT_FOUND' });
  assert.equal(counted.calls.length, 1);
});

test('Retry-After is waited for, and a signal ends the wait', async () => {
  const memory = createMemoryStore();
  const seen: number[] = [];
  let left = 1;
  const busy: ObjectStore = {
    ...memory,
    stat: async (key, call) => (left-- > 0 ? Promise.reject(passing(300)) : memory.stat(key, call)),
  };
  const began = performance.now();
  await withRetry(busy, { ...QUICK, onRetry: ({ delayMs }) => seen.push(delayMs) }).stat('a', { signal });
  assert.ok(performance.now() - began >= 290);
  assert.ok((seen[0] ?? 0) >= 300 && seen.length === 1);

  const controller = new AbortController();
  left = 1000;
  const waiting = withRetry({ ...memory, stat: () => Promise.reject(passing(3_600_000)) }).stat('a', {
    signal: controller.signal,
  });
  setTimeout(() => controller.abort(), 20);
  await assert.rejects(waiting, { code: 'ABORTED' });
});

test('a conditional put that lost to itself has succeeded', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'presync-retry-'));
  const path = join(dir, 'body');
  const large = Buffer.alloc(9 * 1024 ** 2, 'presync ');
  await writeFile(path, large);
  try {
    for (const body of [Buffer.from('mine'), Buffer.alloc(0), large, { path, size: large.length }]) {
      const memory = createMemoryStore();
      const put = withRetry(faulty(memory, ['after']).store, QUICK).put('a', body, {
        condition: { ifAbsent: true },
        signal,
      });
      assert.equal((await put).version, (await memory.stat('a', { signal }))?.version);
    }
  } finally {
    await rm(dir, { recursive: true });
  }
  const memory = createMemoryStore();
  const { version } = await memory.put('a', Buffer.from('old'), { signal });
  const put = withRetry(faulty(memory, ['after']).store, QUICK).put('a', Buffer.from('new'), {
    condition: { ifVersion: version },
    signal,
  });
  assert.equal((await put).version, (await memory.stat('a', { signal }))?.version);
});

test('a conditional put that lost to another has failed', async () => {
  const body = Buffer.from('mine');
  const condition = { ifAbsent: true } as const;
  for (const theirs of ['other', 'mind', '']) {
    const memory = createMemoryStore();
    await memory.put('a', Buffer.from(theirs), { signal });
    const put = withRetry(faulty(memory, ['before']).store, QUICK).put('a', body, { condition, signal });
    await assert.rejects(put, { code: 'CONDITION_FAILED' });
  }
  // Without an earlier attempt of unknown outcome there is nothing to find out, even if the bytes are the same.
  const memory = createMemoryStore();
  await memory.put('a', body, { signal });
  await assert.rejects(withRetry(memory, QUICK).put('a', body, { condition, signal }), {
    code: 'CONDITION_FAILED',
  });
});

test('a listing goes on where it failed', async () => {
  const memory = createMemoryStore();
  const keys = Array.from({ length: 10 }, (_, index) => `k${index}`);
  for (const key of keys) await memory.put(key, Buffer.from(key), { signal });
  const found: ObjectInfo[] = [];
  const { store, calls } = faulty(memory, ['before', 'before']);
  for await (const info of withRetry(store, QUICK).list('', { signal })) found.push(info);
  assert.deepEqual(
    found.map((info) => info.key),
    keys,
  );
  assert.equal(calls.length, 3);
});

test('no more calls run at a time than is said', async () => {
  const memory = createMemoryStore();
  let running = 0;
  let most = 0;
  const slow: ObjectStore = {
    ...memory,
    async stat(key, call) {
      most = Math.max(most, ++running);
      await new Promise((resolve) => setTimeout(resolve, 5));
      running--;
      return memory.stat(key, call);
    },
  };
  const store = withLimit(slow, { concurrency: 3 });
  await Promise.all(Array.from({ length: 20 }, () => store.stat('a', { signal })));
  assert.equal(most, 3);
});

test('a waiting call whose signal fires leaves the queue and never runs', async () => {
  const memory = createMemoryStore();
  const gate = Promise.withResolvers<undefined>();
  const ran: string[] = [];
  const held: ObjectStore = {
    ...memory,
    stat(key) {
      ran.push(key);
      return gate.promise;
    },
  };
  const store = withLimit(held, { concurrency: 1 });
  const first = store.stat('first', { signal });
  const controller = new AbortController();
  const second = store.stat('second', { signal: controller.signal });
  const third = store.stat('third', { signal });
  controller.abort();
  await assert.rejects(second, { code: 'ABORTED' });
  gate.resolve(undefined);
  await Promise.all([first, third]);
  assert.deepEqual(ran, ['first', 'third']);
});

test('the consumer of a limited listing may make other calls', async () => {
  const memory = createMemoryStore();
  for (const key of ['a', 'b', 'c']) await memory.put(key, Buffer.from(key), { signal });
  const store = withLimit(memory, { concurrency: 1 });
  const read: string[] = [];
  for await (const { key } of store.list('', { signal })) {
    read.push(Buffer.from((await store.read(key, { maxBytes: 1, signal })).bytes).toString());
  }
  assert.deepEqual(read, ['a', 'b', 'c']);
});

test('every call is observed once, with its outcome and bytes', async () => {
  const seen: StoreObservation[] = [];
  const store = withMetrics(createMemoryStore(), { observe: (observation) => seen.push(observation) });
  await store.put('a', Buffer.alloc(10), { signal });
  await store.read('a', { maxBytes: 10, range: { offset: 4, length: 100 }, signal });
  await store.stat('b', { signal });
  await assert.rejects(store.put('a', Buffer.alloc(3), { condition: { ifAbsent: true }, signal }));
  for await (const info of store.list('', { signal })) assert.equal(info.key, 'a');
  await assert.rejects(async () => {
    for await (const info of store.list('', { signal: AbortSignal.abort() })) assert.fail(info.key);
  });
  await store.remove('a', { signal });
  assert.deepEqual(
    seen.map(({ operation, outcome, bytes }) => `${operation} ${outcome} ${bytes}`),
    [
      'put ok 10',
      'read ok 6',
      'stat absent 0',
      'put CONDITION_FAILED 0',
      'list ok 0',
      'list ABORTED 0',
      'remove ok 0',
    ],
  );
  assert.ok(seen.every(({ seconds }) => seconds >= 0 && seconds < 60));
});
