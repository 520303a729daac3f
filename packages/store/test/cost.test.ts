import assert from 'node:assert/strict';
import { test } from 'node:test';
import { amountsOf, type Cost, costsOf, type Usage } from '@presync/store/cost';
import { PRICES } from '@presync/store/prices';
import { parseStoreUrl } from '@presync/store/store-url';

const TIB = 2 ** 40;

/** A tebibyte, of which a tenth is new each day; 10 days are kept. */
const USAGE: Usage = {
  databaseBytes: TIB,
  compressed: 1,
  churn: 0.1,
  snapshotsPerDay: 1,
  keepDays: 10,
  restoresPerMonth: 2,
  chunkSize: 2 ** 20,
};

function at(provider: string, usage: Usage = USAGE): Cost {
  const found = costsOf(usage).find((one) => one.provider === provider);
  assert.ok(found !== undefined);
  return found;
}

function near(actual: number | undefined, expected: number): void {
  assert.ok(actual !== undefined && Math.abs(actual - expected) < 0.005, `${actual} is not ${expected}`);
}

test('a month amounts to what is computed by hand', () => {
  assert.deepEqual(amountsOf(USAGE), {
    snapshotsKept: 10,
    // The newest whole, and a tenth for each of nine before it.
    storedBytes: 1.9 * TIB,
    // 30.4375 days of 104,857.6 chunks and 8 other objects.
    puts: 3_191_847,
    gets: 2 * (2 ** 20 + 3),
    restoredBytes: 2 * TIB,
  });
  assert.equal(amountsOf({ ...USAGE, compressed: 0.5 }).storedBytes, 0.95 * TIB);
  assert.equal(amountsOf({ ...USAGE, compressed: 0.5 }).restoredBytes, TIB);
  // One snapshot is always there.
  assert.equal(amountsOf({ ...USAGE, keepDays: 0.1 }).snapshotsKept, 1);
});

test('Amazon S3 costs what its list says', () => {
  const cost = at('Amazon S3');
  near(cost.storage, 1945.6 * 0.023);
  near(cost.puts, 3191.847 * 0.005);
  near(cost.gets, 2097.158 * 0.0004);
  near(cost.egress, 2048 * 0.09);
  near(cost.total, 44.7488 + 15.9592 + 0.8389 + 184.32);
  near(cost.totalInRegion, 44.7488 + 15.9592 + 0.8389);
});

test('Wasabi charges for 90 days and for a terabyte at least', () => {
  near(at('Wasabi').storage, 9.9 * 7.99);
  assert.match(at('Wasabi').notes.join(), /removed after 10 days is charged for 90 days/);
  const small = at('Wasabi', { ...USAGE, databaseBytes: 1e9, keepDays: 200 });
  near(small.total, 7.99);
  assert.match(small.notes.join(), /at least 1024 GB/);
  assert.match(at('Wasabi', { ...USAGE, restoresPerMonth: 50 }).notes.join(), /terms do not allow/);
});

test('Backblaze B2 lets three times of what is stored leave for nothing', () => {
  assert.equal(at('Backblaze B2').egress, 0);
  const busy = at('Backblaze B2', { ...USAGE, restoresPerMonth: 10 });
  near(busy.egress, ((10 - 3 * 1.9) * TIB) / 1e9 / 100);
});

test('who has no machines has no price for reading from them', () => {
  assert.equal(at('Cloudflare R2').egress, 0);
  assert.equal(at('Cloudflare R2').totalInRegion, undefined);
});

test('each price says when and where it was read', () => {
  assert.equal(PRICES.length, 6);
  for (const { asOf, page, provider } of PRICES) {
    assert.match(asOf, /^20\d\d-\d\d-\d\d$/, provider);
    assert.ok(Date.parse(asOf) <= Date.now(), provider);
    assert.match(page, /^https:\/\//, provider);
  }
});

test('the provider of a store is known by its URL', () => {
  const mine = (url: string): string[] =>
    costsOf(USAGE, parseStoreUrl(url))
      .filter(({ thisStore }) => thisStore)
      .map(({ provider }) => provider);
  assert.deepEqual(mine('s3://bucket'), ['Amazon S3']);
  assert.deepEqual(mine('azure://account/container'), ['Azure Blob Storage']);
  assert.deepEqual(mine('gs://bucket'), ['Google Cloud Storage']);
  assert.deepEqual(mine('s3://bucket?endpoint=https://s3.eu-central-003.backblazeb2.com'), ['Backblaze B2']);
  assert.deepEqual(mine('s3://bucket?endpoint=https://0.r2.cloudflarestorage.com'), ['Cloudflare R2']);
  assert.deepEqual(mine('s3://bucket?endpoint=https://s3.wasabisys.com'), ['Wasabi']);
  assert.deepEqual(mine('s3://bucket?endpoint=https://backblazeb2.com.example.org'), []);
  assert.deepEqual(mine('file:///dir'), []);
});
