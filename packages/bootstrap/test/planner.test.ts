import assert from 'node:assert/strict';
import { test } from 'node:test';
import { estimateReady, isWarpFaster } from '../src/planner.ts';

const HOUR = 3600;

test('a snapshot of yesterday, by hand', () => {
  const estimate = estimateReady({
    ageSeconds: 23 * HOUR,
    blockTimeMs: 6000,
    importRate: 20,
    fetchBytes: 360e9,
    bytesPerSecond: 100e6,
  });
  // An hour of download makes it a day: 14,400 blocks, of which 20 a second come and one in six seconds is new.
  assert.deepEqual([estimate.restoreSeconds, estimate.blocksBehind], [HOUR, 14_400]);
  assert.ok(Math.abs((estimate.catchUpSeconds ?? 0) - 14_400 / (20 - 1 / 6)) < 1e-6);
  assert.equal(estimate.readySeconds, HOUR + (estimate.catchUpSeconds ?? 0));
  assert.equal(isWarpFaster(estimate, HOUR), true);
  assert.equal(isWarpFaster(estimate, 2 * HOUR), false);
});

test('a node that imports no faster than the chain goes never gets there, and any warp sync is faster', () => {
  const estimate = estimateReady({
    ageSeconds: HOUR,
    blockTimeMs: 500,
    importRate: 2,
    fetchBytes: 1,
    bytesPerSecond: 1e9,
  });
  assert.deepEqual([estimate.catchUpSeconds, estimate.readySeconds], [null, null]);
  assert.equal(isWarpFaster(estimate, 30 * 24 * HOUR), true);
});

test('simulated block by block, it comes to the same', () => {
  const facts = {
    ageSeconds: 5 * HOUR,
    blockTimeMs: 6000,
    importRate: 10,
    fetchBytes: 1e9,
    bytesPerSecond: 1e6,
  };
  const { catchUpSeconds } = estimateReady(facts);
  const restore = facts.fetchBytes / facts.bytesPerSecond;
  let held = 0;
  let seconds = 0;
  const head = (): number => (facts.ageSeconds + restore + seconds) / 6;
  while (held < head()) {
    held += 10;
    seconds += 1;
  }
  assert.ok(Math.abs(seconds - (catchUpSeconds ?? 0)) < 2, `${seconds} and ${catchUpSeconds}`);
});
