import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createMemoryStore } from '@presync/store/memory';
import { createPace, withBandwidth } from '@presync/store/with-bandwidth';
import { createAdaptiveLimit } from '../src/lib/adaptive-limit.ts';

const signal = AbortSignal.timeout(60_000);

/** Runs `seconds` windows of a road that carries `capacity` MB/s, 1 MB/s a place at most, and gives the places at the end. */
async function drive(
  limit: ReturnType<typeof createAdaptiveLimit>,
  clock: { now: number },
  capacity: number,
  seconds: number,
): Promise<number> {
  for (let second = 0; second < seconds; second++) {
    const places = limit.places;
    const held: ((bytes: number) => void)[] = [];
    for (let n = 0; n < places; n++) held.push(await limit.acquire(signal));
    // One more waits, so that the window counts as saturated.
    const waiting = limit.acquire(signal);
    clock.now += 1000;
    for (const release of held) release((Math.min(capacity, places) / places) * 1e6);
    (await waiting)(0);
  }
  return limit.places;
}

test('places grow while throughput grows, and not beyond', async () => {
  const clock = { now: 0 };
  const wide = createAdaptiveLimit({ max: 64, now: () => clock.now });
  assert.equal(wide.places, 8);
  assert.ok((await drive(wide, clock, 1000, 12)) >= 48);
  const narrow = createAdaptiveLimit({ max: 64, now: () => clock.now });
  const places = await drive(narrow, clock, 10, 40);
  assert.ok(places <= 24, `${places} places where 10 do`);
});

test('places shrink when the store has too much to do, once a window', () => {
  const clock = { now: 10_000 };
  const limit = createAdaptiveLimit({ max: 64, initial: 40, now: () => clock.now });
  for (let n = 0; n < 10; n++) limit.backOff();
  assert.equal(limit.places, 28);
  for (let n = 0; n < 40; n++) {
    clock.now += 1000;
    limit.backOff();
  }
  assert.equal(limit.places, 1);
});

test('a place that is waited for is not lost when the waiting ends', async () => {
  const limit = createAdaptiveLimit({ max: 1, initial: 1 });
  const release = await limit.acquire(signal);
  const controller = new AbortController();
  const waiting = limit.acquire(controller.signal);
  controller.abort();
  await assert.rejects(waiting, { code: 'ABORTED' });
  release(0);
  // A second release of the same place must not make another one.
  release(0);
  const again = await limit.acquire(signal);
  let second = false;
  const waited = limit.acquire(signal).then((done) => {
    second = true;
    done(0);
  });
  await new Promise((resolve) => setTimeout(resolve, 10));
  assert.equal(second, false);
  again(0);
  await waited;
});

test('a pace holds on average, in order, and gives back what was not moved', async () => {
  const pace = createPace(1_000_000);
  const began = performance.now();
  const order: number[] = [];
  await Promise.all(
    Array.from({ length: 6 }, async (_, n) => {
      const settle = await pace.take(100_000, signal);
      order.push(n);
      settle(100_000);
    }),
  );
  // Six of a tenth of a second each: the last begins after five, less the credit of a quarter of a second.
  const took = performance.now() - began;
  assert.ok(took >= 240 && took < 2000, `${took} ms`);
  assert.deepEqual(order, [0, 1, 2, 3, 4, 5]);
  const settle = await pace.take(50_000_000, signal);
  settle(0);
  const free = performance.now();
  await pace.take(1, signal);
  assert.ok(performance.now() - free < 1000);
});

test('a pace limits several stores together, reads and puts', async () => {
  const pace = createPace(1_000_000);
  const [a, b] = [createMemoryStore(), createMemoryStore()].map((store) => withBandwidth(store, pace));
  assert.ok(a !== undefined && b !== undefined);
  const began = performance.now();
  await Promise.all([
    a.put('object', Buffer.alloc(200_000), { signal }),
    b.put('object', Buffer.alloc(200_000), { signal }),
  ]);
  await Promise.all([
    a.read('object', { maxBytes: 200_000, signal }),
    b.read('object', { maxBytes: 200_000, signal }),
  ]);
  const took = performance.now() - began;
  assert.ok(took >= 340 && took < 4000, `${took} ms`);
});

test('a signal ends the wait for a pace', async () => {
  const pace = createPace(1000);
  await pace.take(1_000_000, signal);
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 20);
  await assert.rejects(pace.take(1, controller.signal), { code: 'ABORTED' });
});

test('a place that was given at the instant at which the waiting ended is given on', async () => {
  const limit = createAdaptiveLimit({ max: 1, initial: 1 });
  const release = await limit.acquire(signal);
  const controller = new AbortController();
  const waiting = limit.acquire(controller.signal);
  release(0);
  controller.abort();
  await assert.rejects(waiting, { code: 'ABORTED' });
  (await limit.acquire(AbortSignal.timeout(1000)))(0);
});

test('a pace that was not waited for is given back', async () => {
  const pace = createPace(1_000_000);
  await pace.take(500_000, signal);
  const controller = new AbortController();
  const waiting = pace.take(60_000_000, controller.signal);
  controller.abort();
  await assert.rejects(waiting, { code: 'ABORTED' });
  const began = performance.now();
  await pace.take(1, AbortSignal.timeout(5000));
  assert.ok(performance.now() - began < 3000);
});
