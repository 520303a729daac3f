import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { PresyncError } from '@presync/runtime/errors';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectStore } from '@presync/store/object-store';
import { type Clock, measureGets, measureSpeed, recommend, type SpeedPoint } from '@presync/store/speed';
import { always, keysOf, refusing } from './refusing.ts';

const signal = AbortSignal.timeout(120_000);

interface VirtualClock extends Clock {
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** Time that passes only while nothing else is to be done, so that no other work on this machine counts. */
function virtualClock(): VirtualClock {
  const alarms: { at: number; ring: () => void }[] = [];
  let time = 0;
  let running = false;
  async function run(): Promise<void> {
    running = true;
    while (alarms.length > 0) {
      // Calls of a memory store give way a few times.
      for (let turn = 0; turn < 10; turn++) await nextTurn();
      alarms.sort((a, b) => a.at - b.at);
      const next = alarms.shift();
      if (next === undefined) break;
      time = next.at;
      next.ring();
    }
    running = false;
  }
  function after(ms: number, ring: () => void): void {
    alarms.push({ at: time + ms, ring });
    if (!running) void run();
  }
  return {
    now: () => time,
    timeout: (ms) => {
      const controller = new AbortController();
      after(ms, () => controller.abort());
      return controller.signal;
    },
    sleep: (ms, stop) =>
      new Promise((resolve, reject) => {
        const give = (): void => reject(new PresyncError('ABORTED', 'aborted'));
        if (stop?.aborted === true) give();
        stop?.addEventListener('abort', give);
        after(ms, () => {
          stop?.removeEventListener('abort', give);
          resolve();
        });
      }),
  };
}

const OPTIONS = { objectBytes: 1000, concurrencies: [1, 4, 16], budgetMs: 600, signal };

/** A store whose calls take so long, but no longer with others beside them, as over a long line. */
function distant(memory: ObjectStore, ms: number, clock: VirtualClock): ObjectStore & { most: () => number } {
  let underWay = 0;
  let most = 0;
  async function held<T>(call: { signal: AbortSignal }, work: () => Promise<T>): Promise<T> {
    most = Math.max(most, ++underWay);
    try {
      await clock.sleep(ms, call.signal);
      return await work();
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
  const clock = virtualClock();
  const store = distant(memory, 20, clock);
  const told: string[] = [];
  const { put, get } = await measureSpeed(store, {
    ...OPTIONS,
    clock,
    onPoint: (operation, { concurrency }) => told.push(`${operation} ${concurrency}`),
  });
  for (const { points, recommended } of [put, get]) {
    // A hundred milliseconds for each: five rounds.
    assert.deepEqual(
      points.map(({ concurrency, calls }) => [concurrency, calls]),
      [
        [1, 5],
        [4, 20],
        [16, 80],
      ],
    );
    assert.equal(recommended, 16);
    for (const { concurrency, medianMs, p95Ms, seconds, bytes, bytesPerSecond } of points) {
      assert.deepEqual([medianMs, p95Ms, seconds], [20, 20, 0.1]);
      assert.equal(bytes, 5000 * concurrency);
      assert.equal(bytesPerSecond, 50_000 * concurrency);
    }
  }
  assert.equal(store.most(), 16);
  assert.deepEqual(told, ['put 1', 'put 4', 'put 16', 'get 1', 'get 4', 'get 16']);
  assert.deepEqual(await keysOf(memory), []);
});

test('a line that is full before is not asked for more than it can give', async () => {
  const memory = createMemoryStore();
  const clock = virtualClock();
  // One call after another, 40 ms each: 16 of them take longer than twice their share of the time.
  let line: Promise<unknown> = Promise.resolve();
  const narrow: ObjectStore = {
    ...memory,
    put: (key, body, call) => {
      const mine = line.then(() => clock.sleep(40)).then(() => memory.put(key, body, call));
      line = mine.catch(() => undefined);
      return mine;
    },
  };
  const { put } = await measureSpeed(narrow, { ...OPTIONS, clock });
  assert.deepEqual(
    put.points.map(({ concurrency }) => concurrency),
    [1, 4],
  );
  assert.equal(put.recommended, 1);
  assert.deepEqual(await keysOf(memory), []);
});

test('a store that is too slow for a single call is given up in time', async () => {
  const memory = createMemoryStore();
  const clock = virtualClock();
  const store = distant(memory, 60_000, clock);
  const { put, get } = await measureSpeed(store, { ...OPTIONS, clock });
  assert.deepEqual([put.points, put.recommended], [[], undefined]);
  assert.deepEqual([get.points, get.recommended], [[], undefined]);
  assert.ok(clock.now() <= 800, `given up after ${clock.now()} ms`);
});

test('an error of the store ends it, and what was put is removed', async () => {
  const memory = createMemoryStore();
  const clock = virtualClock();
  let puts = 0;
  const store = distant(refusing({ put: () => ++puts > 10 }, memory), 10, clock);
  await assert.rejects(measureSpeed(store, { ...OPTIONS, clock }), { code: 'STORE_FORBIDDEN' });
  assert.ok(puts > 10);
  assert.deepEqual(await keysOf(memory), []);
});

test('an abort ends it, and what was put is removed, or named', async () => {
  for (const forbidden of [false, true]) {
    const memory = createMemoryStore();
    const clock = virtualClock();
    const stop = new AbortController();
    const left: string[] = [];
    const store = distant(forbidden ? refusing({ remove: always }, memory) : memory, 5, clock);
    const measured = measureSpeed(store, {
      ...OPTIONS,
      clock,
      onLeft: (more) => left.push(...more.map(({ key }) => key)),
      signal: stop.signal,
    });
    void clock.sleep(62).then(() => stop.abort());
    await assert.rejects(measured, { code: 'ABORTED' });
    const keys = await keysOf(memory);
    assert.equal(keys.length > 0, forbidden);
    assert.deepEqual(left.toSorted(), keys);
  }
});

test('gets of objects that are there are measured without a put', async () => {
  const memory = createMemoryStore();
  const clock = virtualClock();
  const objects = [1, 2, 3].map((size) => ({ key: `chunks/${size}`, size }));
  for (const { key, size } of objects) await memory.put(key, Buffer.alloc(size), { signal });
  const store = distant(refusing({ put: always }, memory), 20, clock);
  const { points, recommended } = await measureGets(store, objects, { ...OPTIONS, clock });
  // Two hundred milliseconds for each: ten rounds. The objects take turns.
  assert.deepEqual(
    points.map(({ calls, bytes }) => [calls, bytes]),
    [
      [10, 19],
      [40, 80],
      [160, 321],
    ],
  );
  assert.equal(recommended, 16);
  assert.deepEqual((await measureGets(memory, [], OPTIONS)).points, []);
});
