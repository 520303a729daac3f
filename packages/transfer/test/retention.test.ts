import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type RetainedSnapshot, type RetentionState, retain } from '../src/retention.ts';

const NOW = Date.parse('2026-03-04T12:30:00.000Z');

function snapshots(...created: string[]): RetainedSnapshot[] {
  return created.map((time, index) => ({ sequence: index + 1, created: time, sound: true }));
}

function state(newest: number | undefined, more: Partial<RetentionState> = {}): RetentionState {
  return { newest, pinned: new Set(), inUse: new Set(), now: NOW, ...more };
}

function kept(reasons: Map<number, string[]>): number[] {
  return [...reasons].filter(([, why]) => why.length > 0).map(([sequence]) => sequence);
}

describe('retention', () => {
  const all = snapshots(
    '2026-01-31T23:59:59.000Z',
    '2026-02-01T00:00:00.000Z',
    '2026-03-01T23:00:00.000Z',
    '2026-03-02T01:00:00.000Z',
    '2026-03-04T09:00:00.000Z',
    '2026-03-04T10:10:00.000Z',
    '2026-03-04T10:50:00.000Z',
    '2026-03-04T11:00:00.000Z',
  );

  it('keeps all without a rule', () => {
    assert.deepEqual(kept(retain(all, {}, state(8))), [1, 2, 3, 4, 5, 6, 7, 8]);
  });

  it('keeps the newest of each period, in UTC', () => {
    assert.deepEqual(kept(retain(all, { last: 3 }, state(8))), [6, 7, 8]);
    assert.deepEqual(kept(retain(all, { hourly: 3 }, state(8))), [5, 7, 8]);
    assert.deepEqual(kept(retain(all, { daily: 2 }, state(8))), [4, 8]);
    // The first of March 2026 was a Sunday.
    assert.deepEqual(kept(retain(all, { weekly: 2 }, state(8))), [3, 8]);
    assert.deepEqual(kept(retain(all, { monthly: 3 }, state(8))), [1, 2, 8]);
    assert.deepEqual(kept(retain(all, { last: 1, monthly: 2, hourly: 0 }, state(8))), [2, 8]);
  });

  it('never gives up the newest, what is newer, pinned, in use, young or unreadable', () => {
    const more = [
      ...all,
      { sequence: 9, created: '2026-03-04T12:10:00.000Z', sound: true },
      { sequence: 10, created: undefined, sound: true },
    ];
    const reasons = retain(more, { last: 0 }, state(9, { pinned: new Set([2]), inUse: new Set([3]) }));
    assert.deepEqual(
      [...reasons].filter(([, why]) => why.length > 0),
      [
        [2, ['pinned']],
        [3, ['in use']],
        [9, ['newest', 'young']],
        [10, ['not promoted', 'unreadable']],
      ],
    );
    assert.equal(kept(retain(all, { last: 0 }, state(undefined))).length, 8, 'without a pointer');
    assert.deepEqual(kept(retain(all, { last: 0 }, state(6))), [6, 7, 8]);
  });

  it('gives no place to a damaged one, and does not remove it for that', () => {
    const damaged = all.map((one) => ({ ...one, sound: one.sequence !== 8 && one.sequence !== 7 }));
    assert.deepEqual(kept(retain(damaged, { last: 2 }, state(8))), [5, 6, 7, 8]);
    assert.deepEqual(kept(retain(damaged, { hourly: 1 }, state(8))), [6, 8]);
  });
});
