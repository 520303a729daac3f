/** When runs are due: catch-up, the changes of clocks, and what is told of wrong schedules. */
import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import { createJitter } from '../src/lib/jitter.ts';
import { assertSchedules, lastDue, startTimetable } from '../src/lib/timetable.ts';

const due = (schedules: string[], timezone: string, after: string, upTo: string): string | undefined =>
  lastDue({ schedules, timezone }, { after: new Date(after), upTo: new Date(upTo) })?.toISOString();

const settle = () => new Promise((resolve) => setImmediate(resolve));

test('what was due while nobody looked is found, the last of it', () => {
  assert.equal(
    due(['0 3 * * *'], 'UTC', '2026-03-01T03:00:00Z', '2026-03-04T12:00:00Z'),
    '2026-03-04T03:00:00.000Z',
  );
  assert.equal(due(['0 3 * * *'], 'UTC', '2026-03-04T03:00:00Z', '2026-03-05T02:59:59Z'), undefined);
  assert.equal(
    due(['0 3 * * *'], 'UTC', '2026-03-04T02:59:59Z', '2026-03-04T03:00:00Z'),
    '2026-03-04T03:00:00.000Z',
  );
  assert.equal(
    due(['30 5 1 * *'], 'UTC', '2026-01-02T00:00:00Z', '2026-02-20T00:00:00Z'),
    '2026-02-01T05:30:00.000Z',
  );
  assert.equal(
    due(['10,40 * * * * *'], 'UTC', '2026-02-20T00:00:10Z', '2026-02-20T00:00:41Z'),
    '2026-02-20T00:00:40.000Z',
  );
  assert.equal(due(['10 * * * * *'], 'UTC', '2026-02-20T00:00:10Z', '2026-02-20T00:01:09Z'), undefined);
});

test('of several schedules the latest counts', () => {
  const schedules = ['0 3 * * *', '0 15 * * 1-5'];
  assert.equal(
    due(schedules, 'UTC', '2026-03-05T00:00:00Z', '2026-03-06T20:00:00Z'),
    '2026-03-06T15:00:00.000Z',
  );
  assert.equal(
    due(schedules, 'UTC', '2026-03-05T00:00:00Z', '2026-03-07T20:00:00Z'),
    '2026-03-07T03:00:00.000Z',
  );
});

test('the clocks of the zone count, also when they change', () => {
  const berlin = (after: string, upTo: string) => due(['0 3 * * *'], 'Europe/Berlin', after, upTo);
  assert.equal(berlin('2026-03-27T12:00:00Z', '2026-03-28T12:00:00Z'), '2026-03-28T02:00:00.000Z');
  // On the 29th of March 2:00 is followed by 3:00.
  assert.equal(berlin('2026-03-28T12:00:00Z', '2026-03-29T12:00:00Z'), '2026-03-29T01:00:00.000Z');
  assert.equal(berlin('2026-10-24T12:00:00Z', '2026-10-25T12:00:00Z'), '2026-10-25T02:00:00.000Z');
  assert.equal(
    due(['45 0 * * *'], 'Asia/Kathmandu', '2026-05-01T00:00:00Z', '2026-05-01T20:00:00Z'),
    '2026-05-01T19:00:00.000Z',
  );
});

test('a time that the clocks leave out in spring is left out, and one that comes twice in autumn makes one run', async (t) => {
  for (const [from, expected] of [
    ['2026-03-28T12:00:00Z', ['2026-03-30T00:30:00.000Z']],
    ['2026-10-24T12:00:00Z', ['2026-10-25T01:30:00.000Z', '2026-10-26T01:30:00.000Z']],
  ] as const) {
    mock.timers.enable({ apis: ['Date', 'setTimeout'], now: new Date(from) });
    t.after(() => mock.timers.reset());
    const runs: string[] = [];
    const timetable = startTimetable({
      schedules: ['30 2 * * *'],
      timezone: 'Europe/Berlin',
      onDue: (cause) => runs.push(`${cause} ${new Date().toISOString()}`),
    });
    for (let minute = 0; minute < 38 * 60; minute++) {
      mock.timers.tick(60_000);
      await settle();
    }
    await timetable.stop();
    mock.timers.reset();
    assert.deepEqual(
      runs,
      expected.map((time) => `schedule ${time}`),
    );
  }
});

test('a sleep over many times makes one run', async (t) => {
  mock.timers.enable({ apis: ['Date', 'setTimeout'], now: new Date('2026-03-01T00:00:30Z') });
  t.after(() => mock.timers.reset());
  const runs: string[] = [];
  const timetable = startTimetable({
    schedules: ['* * * * *', '*/5 * * * *'],
    timezone: 'UTC',
    onDue: (cause) => runs.push(cause),
  });
  // The clock goes on and timers do not, as when the machine is suspended.
  mock.timers.setTime(new Date('2026-03-01T08:00:30Z').getTime());
  mock.timers.tick(60_000);
  await settle();
  await timetable.stop();
  assert.deepEqual(
    runs.filter((cause) => cause === 'catch-up'),
    ['catch-up'],
  );
  assert.ok(runs.length <= 3, runs.join());
});

test('what is no cron expression is refused by name', () => {
  assert.throws(
    () => assertSchedules(['0 3 * * *', '0 25 * * *']),
    (error) => {
      assert.ok(isPresyncError(error, 'CONFIG_INVALID'));
      assert.match(error.message, /"0 25 \* \* \*" is not/);
      return true;
    },
  );
  assert.throws(() => assertSchedules([]), /no schedule/);
});

test('jitter stays within its bounds, waits once, and ends with the daemon', async (t) => {
  mock.timers.enable({ apis: ['setTimeout'] });
  t.after(() => mock.timers.reset());
  const random = mock.method(Math, 'random', () => 0.5);
  let begun = 0;
  const jitter = createJitter({
    jitterMs: () => 1000,
    isBusy: () => false,
  });
  jitter.soon(() => begun++);
  jitter.soon(() => begun++);
  mock.timers.tick(499);
  await settle();
  assert.equal(begun, 0);
  mock.timers.tick(1);
  await settle();
  assert.equal(begun, 1);
  random.mock.mockImplementation(() => 0.9999);
  jitter.soon(() => begun++);
  mock.timers.tick(1000);
  await settle();
  assert.equal(begun, 2);
  jitter.soon(() => begun++);
  jitter.stop();
  mock.timers.tick(1000);
  await settle();
  assert.equal(begun, 2);
  const none = createJitter({ jitterMs: () => 0, isBusy: () => false });
  none.soon(() => begun++);
  assert.equal(begun, 3);
});
