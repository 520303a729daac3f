import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { type ErrorCode, isPresyncError } from '@presync/runtime/errors';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectInfo, ObjectStore } from '@presync/store/object-store';
import { type MadeObjects, type MadeStore, withMadeObjects } from '@presync/store/with-made-objects';

const signal = AbortSignal.timeout(60_000);

interface Scene {
  store: MadeStore;
  documents: ObjectStore;
  made: Map<string, Buffer>;
  /** How often objects were made, and how many are held now. */
  counts: { made: number; held: number };
}

function scene(): Scene {
  const documents = createMemoryStore();
  const made = new Map<string, Buffer>();
  const counts = { made: 0, held: 0 };
  const info = (key: string): ObjectInfo | undefined => {
    const bytes = made.get(key);
    return bytes && { key, size: bytes.length, version: `version of ${key}` };
  };
  const objects: MadeObjects = {
    owns: (key) => key.startsWith('chunks/'),
    find: info,
    async make(key) {
      counts.made += 1;
      counts.held += 1;
      return {
        bytes: made.get(key) ?? Buffer.alloc(0),
        release: () => {
          counts.held -= 1;
        },
      };
    },
    async *list(prefix) {
      for (const key of [...made.keys()].sort()) {
        const found = info(key);
        if (found !== undefined && key.startsWith(prefix)) yield found;
      }
    },
  };
  return { store: withMadeObjects(documents, objects, { location: 'view:' }), documents, made, counts };
}

const refused = (code: ErrorCode) => (error: unknown) => isPresyncError(error, code);

test('ranges of a made object are those of any other, and nothing stays held', async () => {
  const { store, made, counts } = scene();
  const bytes = randomBytes(1000);
  made.set('chunks/aa/x', bytes);
  for (const [offset, length] of [
    [0, 1],
    [0, 1000],
    [0, 2000],
    [999, 5],
    [100, 250],
    [1000, 1],
    [5000, 10],
    [500, 0],
  ] as const) {
    const read = await store.read('chunks/aa/x', { range: { offset, length }, maxBytes: 1000, signal });
    assert.deepEqual(Buffer.from(read.bytes), bytes.subarray(offset, offset + length), `${offset}+${length}`);
    assert.equal(read.size, 1000);
    assert.equal(read.version, 'version of chunks/aa/x');
  }
  const whole = await store.read('chunks/aa/x', { maxBytes: 1000, signal });
  assert.deepEqual(Buffer.from(whole.bytes), bytes);
  whole.bytes.fill(0);
  assert.deepEqual(made.get('chunks/aa/x'), bytes, 'what was read is shared');
  assert.equal(counts.held, 0);
});

test('what is asked for within bounds is not made to find that out', async () => {
  const { store, made, counts } = scene();
  made.set('chunks/aa/x', randomBytes(1000));
  await assert.rejects(store.read('chunks/aa/x', { maxBytes: 999, signal }), refused('OBJECT_TOO_LARGE'));
  await assert.rejects(store.read('chunks/aa/y', { maxBytes: 999, signal }), refused('OBJECT_NOT_FOUND'));
  await assert.rejects(store.read('chunks/../x', { maxBytes: 999, signal }), refused('INTERNAL'));
  await assert.rejects(
    store.read('chunks/aa/x', { maxBytes: 9999, signal: AbortSignal.abort() }),
    refused('ABORTED'),
  );
  assert.deepEqual(await store.stat('chunks/aa/x', { signal }), {
    key: 'chunks/aa/x',
    size: 1000,
    version: 'version of chunks/aa/x',
  });
  assert.equal(await store.stat('chunks/aa/y', { signal }), undefined);
  assert.equal(counts.made, 0);
});

test('documents are the store’s own, and nothing can be written', async () => {
  const { store, documents } = scene();
  const document = Buffer.from('document');
  await documents.put('presync.json', document, { signal });
  assert.deepEqual(
    Buffer.from((await store.read('presync.json', { maxBytes: 100, signal })).bytes),
    document,
  );
  assert.equal((await store.stat('presync.json', { signal }))?.size, document.length);
  assert.equal(store.traits.writable, false);
  await assert.rejects(store.put('presync.json', document, { signal }), refused('STORE_READ_ONLY'));
  await assert.rejects(store.remove('presync.json', { signal }), refused('STORE_READ_ONLY'));
});

test('an open object is made once, however many reads follow, and is given back by closing it', async () => {
  const { store, documents, made, counts } = scene();
  const bytes = randomBytes(1000);
  made.set('chunks/aa/x', bytes);
  const info = await store.stat('chunks/aa/x', { signal });
  assert.ok(info !== undefined);
  const open = await store.open(info, { signal });
  for (let offset = 0; offset < 1000; offset += 100)
    assert.deepEqual(
      Buffer.from(await open.read({ offset, length: 100 })),
      bytes.subarray(offset, offset + 100),
    );
  assert.deepEqual(counts, { made: 1, held: 1 });
  open.close();
  assert.equal(counts.held, 0);

  await documents.put('presync.json', Buffer.from('first'), { signal });
  const document = await store.stat('presync.json', { signal });
  assert.ok(document !== undefined);
  const reading = await store.open(document, { signal });
  assert.equal(Buffer.from(await reading.read({ offset: 0, length: 2 })).toString(), 'fi');
  await documents.put('presync.json', Buffer.from('other'), { signal });
  await assert.rejects(
    reading.read({ offset: 2, length: 3 }),
    (error) => isPresyncError(error, 'STORE_FAILED') && error.retryable,
  );
});

test('a listing has both kinds in key order, whatever the prefix', async () => {
  const { store, documents, made } = scene();
  const keys = [
    'channels/a/b/latest.json',
    'chunks/00/a',
    'chunks/7f/b',
    'chunks/ff/c',
    'presync.json',
    'snapshots/a/b/1/index.zst',
  ];
  for (const key of keys) {
    if (key.startsWith('chunks/')) made.set(key, randomBytes(10));
    else await documents.put(key, randomBytes(10), { signal });
  }
  for (const prefix of [
    '',
    'c',
    'ch',
    'channels/',
    'chunks/',
    'chunks/7',
    'chunks/7f/b',
    'snapshots/',
    'x',
  ]) {
    const listed: string[] = [];
    for await (const { key } of store.list(prefix, { signal })) listed.push(key);
    assert.deepEqual(
      listed,
      keys.filter((key) => key.startsWith(prefix)),
      prefix,
    );
  }
  for await (const { key } of store.list('', { signal })) {
    assert.equal(key, keys[0]);
    break;
  }
});
