import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PresyncError } from '@presync/runtime/errors';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectStore } from '@presync/store/object-store';
import {
  checkReader,
  checkWriter,
  missingFor,
  type Permission,
  type Permissions,
  refusedAltogether,
} from '@presync/store/permissions';
import { checkReaderPromises } from '@presync/store/reader-promises';
import { parseStoreUrl } from '@presync/store/store-url';
import { always, keysOf, type Refusals, refusing } from './refusing.ts';

const signal = AbortSignal.timeout(60_000);
const url = parseStoreUrl('s3://bucket/some/prefix');

function outcomesOf({ findings }: Permissions): Record<string, string> {
  return Object.fromEntries(findings.map(({ permission, outcome }) => [permission, outcome]));
}

const ALL: Readonly<Record<Permission, string>> = {
  get: 'granted',
  list: 'granted',
  put: 'granted',
  'conditional put': 'granted',
  replace: 'granted',
  delete: 'granted',
};

const WRITERS: Record<string, { refusals: Refusals; found: Partial<typeof ALL>; missing: string[] }> = {
  'may do everything': { refusals: {}, found: {}, missing: [] },
  'may not look at objects': {
    refusals: { stat: always },
    found: { get: 'missing' },
    missing: ['s3:GetObject'],
  },
  'may look at objects and not read them': {
    refusals: { read: always },
    found: { get: 'missing' },
    missing: ['s3:GetObject'],
  },
  'may not put': {
    refusals: { put: always },
    found: { put: 'missing', 'conditional put': 'untested', replace: 'untested', get: 'untested' },
    missing: ['s3:PutObject'],
  },
  'may create and not replace': {
    refusals: { put: (_, exists) => exists },
    found: { replace: 'missing' },
    missing: ['s3:PutObject'],
  },
  'may not delete': {
    refusals: { remove: always },
    found: { delete: 'missing' },
    missing: ['s3:DeleteObject'],
  },
  'may not list': { refusals: { list: always }, found: { list: 'missing' }, missing: ['s3:ListBucket'] },
};

for (const [name, { refusals, found, missing }] of Object.entries(WRITERS)) {
  test(`a writer who ${name}`, async () => {
    const memory = createMemoryStore();
    const left: string[] = [];
    const permissions = await checkWriter(refusing(refusals, memory), {
      url,
      onLeft: (more) => left.push(...more.map(({ key }) => key)),
      signal,
    });
    assert.deepEqual(outcomesOf(permissions), { ...ALL, ...found });
    const named = missingFor('writer', permissions.findings);
    assert.deepEqual([...new Set(named.flatMap(({ names }) => names))], missing);
    for (const { names, hint, neededBy } of named) {
      assert.ok(hint?.includes(names[0] ?? '?') === true, `the hint does not name ${names}: ${hint}`);
      assert.match(hint, /arn:aws:s3:::bucket/);
      assert.ok(neededBy.includes('snapshotter'));
    }
    assert.equal(permissions.absenceRefused, refusals.stat !== undefined);
    assert.equal(refusedAltogether(permissions.findings), undefined);
    assert.deepEqual(left, await keysOf(memory));
    if (refusals.remove === undefined) assert.deepEqual(left, []);
  });
}

test('a reader needs less than a writer', async () => {
  const { findings } = await checkWriter(refusing({ put: always, remove: always }), { url, signal });
  assert.deepEqual(
    missingFor('reader', findings).map(({ permission }) => permission),
    [],
  );
});

test('who is refused everything has wrong credentials', async () => {
  const store = refusing({ stat: always, read: always, put: always, remove: always, list: always });
  const { findings } = await checkWriter(store, { url, signal });
  assert.equal(refusedAltogether(findings)?.code, 'STORE_FORBIDDEN');
  // One refusal may just be what is missing.
  assert.equal(refusedAltogether(findings.filter(({ permission }) => permission === 'put')), undefined);
});

test('a store without conditional writes is told as such, and its puts are granted', async () => {
  const memory = createMemoryStore();
  const store: ObjectStore = {
    ...memory,
    async put(key, body, call) {
      if (call.condition !== undefined) {
        throw new PresyncError('STORE_NO_CONDITIONAL_WRITES', 'not implemented', { hint: 'another store' });
      }
      return memory.put(key, body, call);
    },
  };
  const permissions = await checkWriter(store, { url, signal });
  assert.deepEqual(outcomesOf(permissions), { ...ALL, 'conditional put': 'failed' });
  const [only] = missingFor('writer', permissions.findings);
  assert.equal(only?.error?.code, 'STORE_NO_CONDITIONAL_WRITES');
  // It is no permission that would mend it.
  assert.equal(only.hint, 'another store');
  assert.deepEqual(await keysOf(memory), []);
});

test('a writer who may not list learns that absent objects are refused', async () => {
  const memory = createMemoryStore();
  const known = new Set<string>();
  const store: ObjectStore = {
    ...refusing({ list: always, stat: (key) => !known.has(key) }, memory),
    async put(key, body, call) {
      const done = await memory.put(key, body, call);
      known.add(key);
      return done;
    },
  };
  const permissions = await checkWriter(store, { url, signal });
  assert.deepEqual(outcomesOf(permissions), { ...ALL, list: 'missing' });
  assert.equal(permissions.absenceRefused, true);
});

test('no store ends the check, and what was put before is removed', async () => {
  const memory = createMemoryStore();
  const store: ObjectStore = {
    ...memory,
    list() {
      throw new PresyncError('STORE_NOT_FOUND', 'the bucket is gone');
    },
  };
  await assert.rejects(checkWriter(store, { url, signal }), { code: 'STORE_NOT_FOUND' });
  assert.deepEqual(await keysOf(memory), []);
});

async function repository(): Promise<ObjectStore> {
  const memory = createMemoryStore();
  await memory.put('presync.json', Buffer.from('{}'), { signal });
  for (let index = 0; index < 3; index++)
    await memory.put(`chunks/00/${index}`, Buffer.alloc(10), { signal });
  return memory;
}

test('a reader writes nothing, and knows the chunks', async () => {
  const memory = await repository();
  const before = await keysOf(memory);
  const permissions = await checkReader(refusing({ put: always, remove: always }, memory), { url, signal });
  assert.deepEqual(outcomesOf(permissions), { get: 'granted', list: 'granted' });
  assert.deepEqual(
    permissions.objects.map(({ key }) => key),
    ['chunks/00/0', 'chunks/00/1', 'chunks/00/2'],
  );
  assert.deepEqual(await keysOf(memory), before);
});

test('a reader who may not get, or not list', async () => {
  const memory = await repository();
  const noGet = await checkReader(refusing({ stat: always, read: always }, memory), { url, signal });
  assert.deepEqual(outcomesOf(noGet), { get: 'missing', list: 'granted' });
  const noRead = await checkReader(refusing({ read: always }, memory), { url, signal });
  assert.deepEqual(outcomesOf(noRead), { get: 'missing', list: 'granted' });
  const noList = await checkReader(refusing({ list: always }, memory), { url, signal });
  assert.deepEqual(outcomesOf(noList), { get: 'granted', list: 'missing' });
  assert.deepEqual(
    noList.objects.map(({ key }) => key),
    ['presync.json'],
  );
});

test('without a listing, a refusal may mean absence', async () => {
  const memory = await repository();
  const permissions = await checkReader(refusing({ stat: always, list: always }, memory), { url, signal });
  assert.deepEqual(outcomesOf(permissions), { get: 'untested', list: 'missing' });
  assert.equal(permissions.absenceRefused, true);
  // Nobody can rely on it all the same.
  assert.deepEqual(
    missingFor('reader', permissions.findings).map(({ permission }) => permission),
    ['get', 'list'],
  );
});

test('a reader of nothing is told so', async () => {
  await assert.rejects(checkReader(createMemoryStore(), { url, signal }), { code: 'REPOSITORY_NOT_FOUND' });
});

test('each kind of store names its own permissions, and what to do', async () => {
  const store = refusing({ stat: always, put: always, remove: always, list: always });
  const expected: Record<string, RegExp> = {
    'azure://account/container': /SAS permission|Microsoft\.Storage/,
    'gs://bucket': /storage\.objects\.(get|create|delete|list)/,
    'file:///some/dir': /folders/,
  };
  for (const [text, pattern] of Object.entries(expected)) {
    const { findings } = await checkWriter(store, { url: parseStoreUrl(text), signal });
    for (const { names, outcome, hint } of findings) {
      assert.match(names.join(' '), pattern);
      if (outcome === 'missing') assert.ok((hint?.length ?? 0) > 20);
    }
  }
});

test('on GCS, replacing takes the permission to delete', async () => {
  const store = refusing({ put: (_, exists) => exists });
  const { findings } = await checkWriter(store, { url: parseStoreUrl('gs://bucket'), signal });
  const [only] = missingFor('writer', findings);
  assert.deepEqual([only?.permission, only?.names], ['replace', ['storage.objects.delete']]);
});

test("a reader's promises are tried on what is there, and a broken one is told", async () => {
  const memory = await repository();
  const { objects } = await checkReader(memory, { url, signal });
  const sound = await checkReaderPromises(memory, { objects, signal });
  assert.deepEqual(new Set(sound.map(({ outcome }) => outcome)), new Set(['ok']));

  const whole: ObjectStore = {
    ...memory,
    read: (key, { range: _, ...call }) => memory.read(key, { ...call, maxBytes: 1000 }),
  };
  const disordered: ObjectStore = {
    ...memory,
    async *list(prefix, call) {
      const all = [];
      for await (const info of memory.list(prefix, call)) all.unshift(info);
      yield* all;
    },
  };
  const lying: ObjectStore = { ...memory, stat: async (key) => ({ key, size: 10, version: '1' }) };
  for (const [store, topic] of [
    [whole, 'ranges'],
    [disordered, 'listing'],
    [lying, 'absence'],
  ] as const) {
    const results = await checkReaderPromises(store, { objects, signal });
    const failed = results.filter(({ outcome }) => outcome === 'failed');
    assert.ok(
      failed.some((result) => result.topic === topic && result.error?.code === 'STORE_FAILED'),
      topic,
    );
  }

  const unlisted = refusing({ list: always }, memory);
  const withoutListing = await checkReaderPromises(unlisted, { objects, mayList: false, signal });
  assert.deepEqual(
    withoutListing.filter(({ outcome }) => outcome !== 'ok').map(({ topic, trait }) => [topic, trait]),
    [['listing', 'not allowed to list']],
  );

  const nothing = await checkReaderPromises(memory, { objects: [], signal });
  assert.deepEqual(new Set(nothing.map(({ trait }) => trait)), new Set(['no object']));
});
