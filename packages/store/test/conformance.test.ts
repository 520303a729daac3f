import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { PresyncError } from '@presync/runtime/errors';
import { type CaseResult, leftBehind, runConformance } from '@presync/store/conformance';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectStore } from '@presync/store/object-store';
import { trackPuts } from '../src/lib/tracked-puts.ts';
import { always, keysOf, refusing } from './refusing.ts';

const SMALL = { largeBytes: 1000, manyObjects: 10 };
const CORNER = 'checks/0/';
const BODY = Buffer.from('x');

const signal = AbortSignal.timeout(120_000);

function outcomes(results: readonly CaseResult[], outcome: CaseResult['outcome']): string[] {
  return results.filter((result) => result.outcome === outcome).map(({ name }) => name);
}

test('a sound store has a good result for each promise that is asked of it', async () => {
  const store = createMemoryStore();
  const told: string[] = [];
  const results = await runConformance(store, {
    ...SMALL,
    concurrency: 4,
    onResult: ({ name }) => told.push(name),
    signal,
  });
  assert.deepEqual(outcomes(results, 'failed'), []);
  assert.ok(outcomes(results, 'ok').length >= 25, `${outcomes(results, 'ok').length} promises`);
  assert.deepEqual(
    results.filter(({ outcome }) => outcome === 'not applicable').map(({ trait }) => trait),
    outcomes(results, 'not applicable').map(() => 'writable'),
  );
  assert.deepEqual(told.toSorted(), results.map(({ name }) => name).toSorted());
  assert.equal(new Set(told).size, told.length, 'two promises have one name');
  assert.deepEqual(await keysOf(store), []);
});

test('what a store cannot do is not asked of it, and the trait is told', async () => {
  const memory = createMemoryStore();
  const readOnly: ObjectStore = {
    ...memory,
    traits: { writable: false, listable: false },
    put: async () => Promise.reject(new PresyncError('STORE_READ_ONLY', 'no')),
    remove: async () => Promise.reject(new PresyncError('STORE_READ_ONLY', 'no')),
    list: () => {
      throw new PresyncError('STORE_FAILED', 'no');
    },
  };
  const results = await runConformance(readOnly, { ...SMALL, writer: memory, signal });
  assert.deepEqual(outcomes(results, 'failed'), []);
  assert.deepEqual(
    new Set(results.flatMap(({ topic, trait }) => (trait === undefined ? [] : [`${topic}: ${trait}`]))),
    new Set([
      'listing: no listing',
      'consistency: read only',
      'conditional writes: read only',
      'writes: read only',
      'aborts: read only',
    ]),
  );
  assert.deepEqual(await keysOf(memory), []);
});

test('a broken promise has its error, the others go on, and all is removed', async () => {
  const memory = createMemoryStore();
  const store: ObjectStore = {
    ...memory,
    // It keeps what is there, whatever is put.
    async put(key, body, call) {
      const info = await memory.stat(key, call);
      return info !== undefined && call.condition === undefined ? info : memory.put(key, body, call);
    },
  };
  const results = await runConformance(store, { ...SMALL, signal });
  const failed = results.filter(({ outcome }) => outcome === 'failed');
  assert.ok(failed.length > 0 && failed.length < 10, String(failed.map(({ name }) => name)));
  for (const { error, left } of failed) {
    assert.equal(error?.code, 'STORE_FAILED');
    assert.match(error.message, /^the store breaks a promise/);
    assert.ok(error.hint !== undefined);
    assert.deepEqual(left, []);
  }
  assert.ok(results.every(({ milliseconds }) => milliseconds >= 0));
  assert.deepEqual(await keysOf(store), []);
});

test('an abort ends it, and what the cases under way had put is removed', async () => {
  const memory = createMemoryStore();
  const stop = new AbortController();
  let puts = 0;
  const slow: ObjectStore = {
    ...memory,
    // A store may carry out what the caller has given up.
    async put(key, body, call) {
      if (++puts === 20) stop.abort();
      await delay(5);
      return memory.put(key, body, { ...call, signal });
    },
  };
  await assert.rejects(runConformance(slow, { ...SMALL, concurrency: 4, signal: stop.signal }), {
    code: 'ABORTED',
  });
  assert.ok(puts >= 20 && puts < 60, `${puts} puts`);
  assert.deepEqual(await keysOf(memory), []);
  await delay(50);
  assert.deepEqual(await keysOf(memory), [], 'something came later');
});

test('what may not be removed is named, though the promise is kept', async () => {
  const store = refusing({ remove: always });
  const results = await runConformance(store, { ...SMALL, signal });
  const stat = results.find(({ topic, outcome }) => topic === 'objects' && outcome === 'ok');
  assert.ok(stat !== undefined && stat.left.length > 0, 'nothing is told as left');
  assert.deepEqual(results.flatMap(({ left }) => left.map(({ key }) => key)).toSorted(), await keysOf(store));
  const { message, hint } = leftBehind(stat.left);
  assert.match(message, /could not be removed again: checks\/[0-9a-f]{16}\/.*the store refuses to remove/);
  assert.match(hint ?? '', /checks\//);
});

test('the record of puts removes what a store does not list', async () => {
  const memory = createMemoryStore();
  const { store, cleanUp } = trackPuts(refusing({ list: always }, memory), CORNER);
  await store.put(`${CORNER}a`, BODY, { signal });
  await store.put(`${CORNER}b`, BODY, { signal });
  await store.remove(`${CORNER}b`, { signal });
  assert.deepEqual(await cleanUp(), []);
  assert.deepEqual(await keysOf(memory), []);
});

test('a put whose answer was lost is removed, where nothing can be listed', async () => {
  const memory = createMemoryStore();
  const losing: ObjectStore = {
    ...refusing({ list: always }, memory),
    async put(key, body, call) {
      await memory.put(key, body, call);
      throw new PresyncError('STORE_UNREACHABLE', 'the answer was lost', { retryable: true });
    },
  };
  const { store, cleanUp } = trackPuts(losing, CORNER);
  await assert.rejects(store.put(`${CORNER}a`, BODY, { signal }), { code: 'STORE_UNREACHABLE' });
  assert.deepEqual(await cleanUp(), []);
  assert.deepEqual(await keysOf(memory), []);
});

test('a put that was refused is not told as left', async () => {
  const { store, cleanUp } = trackPuts(refusing({ put: always, remove: always, list: always }), CORNER);
  await assert.rejects(store.put(`${CORNER}a`, BODY, { signal }), { code: 'STORE_FORBIDDEN' });
  assert.deepEqual(await cleanUp(), []);
});

test('a put that is refused after one that was carried out does not hide it', async () => {
  const memory = createMemoryStore();
  const { store, cleanUp } = trackPuts(
    refusing({ put: (_, exists) => exists, list: always }, memory),
    CORNER,
  );
  await store.put(`${CORNER}a`, BODY, { signal });
  await assert.rejects(store.put(`${CORNER}a`, BODY, { signal }), { code: 'STORE_FORBIDDEN' });
  assert.deepEqual(await cleanUp(), []);
  assert.deepEqual(await keysOf(memory), []);
});

test('writes under way are waited for, and none begins after the end', async () => {
  const memory = createMemoryStore();
  const slow: ObjectStore = {
    ...memory,
    async put(key, body, call) {
      await delay(50);
      return memory.put(key, body, call);
    },
  };
  const { store, cleanUp } = trackPuts(slow, CORNER);
  const underWay = store.put(`${CORNER}a`, BODY, { signal });
  const cleaned = cleanUp();
  await assert.rejects(store.put(`${CORNER}b`, BODY, { signal }), { code: 'ABORTED' });
  assert.deepEqual(await cleaned, []);
  await underWay;
  await delay(60);
  assert.deepEqual(await keysOf(memory), []);
});

test('what came after its removal is found by the listing', async () => {
  const memory = createMemoryStore();
  let removals = 0;
  const late: ObjectStore = {
    ...memory,
    async remove(key, call) {
      await memory.remove(key, call);
      // A put that timed out, and is carried out now.
      if (removals++ === 0) await memory.put(key, BODY, call);
    },
  };
  const { store, cleanUp } = trackPuts(late, CORNER);
  await store.put(`${CORNER}a`, BODY, { signal });
  assert.deepEqual(await cleanUp(), []);
  assert.deepEqual(await keysOf(memory), []);
});
