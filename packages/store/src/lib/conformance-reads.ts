import { randomBytes } from 'node:crypto';
import type { ObjectInfo } from '../object-store.ts';
import type { Cases } from './conformance-context.ts';
import { expect, expectBytes, expectError } from './expect.ts';

/** What reads promise. */
export const READ_CASES: Cases = {
  'an object comes back as it was put': async ({ store, writer, key, signal }) => {
    const bytes = randomBytes(70_000);
    const put = await writer.put(key('a/b/object'), bytes, { signal });
    const version = store === writer ? put.version : undefined;
    const read = await store.read(key('a/b/object'), { maxBytes: bytes.length, signal });
    expectBytes(read.bytes, bytes, 'the object');
    expect(read.size === bytes.length, `read tells ${read.size} as the size`);
    expect(version === undefined || read.version === version, 'read tells another version than put');
    const info = await store.stat(key('a/b/object'), { signal });
    expect(info !== undefined, 'stat does not find the object');
    expect(info.key === key('a/b/object'), `stat tells the key ${info.key}`);
    expect(info.size === bytes.length, `stat tells ${info.size} as the size`);
    expect(info.version === read.version, 'stat tells another version than read');
  },

  'what read gives and put took is not shared': async ({ store, writer, key, signal }) => {
    const bytes = randomBytes(100);
    const kept = Buffer.from(bytes);
    await writer.put(key('object'), bytes, { signal });
    bytes.fill(0);
    const first = await store.read(key('object'), { maxBytes: 100, signal });
    expectBytes(first.bytes, kept, 'the object, after the buffer that was put has changed,');
    first.bytes.fill(0);
    const second = await store.read(key('object'), { maxBytes: 100, signal });
    expectBytes(second.bytes, kept, 'the object, after a buffer that was read has changed,');
  },

  'an empty object is an object': async ({ store, writer, key, signal }) => {
    await writer.put(key('empty'), new Uint8Array(0), { condition: { ifAbsent: true }, signal });
    expect(
      (await store.stat(key('empty'), { signal }))?.size === 0,
      'stat does not find an object of no bytes',
    );
    const { bytes, size } = await store.read(key('empty'), { maxBytes: 0, signal });
    expect(bytes.length === 0 && size === 0, 'the empty object is not empty');
    const range = { offset: 0, length: 10 };
    const part = await store.read(key('empty'), { maxBytes: 10, range, signal });
    expect(part.bytes.length === 0 && part.size === 0, 'a range of the empty object is not empty');
  },

  'objects of all sizes come back': async ({ store, writer, key, signal, largeBytes }) => {
    for (const size of [1, 4095, 4096, 65_537, 1024 ** 2, 5 * 1024 ** 2 + 3, largeBytes]) {
      const bytes = randomBytes(size);
      await writer.put(key(`size-${size}`), bytes, { signal });
      expectBytes(
        (await store.read(key(`size-${size}`), { maxBytes: size, signal })).bytes,
        bytes,
        `an object of ${size} bytes`,
      );
    }
  },
};

/** What reads of a part promise. */
export const RANGE_CASES: Cases = {
  'ranges give what there is': async ({ store, writer, key, signal }) => {
    const bytes = randomBytes(1000);
    await writer.put(key('object'), bytes, { signal });
    const version = (await store.stat(key('object'), { signal }))?.version;
    for (const [offset, length] of [
      [0, 1],
      [0, 1000],
      [0, 2000],
      [999, 1],
      [999, 5],
      [100, 250],
      [1000, 1],
      [5000, 10],
      [0, 0],
      [500, 0],
    ]) {
      if (offset === undefined || length === undefined) continue;
      const what = `the range ${offset}+${length} of 1000 bytes`;
      const read = await store.read(key('object'), { maxBytes: 1000, range: { offset, length }, signal });
      expectBytes(read.bytes, bytes.subarray(offset, offset + length), what);
      expect(read.size === 1000, `${what} tells ${read.size} as the size of the object`);
      expect(read.version === version, `${what} tells another version than stat`);
    }
  },

  'no more than maxBytes are read': async ({ store, writer, key, signal }) => {
    await writer.put(key('object'), randomBytes(1000), { signal });
    await expectError(
      store.read(key('object'), { maxBytes: 999, signal }),
      ['OBJECT_TOO_LARGE'],
      'a read of 1000 bytes with maxBytes 999',
    );
    const ranged = store.read(key('object'), { maxBytes: 9, range: { offset: 0, length: 10 }, signal });
    await expectError(ranged, ['OBJECT_TOO_LARGE'], 'a range of 10 bytes with maxBytes 9');
    const within = await store.read(key('object'), {
      maxBytes: 10,
      range: { offset: 990, length: 100 },
      signal,
    });
    expect(within.bytes.length === 10, 'a range past the end gives other than the last 10 bytes');
  },
};

/** What is promised of what is not there. */
export const ABSENCE_CASES: Cases = {
  'an absent object is told as absent': async ({ store, writer, key, signal }) => {
    const range = { offset: 0, length: 1 };
    expect(
      (await store.stat(key('absent'), { signal })) === undefined,
      'stat finds an object that was never put',
    );
    await expectError(
      store.read(key('absent'), { maxBytes: 1, signal }),
      ['OBJECT_NOT_FOUND'],
      'a read of an absent object',
    );
    await expectError(
      store.read(key('absent'), { maxBytes: 1, range, signal }),
      ['OBJECT_NOT_FOUND'],
      'a range of an absent object',
    );
    await writer.put(key('folder/object'), randomBytes(1), { signal });
    expect((await store.stat(key('folder'), { signal })) === undefined, 'stat takes a folder for an object');
    await expectError(
      store.read(key('folder'), { maxBytes: 1, signal }),
      ['OBJECT_NOT_FOUND'],
      'a read of a folder',
    );
    expect(
      (await store.stat(key('folder/object/deeper'), { signal })) === undefined,
      'stat finds an object below an object',
    );
  },
};

/** What listings promise. */
export const LIST_CASES: Cases = {
  'a listing is whole and in key order': async ({ store, writer, key, signal }) => {
    const names = ['b', 'a/z', 'a/b/c', 'a.b', 'a-b', 'aB', 'A', 'a_b', 'a0', 'z/0', 'a/b-c', 'a/b.c'];
    for (const [index, name] of names.entries()) await writer.put(key(name), randomBytes(index), { signal });
    const listed = await collect(store.list(key(''), { signal }));
    const expected = names.map((name) => key(name)).sort();
    const found = listed.map((info) => info.key);
    expect(found.join() === expected.join(), `listed ${found.join(' ')}, not ${expected.join(' ')}`);
    for (const info of listed) {
      const stat = await store.stat(info.key, { signal });
      expect(
        stat !== undefined && stat.size === info.size,
        `the listing tells ${info.size} as the size of ${info.key}`,
      );
      expect(stat.version === info.version, `the listing tells another version of ${info.key} than stat`);
    }
  },

  'a prefix may end anywhere in a key': async ({ store, writer, key, signal }) => {
    for (const name of ['abc/1', 'abc/2', 'abd', 'ab', 'b/abc'])
      await writer.put(key(name), randomBytes(1), { signal });
    for (const [prefix, expected] of Object.entries({
      ab: ['ab', 'abc/1', 'abc/2', 'abd'],
      abc: ['abc/1', 'abc/2'],
      'abc/': ['abc/1', 'abc/2'],
      'abc/2': ['abc/2'],
      'abc/2/': [],
      'b/a': ['b/abc'],
      'nothing/here': [],
    })) {
      const found = (await collect(store.list(key(prefix), { signal }))).map((info) => info.key);
      const right = expected.map((name) => key(name));
      expect(
        found.join() === right.join(),
        `the prefix ${prefix} lists ${found.join(' ')}, not ${right.join(' ')}`,
      );
    }
  },

  'a listing may be left early': async ({ store, writer, key, signal }) => {
    for (const name of ['1', '2', '3']) await writer.put(key(name), randomBytes(1), { signal });
    let seen = 0;
    for await (const info of store.list('', { signal })) {
      expect(info.key !== '', 'a listing of everything gives an empty key');
      if (++seen === 2) break;
    }
    expect(seen === 2, 'a listing of everything does not give the objects');
  },

  'a listing of more than 1000 objects is whole': async ({ store, writer, key, signal, manyObjects }) => {
    const names = Array.from({ length: manyObjects }, (_, index) => `${(index * 7919) % 97}/${index}`);
    for (let at = 0; at < names.length; at += 32) {
      await Promise.all(
        names.slice(at, at + 32).map((name) => writer.put(key(name), Buffer.from(name), { signal })),
      );
    }
    const found = (await collect(store.list(key(''), { signal }))).map((info) => info.key);
    expect(found.length === names.length, `listed ${found.length} of ${names.length} objects`);
    expect(
      found.join() ===
        names
          .map((name) => key(name))
          .sort()
          .join(),
      'the listing is not in key order',
    );
  },
};

async function collect(listing: AsyncIterable<ObjectInfo>): Promise<ObjectInfo[]> {
  const found: ObjectInfo[] = [];
  for await (const info of listing) found.push(info);
  return found;
}
