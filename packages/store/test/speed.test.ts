import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { PresyncError } from '@presync/runtime/errors';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectStore } from '@presync/store/object-store';
import { measureGets, measureSpeed, recommend, type SpeedPoint } from '@presync/store/speed';
import { always, keysOf, refusing } from './refusing.ts';

const signal = AbortSignal.timeout(60_000);
const OPTIONS = { objectBytes: 1000, concurrencies: [1, 4, 16], budgetMs: 600, signal };

/** A store whose calls take so long, but no less with others beside them, as over a long line. */
function distant(memory: ObjectStore, ms: number): ObjectStore & { most: () => number } {
  let underWay = 0;
  let most = 0;
  async function held<T>(call: { signal: AbortSignal }, work: () => Promise<T>): Promise<T> {
    most = Math.max(most, ++underWay);
    try {
      await delay(ms, undefined, { signal: call.signal });
      return await work();
    } catch (error) {
      throw call.signal.aborted ? new PresyncError('ABORTED', 'aborted') : error;
    } finally {
      underWay--;
    }
  }
  return {
    ...memory,
    most: () => most,
    put: (key, body, call) => held(call, () => memory.put(key, body, call)),
    read: (key, call) => held(call, () => memory.read(key, call)),
  };
}

function point(concurrency: number, bytesPerSecond: number): SpeedPoint {
  return { concurrency, bytesPerSecond, calls: 1, bytes: 1, seconds: 1, medianMs: 1, p95Ms: 1 };
}

test('the smallest concurrency within 5 % of the best is recommended', () => {
  assert.equal(recommend([point(1, 50), point(4, 95), point(16, 100), point(64, 99)]), 4);
  assert.equal(recommend([point(1, 50), point(4, 94), point(16, 100), point(64, 99)]), 16);
  assert.equal(recommend([point(1, 10)]), 1);
  assert.equal(recommend([]), undefined);
});

test('more calls at a time are faster over a long line, and no more than asked for are made', async () => {
  const memory = createMemoryStore();
  const store = distant(memory, 60);
  const told: string[] = [];
  const { put, get } = await measureSpeed(store, {
    ...OPTIONS,
    budgetMs: 1800,
    onPoint: (operation, { concurrency }) => told.push(`${operation} ${concurrency}`),
  });
  for (const { points, recommended } of [put, get]) {
    assert.deepEqual(
      points.map(({ concurrency }) => concurrency),
      [1, 4, 16],
    );
    assert.equal(recommended, 16);
    const [first, , last] = points;
    assert.ok((last?.bytesPerSecond ?? 0) > 3 * (first?.bytesPerSecond ?? 0));
    for (const { medianMs, p95Ms, bytes, calls } of points) {
      assert.ok(medianMs >= 55 && p95Ms >= medianMs, `${medianMs} ${p95Ms}`);
      assert.equal(bytes, 1000 * calls);
    }
  }
  assert.equal(store.most(), 16);
  assert.deepEqual(told, ['put 1', 'put 4', 'put 16', 'get 1', 'get 4', 'get 16']);
  assert.deepEqual(await keysOf(memory), []);
});

test('a line that is full before is not asked for more than it can give', async () => {
  const memory = createMemoryStore();
  // One call after another, 60 ms each: 16 of them take longer than their share of the time.
  let line: Promise<unknown> = Promise.resolve();
  const narrow: ObjectStore = {
    ...memory,
    put: (key, body, call) => {
      const mine = line.then(() => delay(60)).then(() => memory.put(key, body, call));
      line = mine.catch(() => undefined);
      return mine;
    },
  };
  const began = performance.now();
  const { put } = await measureSpeed(narrow, OPTIONS);
  assert.ok(put.points.length < 3, `${put.points.length} levels`);
  assert.equal(put.recommended, 1);
  assert.ok(performance.now() - began < 3000);
  assert.deepEqual(await keysOf(memory), []);
});

test('a store that is too slow for a single call is given up in time', async () => {
  const memory = createMemoryStore();
  const began = performance.now();
  const { put, get } = await measureSpeed(distant(memory, 60_000), OPTIONS);
  assert.deepEqual([put.points, put.recommended], [[], undefined]);
  assert.deepEqual([get.points, get.recommended], [[], undefined]);
  assert.ok(performance.now() - began < 3000);
});

test('an error of the store ends it, and what was put is removed', async () => {
  const memory = createMemoryStore();
  let puts = 0;
  await assert.rejects(measureSpeed(refusing({ put: () => ++puts > 10 }, memory), OPTIONS), {
    code: 'STORE_FORBIDDEN',
  });
  assert.deepEqual(await keysOf(memory), []);
});

test('an abort ends it, and what was put is removed, or named', async () => {
  for (const forbidden of [false, true]) {
    const memory = createMemoryStore();
    const stop = new AbortController();
    const left: string[] = [];
    const store = distant(forbidden ? refusing({ remove: always }, memory) : memory, 5);
    const measured = measureSpeed(store, {
      ...OPTIONS,
      onLeft: (more) => left.push(...more.map(({ key }) => key)),
      signal: stop.signal,
    });
    setTimeout(() => stop.abort(), 60);
    await assert.rejects(measured, { code: 'ABORTED' });
    const keys = await keysOf(memory);
    assert.equal(keys.length > 0, forbidden);
    assert.deepEqual(left.toSorted(), keys);
  }
});

test('gets of objects that are there are measured without a put', async () => {
  const memory = createMemoryStore();
  const objects = [1, 2, 3].map((size) => ({ key: `chunks/${size}`, size }));
  for (const { key, size } of objects) await memory.put(key, Buffer.alloc(size), { signal });
  const { points, recommended } = await measureGets(refusing({ put: always }, memory), objects, OPTIONS);
  assert.equal(points.length, 3);
  assert.ok(recommended !== undefined);
  for (const { bytes, calls } of points) assert.ok(bytes >= calls && bytes <= 3 * calls);
  assert.deepEqual((await measureGets(memory, [], OPTIONS)).points, []);
});
