import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isPresyncError } from '@presync/runtime/errors';
import { createPlaces } from '../src/lib/places.ts';
import { NEVER } from './support.ts';

test('no more than so many hold a place, and the others get theirs in the order in which they came', async () => {
  const places = createPlaces({ count: 2, patienceMs: 60_000 });
  const order: number[] = [];
  let held = 0;
  await Promise.all(
    Array.from({ length: 20 }, async (_, n) => {
      const leave = await places.take(NEVER);
      held += 1;
      assert.ok(held <= 2);
      order.push(n);
      await sleep(1);
      held -= 1;
      leave();
      // A second time gives nothing back.
      leave();
    }),
  );
  assert.deepEqual(
    order,
    Array.from({ length: 20 }, (_, n) => n),
  );
});

test('who waits in vain is told to come again, and costs no place', async () => {
  const places = createPlaces({ count: 1, patienceMs: 20 });
  const leave = await places.take(NEVER);
  await assert.rejects(
    places.take(NEVER),
    (error) => isPresyncError(error, 'STORE_FAILED') && error.retryable && error.retryAfterMs === 1000,
  );
  leave();
  (await places.take(NEVER))();
});

test('who goes while it waits costs no place', async () => {
  const places = createPlaces({ count: 1, patienceMs: 60_000 });
  const leave = await places.take(NEVER);
  const gone = new AbortController();
  const waiting = places.take(gone.signal);
  const next = places.take(NEVER);
  gone.abort();
  await assert.rejects(waiting, (error) => isPresyncError(error, 'ABORTED'));
  await assert.rejects(places.take(gone.signal), (error) => isPresyncError(error, 'ABORTED'));
  leave();
  (await next)();
  (await places.take(NEVER))();
});
