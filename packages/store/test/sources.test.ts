import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isPresyncError, PresyncError, type PresyncErrorOptions } from '@presync/runtime/errors';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectStore, ReadOptions } from '@presync/store/object-store';
import { createSources, type SourcesOptions } from '@presync/store/sources';

const signal = AbortSignal.timeout(120_000);
const KEY = 'chunks/aa/object';
const RIGHT = Buffer.from('the right bytes');

/** A store whose reads do what `behave` says. */
function source(
  name: string,
  behave: (options: ReadOptions, call: number) => Promise<Uint8Array>,
): ObjectStore {
  let calls = 0;
  return {
    ...createMemoryStore(),
    location: name,
    async read(_key, options) {
      calls += 1;
      const bytes = Uint8Array.from(await behave(options, calls));
      return { bytes, size: bytes.length, version: 'v' };
    },
  };
}

const good = (name: string): ObjectStore => source(name, async () => RIGHT);
const failing = (
  name: string,
  code: 'STORE_FAILED' | 'OBJECT_NOT_FOUND' | 'STORE_FORBIDDEN',
  options: PresyncErrorOptions = {},
): ObjectStore =>
  source(name, async () => {
    throw new PresyncError(code, `${name} fails`, options);
  });
const lying = (name: string): ObjectStore => source(name, async () => Buffer.from('some other bytes'));
/** Never answers, until it is stopped. */
const stuck = (name: string, stopped: () => void = () => {}): ObjectStore =>
  source(
    name,
    ({ signal: abort }) =>
      new Promise((_resolve, reject) => {
        AbortSignal.any([abort]).addEventListener('abort', () => {
          stopped();
          reject(new PresyncError('ABORTED', 'stopped'));
        });
      }),
  );

async function prove(bytes: Uint8Array): Promise<void> {
  if (Buffer.compare(bytes, RIGHT) !== 0) throw new PresyncError('CHUNK_CORRUPT', 'not the right bytes');
}

function several(
  stores: ObjectStore[],
  options: Partial<SourcesOptions> = {},
): ReturnType<typeof createSources> {
  return createSources({ stores, rounds: 3, minDelayMs: 1, minHedgeMs: 50, ...options });
}

const fetchOne = (sources: ReturnType<typeof createSources>): Promise<void> =>
  sources.fetch(KEY, { maxBytes: 100, signal }, prove);

test('the first source that has it right gives it, and the others are left alone', async () => {
  const sources = several([good('a'), good('b')]);
  for (let n = 0; n < 5; n++) await fetchOne(sources);
  assert.deepEqual(
    sources.report().map(({ location, objects, bytes }) => [location, objects, bytes]),
    [
      ['a', 5, 5 * RIGHT.length],
      ['b', 0, 0],
    ],
  );
});

test('what one source lacks, refuses or fails at, the next one gives', async () => {
  for (const broken of [
    failing('a', 'OBJECT_NOT_FOUND'),
    failing('a', 'STORE_FORBIDDEN'),
    failing('a', 'STORE_FAILED', { retryable: true }),
    lying('a'),
  ]) {
    const sources = several([broken, good('b')]);
    await fetchOne(sources);
    const [first, second] = sources.report();
    assert.equal(first?.objects, 0);
    assert.equal(second?.objects, 1);
    assert.ok(Object.values(first?.failures ?? {}).some((count) => count > 0));
  }
});

test('a source that lies is asked twice for an object, and not at all after a few', async () => {
  const sources = several([lying('a'), good('b')]);
  await fetchOne(sources);
  assert.equal(sources.report()[0]?.failures.CHUNK_CORRUPT, 2);
  for (let n = 0; n < 5; n++) await fetchOne(sources);
  const [first] = sources.report();
  assert.equal(first?.failures.CHUNK_CORRUPT, 3);
  assert.match(first?.dropped ?? '', /not what their names say/);
});

test('a source that is left out is not asked, and its report says why', async () => {
  const sources = several([lying('a'), good('b')]);
  sources.leaveOut('a', 'it holds another repository');
  await fetchOne(sources);
  const [first, second] = sources.report();
  assert.deepEqual(first?.failures, {});
  assert.equal(first?.dropped, 'it holds another repository');
  assert.equal(second?.objects, 1);
});

test('damage on the way is mended by asking again, the only source more often', async () => {
  const damagedUntil = (last: number): ObjectStore =>
    source('a', async (_options, call) => (call <= last ? Buffer.from('noise') : RIGHT));
  for (const [stores, last] of [
    [[damagedUntil(1), good('b')], 1],
    [[damagedUntil(3)], 3],
  ] as const) {
    const sources = several([...stores]);
    await fetchOne(sources);
    const [first] = sources.report();
    assert.deepEqual([first?.objects, first?.failures.CHUNK_CORRUPT], [1, last]);
  }
  const alone = several([damagedUntil(4)]);
  await assert.rejects(fetchOne(alone), { code: 'CHUNK_CORRUPT' });
  assert.equal(alone.report()[0]?.failures.CHUNK_CORRUPT, 4);
});

test('a source that refuses is not asked again; the only one is', async () => {
  const sources = several([failing('a', 'STORE_FORBIDDEN'), good('b')]);
  for (let n = 0; n < 3; n++) await fetchOne(sources);
  assert.equal(sources.report()[0]?.failures.STORE_FORBIDDEN, 1);
  const alone = several([failing('a', 'STORE_FORBIDDEN')]);
  for (let n = 0; n < 3; n++) await assert.rejects(fetchOne(alone), { code: 'STORE_FORBIDDEN' });
  assert.equal(alone.report()[0]?.dropped, undefined);
});

test('when nobody has it right, the error says most', async () => {
  await assert.rejects(fetchOne(several([failing('a', 'OBJECT_NOT_FOUND'), lying('b')])), {
    code: 'CHUNK_CORRUPT',
  });
  await assert.rejects(fetchOne(several([failing('a', 'OBJECT_NOT_FOUND')])), { code: 'OBJECT_NOT_FOUND' });
  await assert.rejects(
    fetchOne(several([failing('a', 'OBJECT_NOT_FOUND'), failing('b', 'STORE_FAILED', { retryable: true })])),
    { code: 'STORE_FAILED' },
  );
});

test('trouble that passes is waited out, in rounds', async () => {
  const shaky = (name: string): ObjectStore =>
    source(name, async (_options, call) => {
      if (call < 3) throw new PresyncError('STORE_FAILED', 'busy', { retryable: true });
      return RIGHT;
    });
  await fetchOne(several([shaky('a')]));
  await assert.rejects(fetchOne(several([shaky('a')], { rounds: 2 })), { code: 'STORE_FAILED' });
});

test('a Retry-After is obeyed', async () => {
  const sources = several([
    source('a', async (_options, call) => {
      if (call === 1)
        throw new PresyncError('STORE_FAILED', 'slow down', { retryable: true, retryAfterMs: 300 });
      return RIGHT;
    }),
  ]);
  const began = performance.now();
  await fetchOne(sources);
  assert.ok(performance.now() - began >= 290);
});

test('an answer that does not come is fetched elsewhere, and the first call is stopped', async () => {
  let stopped = 0;
  let slow = false;
  const first: ObjectStore = source('a', (options) =>
    slow
      ? stuck('a', () => stopped++)
          .read(KEY, options)
          .then(({ bytes }) => bytes)
      : Promise.resolve(RIGHT),
  );
  const sources = several([first, good('b')]);
  for (let n = 0; n < 10; n++) await fetchOne(sources);
  slow = true;
  await fetchOne(sources);
  assert.equal(stopped, 1);
  const [a, b] = sources.report();
  assert.equal(a?.abandoned, 1);
  assert.equal(b?.hedges, 1);
  assert.equal(b?.objects, 1);
});

test('not every fetch is hedged when everything is slow', async () => {
  const slow = (name: string, hedged: () => void): ObjectStore =>
    source(name, async ({ signal: abort }, call) => {
      if (call > 8) hedged();
      await new Promise((resolve) => setTimeout(resolve, call > 8 ? 60 : 0));
      if (abort.aborted) throw new PresyncError('ABORTED', 'stopped');
      return RIGHT;
    });
  let second = 0;
  const sources = several([slow('a', () => {}), slow('b', () => second++)], { minHedgeMs: 20 });
  const hedges = (): number => sources.report().reduce((sum, { hedges: count }) => sum + count, 0);
  for (let n = 0; n < 40; n++) await fetchOne(sources);
  const first = hedges();
  assert.ok(first > 0 && first <= 4 + 40 * 0.5, `${first} hedges`);
  // By then slow is what is usual.
  for (let n = 0; n < 40; n++) await fetchOne(sources);
  assert.equal(hedges(), first);
});

test('an error of this machine ends the fetch at once', async () => {
  let proofs = 0;
  const sources = several([good('a'), good('b')]);
  const full = sources.fetch(KEY, { maxBytes: 100, signal }, async () => {
    proofs += 1;
    throw new PresyncError('NO_SPACE', 'the disk is full');
  });
  await assert.rejects(full, { code: 'NO_SPACE' });
  assert.equal(proofs, 1);
});

test('a signal ends a fetch that waits, is stuck, or rests', async () => {
  for (const stores of [
    [stuck('a')],
    [failing('a', 'STORE_FAILED', { retryable: true, retryAfterMs: 60_000 })],
  ]) {
    const controller = new AbortController();
    const sources = several(stores);
    const fetching = sources.fetch(KEY, { maxBytes: 100, signal: controller.signal }, prove);
    setTimeout(() => controller.abort(), 30);
    const began = performance.now();
    await assert.rejects(fetching, (error) => isPresyncError(error, 'ABORTED'));
    assert.ok(performance.now() - began < 5000);
  }
});

test('no more calls than places', async () => {
  let running = 0;
  let most = 0;
  const sources = several(
    [
      source('a', async () => {
        running += 1;
        most = Math.max(most, running);
        await new Promise((resolve) => setTimeout(resolve, 5));
        running -= 1;
        return RIGHT;
      }),
    ],
    { maxConcurrency: 3, adaptive: false },
  );
  await Promise.all(Array.from({ length: 30 }, () => fetchOne(sources)));
  assert.equal(most, 3);
});
