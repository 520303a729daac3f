import assert from 'node:assert/strict';
import { test } from 'node:test';
import { quietHoursAt } from '../src/quiet-hours.ts';

const at = (ranges: string[], zone: string, time: string) => quietHoursAt(ranges, zone, new Date(time));

test('the end is not included, and a range may go over midnight', () => {
  const night = ['22:00-06:00'];
  for (const [time, quiet] of [
    ['21:59:59', false],
    ['22:00:00', true],
    ['00:00:00', true],
    ['05:59:59', true],
    ['06:00:00', false],
  ] as const) {
    assert.equal(at(night, 'UTC', `2026-03-01T${time}Z`), quiet ? '22:00-06:00' : undefined, time);
  }
});

test('several ranges, a whole day, and none', () => {
  assert.equal(at(['01:00-02:00', '12:00-13:00'], 'UTC', '2026-03-01T12:30:00Z'), '12:00-13:00');
  assert.equal(at(['05:00-05:00'], 'UTC', '2026-03-01T04:59:00Z'), '05:00-05:00');
  assert.equal(at([], 'UTC', '2026-03-01T12:30:00Z'), undefined);
});

test('the clocks are those of the zone, in summer and in winter', () => {
  const ranges = ['22:00-06:00'];
  assert.equal(at(ranges, 'Europe/Berlin', '2026-01-15T21:00:00Z'), '22:00-06:00');
  assert.equal(at(ranges, 'Europe/Berlin', '2026-01-15T20:30:00Z'), undefined);
  assert.equal(at(ranges, 'Europe/Berlin', '2026-07-15T20:30:00Z'), '22:00-06:00');
  assert.equal(at(ranges, 'Asia/Kathmandu', '2026-07-15T16:15:00Z'), '22:00-06:00');
  assert.equal(at(ranges, 'Asia/Kathmandu', '2026-07-15T16:14:00Z'), undefined);
});
