import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  exactBytes,
  exactDuration,
  formatBytes,
  formatDuration,
  parseBytes,
  parseDuration,
} from '../src/units.ts';

test('sizes and durations are read with their units', () => {
  assert.equal(parseBytes('4MiB'), 4 * 1024 ** 2);
  assert.equal(parseBytes('200GB'), 200e9);
  assert.equal(parseBytes('1.5 TiB'), 1.5 * 1024 ** 4);
  assert.equal(parseBytes('0B'), 0);
  assert.equal(parseDuration('90s'), 90_000);
  assert.equal(parseDuration('15m'), 900_000);
  assert.equal(parseDuration('2h'), 7_200_000);
  assert.equal(parseDuration('7d'), 604_800_000);
  assert.equal(parseDuration('1h30m'), 5_400_000);
  assert.equal(parseDuration('250ms'), 250);
});

test('what has no unit, or more than fits, is refused', () => {
  for (const text of ['', '4', 'MiB', '4 M', '-4MiB', '4mib', '1e3B', '999999999999TiB', ' 4MiB'.repeat(2)]) {
    assert.throws(() => parseBytes(text), { code: 'CONFIG_INVALID' }, text);
  }
  for (const text of ['', '10', 's', '10 s', '-1s', '1y', '1h 30m', '999999999999999w', '1M']) {
    assert.throws(() => parseDuration(text), { code: 'CONFIG_INVALID' }, text);
  }
});

test('exact forms are read back', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2 ** 48 }), (value) => {
      assert.equal(parseBytes(exactBytes(value)), value);
      assert.equal(parseDuration(exactDuration(value)), value);
    }),
  );
  assert.equal(exactDuration(30 * 86_400_000), '30d');
  assert.equal(exactBytes(4 * 1024 ** 2), '4MiB');
});

test('forms for people', () => {
  assert.equal(formatBytes(0), '0 B');
  assert.equal(formatBytes(1023), '1023 B');
  assert.equal(formatBytes(1024 ** 2 - 1), '1 MiB');
  assert.equal(formatBytes(1.5 * 1024 ** 3), '1.5 GiB');
  assert.equal(formatDuration(850), '850 ms');
  assert.equal(formatDuration(12_340), '12.3 s');
  assert.equal(formatDuration(59_970), '1m');
  assert.equal(formatDuration(245_000), '4m 5s');
  assert.equal(formatDuration(7_800_000), '2h 10m');
  assert.equal(formatDuration(30 * 86_400_000), '30d');
});
