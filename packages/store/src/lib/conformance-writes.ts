import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import type { ObjectStore } from '../object-store.ts';
import type { Cases } from './conformance-context.ts';
import { expect, expectBytes, expectError } from './expect.ts';

const RACERS = 20;

/** What is seen after a write, and during one. */
export const CONSISTENCY_CASES: Cases = {
  'a put replaces the whole object': async ({ store, key, signal }) => {
    const first = await store.put(key('object'), randomBytes(5000), { signal });
    const bytes = randomBytes(10);
    const second = await store.put(key('object'), bytes, { signal });
    expect(first.version !== second.version, 'another content has the same version');
    const read = await store.read(key('object'), { maxBytes: 5000, signal });
    expectBytes(read.bytes, bytes, 'the object that was replaced');
    expect(read.version === second.version, 'the version is not that of the last put');
  },

  'every write is seen by the next read': async ({ store, key, signal }) => {
    for (let round = 0; round < 20; round++) {
      const bytes = randomBytes(50 + round);
      await store.put(key('object'), bytes, { signal });
      expectBytes(
        (await store.read(key('object'), { maxBytes: 100, signal })).bytes,
        bytes,
        `the object of round ${round}`,
      );
      let listed = 0;
      for await (const info of store.list(key(''), { signal }))
        listed += info.size === bytes.length ? 1 : 100;
      expect(listed === 1, `the listing of round ${round} is not of this round`);
      await store.remove(key('object'), { signal });
      expect(
        (await store.stat(key('object'), { signal })) === undefined,
        'an object is still there after its removal',
      );
    }
  },

  'readers see a whole object while it is replaced': async ({ store, key, signal }) => {
    const size = 300_000;
    await store.put(key('object'), Buffer.alloc(size, 1), { signal });
    let writing = true;
    const writer = (async () => {
      for (let fill = 2; fill < 12; fill++)
        await store.put(key('object'), Buffer.alloc(size, fill), { signal });
    })().finally(() => {
      writing = false;
    });
    const reader = async (): Promise<void> => {
      do {
        const { bytes } = await store.read(key('object'), { maxBytes: size, signal });
        expect(
          bytes.every((byte) => byte === bytes[0]),
          'a read gives parts of two objects',
        );
        expect(bytes.length === size, 'a read gives a part of an object');
      } while (writing);
    };
    await Promise.all([writer, reader(), reader()]);
  },
};

/** What conditions promise. */
export const CONDITION_CASES: Cases = {
  'a create-only put never replaces': async ({ store, key, signal }) => {
    const bytes = randomBytes(100);
    const { version } = await store.put(key('object'), bytes, { condition: { ifAbsent: true }, signal });
    const again = store.put(key('object'), randomBytes(100), { condition: { ifAbsent: true }, signal });
    await expectError(again, ['CONDITION_FAILED'], 'a create-only put of an object that is there');
    const read = await store.read(key('object'), { maxBytes: 100, signal });
    expectBytes(read.bytes, bytes, 'the object after a put that was refused');
    expect(read.version === version, 'a put that was refused changed the version');
    await store.remove(key('object'), { signal });
    await store.put(key('object'), bytes, { condition: { ifAbsent: true }, signal });
  },

  'one of many create-only puts wins': async ({ store, key, signal }) => {
    const results = await race(store, signal, (index) => [
      key('object'),
      Buffer.from(`racer ${index}`),
      { ifAbsent: true },
    ]);
    const winners = results.flatMap((won, index) => (won ? [index] : []));
    expect(winners.length === 1, `${winners.length} of ${RACERS} create-only puts succeeded`);
    const { bytes } = await store.read(key('object'), { maxBytes: 100, signal });
    expectBytes(bytes, Buffer.from(`racer ${winners[0]}`), 'the object of the winner');
  },

  'a replacing put needs the version': async ({ store, key, signal }) => {
    const first = await store.put(key('object'), Buffer.from('first'), { signal });
    const second = await store.put(key('object'), Buffer.from('second'), {
      condition: { ifVersion: first.version },
      signal,
    });
    const late = store.put(key('object'), Buffer.from('late'), {
      condition: { ifVersion: first.version },
      signal,
    });
    await expectError(late, ['CONDITION_FAILED'], 'a put for a version that was replaced');
    const read = await store.read(key('object'), { maxBytes: 100, signal });
    expectBytes(read.bytes, Buffer.from('second'), 'the object after a lost update');
    expect(read.version === second.version, 'a put that was refused changed the version');
  },

  'a replacing put makes no object': async ({ store, key, signal }) => {
    const { version } = await store.put(key('object'), Buffer.from('content'), { signal });
    const missing = store.put(key('missing'), Buffer.from('content'), {
      condition: { ifVersion: version },
      signal,
    });
    await expectError(missing, ['CONDITION_FAILED'], 'a replacing put of an absent object (minio#21526)');
    expect(
      (await store.stat(key('missing'), { signal })) === undefined,
      'a put that was refused made an object',
    );
    await store.remove(key('object'), { signal });
    const removed = store.put(key('object'), Buffer.from('content'), {
      condition: { ifVersion: version },
      signal,
    });
    await expectError(removed, ['CONDITION_FAILED'], 'a replacing put of a removed object');
  },

  'one of many replacing puts wins each version': async ({ store, key, signal }) => {
    let { version } = await store.put(key('object'), Buffer.from('start'), { signal });
    for (let round = 0; round < 3; round++) {
      const ifVersion = version;
      const results = await race(store, signal, (index) => [
        key('object'),
        Buffer.from(`round ${round} racer ${index}`),
        { ifVersion },
      ]);
      const winners = results.flatMap((won) => (won === undefined ? [] : [won]));
      expect(
        winners.length === 1 && winners[0] !== undefined,
        `${winners.length} of ${RACERS} puts for one version succeeded`,
      );
      version = winners[0].version;
      expect(
        (await store.stat(key('object'), { signal }))?.version === version,
        'the object is not of the version of the winner',
      );
    }
  },
};

/** What else writes and removals promise. */
export const WRITE_CASES: Cases = {
  'a file is put as its bytes are': async ({ store, key, signal, scratch }) => {
    for (const size of [0, 1, 3 * 1024 ** 2 + 17]) {
      const bytes = randomBytes(size);
      const path = join(scratch, `body-${size}`);
      await writeFile(path, bytes);
      const { version } = await store.put(
        key(`object-${size}`),
        { path, size },
        { condition: { ifAbsent: true }, signal },
      );
      const read = await store.read(key(`object-${size}`), { maxBytes: size, signal });
      expectBytes(read.bytes, bytes, `an object from a file of ${size} bytes`);
      expect(read.version === version, 'read tells another version than the put of a file');
    }
  },

  'a file that is not what it says is not put': async ({ store, key, signal, scratch }) => {
    const path = join(scratch, 'body');
    await writeFile(path, randomBytes(1000));
    await expectError(
      store.put(key('short'), { path, size: 1001 }, { signal }),
      ['IO_FAILED'],
      'a put of a file shorter than it says',
    );
    await expectError(
      store.put(key('long'), { path, size: 999 }, { signal }),
      ['IO_FAILED'],
      'a put of a file longer than it says',
    );
    const none = { path: join(scratch, 'none'), size: 10 };
    await expectError(
      store.put(key('none'), none, { signal }),
      ['IO_FAILED'],
      'a put of a file that is not there',
    );
    for (const name of ['short', 'long', 'none']) {
      expect(
        (await store.stat(key(name), { signal })) === undefined,
        `a put that failed made the object ${name}`,
      );
    }
  },

  'removing is done once and may be asked twice': async ({ store, key, signal }) => {
    await store.put(key('a/object'), randomBytes(1), { signal });
    await store.put(key('a/other'), randomBytes(1), { signal });
    await store.remove(key('a/object'), { signal });
    await store.remove(key('a/object'), { signal });
    await store.remove(key('never/was'), { signal });
    expect(
      (await store.stat(key('a/object'), { signal })) === undefined,
      'an object is still there after its removal',
    );
    expect(
      (await store.stat(key('a/other'), { signal })) !== undefined,
      'a removal took another object with it',
    );
  },

  'keys may have every allowed character': async ({ store, key, signal }) => {
    const names = [
      'ABCDEFGHIJKLMNOPQRSTUVWXYZ',
      'abcdefghijklmnopqrstuvwxyz',
      '0123456789',
      '-',
      '_',
      'a.b..c-_',
      '--',
      '-.',
      'x'.repeat(200),
    ];
    for (const name of names) {
      await store.put(key(`${name}/${name}`.slice(0, 300)), Buffer.from(name), {
        condition: { ifAbsent: true },
        signal,
      });
    }
    for (const name of names) {
      const { bytes } = await store.read(key(`${name}/${name}`.slice(0, 300)), { maxBytes: 300, signal });
      expectBytes(bytes, Buffer.from(name), `the object ${name}`);
    }
  },

  'other keys are refused': async ({ store, signal }) => {
    const bad = [
      '',
      '/',
      '/a',
      'a/',
      'a//b',
      '.',
      '..',
      'a/../b',
      './a',
      'a/.',
      '.a',
      'a/.tmp',
      'a b',
      'a\\b',
      'a\0',
      'ä',
      'a%2e',
      'a?b',
      'a:b',
      'x'.repeat(256),
      `${'x/'.repeat(256)}x`,
    ];
    for (const key of bad) {
      const what = `of the key ${JSON.stringify(key.slice(0, 20))}`;
      await expectError(store.stat(key, { signal }), ['INTERNAL'], `stat ${what}`);
      await expectError(store.read(key, { maxBytes: 1, signal }), ['INTERNAL'], `read ${what}`);
      await expectError(store.put(key, Buffer.alloc(1), { signal }), ['INTERNAL'], `put ${what}`);
      await expectError(store.remove(key, { signal }), ['INTERNAL'], `remove ${what}`);
    }
    const listing = store.list('../', { signal })[Symbol.asyncIterator]();
    await expectError(listing.next(), ['INTERNAL'], 'list of a prefix that no key has');
  },
};

/** What signals promise. */
export const ABORT_CASES: Cases = {
  'a signal that has fired stops every call': async ({ store, key, signal }) => {
    await store.put(key('object'), randomBytes(10), { signal });
    const reason = new PresyncError('GATE_SHUT', 'the caller gives up');
    for (const [aborted, code] of [
      [AbortSignal.abort(), 'ABORTED'],
      [AbortSignal.abort(reason), 'GATE_SHUT'],
    ] as const) {
      const call = { signal: aborted };
      await expectError(store.stat(key('object'), call), [code], 'stat with a signal that has fired');
      await expectError(
        store.read(key('object'), { maxBytes: 10, ...call }),
        [code],
        'read with a signal that has fired',
      );
      await expectError(
        store.put(key('new'), randomBytes(1), call),
        [code],
        'put with a signal that has fired',
      );
      await expectError(store.remove(key('object'), call), [code], 'remove with a signal that has fired');
      await expectError(
        store.list(key(''), call)[Symbol.asyncIterator]().next(),
        [code],
        'list with a signal that has fired',
      );
    }
    expect(
      (await store.stat(key('new'), { signal })) === undefined,
      'a put with a signal that has fired made an object',
    );
    expect(
      (await store.stat(key('object'), { signal })) !== undefined,
      'a removal with a signal that has fired was made',
    );
  },

  'a signal stops a call on its way': async ({ store, key, signal, largeBytes }) => {
    const bytes = randomBytes(largeBytes);
    await store.put(key('large'), bytes, { signal });
    for (const delay of [0, 1, 5]) {
      const controller = new AbortController();
      const call = { signal: AbortSignal.any([signal, controller.signal]) };
      const calls = [
        store.read(key('large'), { maxBytes: largeBytes, ...call }),
        store.put(key(`part-${delay}`), bytes, call),
      ];
      setTimeout(() => controller.abort(), delay);
      for (const [index, outcome] of (await Promise.allSettled(calls)).entries()) {
        if (outcome.status === 'fulfilled') continue;
        expect(
          isPresyncError(outcome.reason, 'ABORTED'),
          `a ${index === 0 ? 'read' : 'put'} that is stopped gives another error`,
          outcome.reason,
        );
      }
      const left = await store.stat(key(`part-${delay}`), { signal });
      expect(
        left === undefined || left.size === largeBytes,
        'a put that was stopped left a part of an object',
      );
    }
    const controller = new AbortController();
    const listing = store
      .list(key(''), { signal: AbortSignal.any([signal, controller.signal]) })
      [Symbol.asyncIterator]();
    await listing.next();
    controller.abort();
    await expectError(listing.next(), ['ABORTED'], 'a listing that is stopped');
  },
};

/** What a store that can only be read promises of writes. */
export const READER_CASES: Cases = {
  'writes are refused': async ({ store, writer, key, signal }) => {
    await writer.put(key('object'), Buffer.from('content'), { signal });
    await expectError(
      store.put(key('object'), Buffer.from('other'), { signal }),
      ['STORE_READ_ONLY'],
      'a put into a store that is read only',
    );
    await expectError(
      store.remove(key('object'), { signal }),
      ['STORE_READ_ONLY'],
      'a removal from a store that is read only',
    );
    const read = await store.read(key('object'), { maxBytes: 100, signal });
    expectBytes(read.bytes, Buffer.from('content'), 'the object after a put that was refused');
  },
};

/** What signals promise where there are only reads. */
export const READER_ABORT_CASES: Cases = {
  'a signal that has fired stops every read': async ({ store, writer, key, signal }) => {
    await writer.put(key('object'), randomBytes(10), { signal });
    const call = { signal: AbortSignal.abort() };
    await expectError(store.stat(key('object'), call), ['ABORTED'], 'stat with a signal that has fired');
    await expectError(
      store.read(key('object'), { maxBytes: 10, ...call }),
      ['ABORTED'],
      'read with a signal that has fired',
    );
  },

  'a signal stops a read on its way': async ({ store, writer, key, signal, largeBytes }) => {
    await writer.put(key('large'), randomBytes(largeBytes), { signal });
    for (const delay of [0, 1, 5]) {
      const controller = new AbortController();
      const call = { signal: AbortSignal.any([signal, controller.signal]) };
      const reading = store.read(key('large'), { maxBytes: largeBytes, ...call });
      setTimeout(() => controller.abort(), delay);
      try {
        await reading;
      } catch (error) {
        expect(isPresyncError(error, 'ABORTED'), 'a read that is stopped gives another error', error);
      }
    }
  },
};

/** Makes all puts at once. Those that are told to come again, do. Undefined stands for one that lost. */
function race(
  store: ObjectStore,
  signal: AbortSignal,
  entry: (index: number) => [string, Uint8Array, { ifAbsent: true } | { ifVersion: string }],
): Promise<({ version: string } | undefined)[]> {
  return Promise.all(
    Array.from({ length: RACERS }, async (_, index) => {
      const [key, body, condition] = entry(index);
      for (;;) {
        try {
          return await store.put(key, body, { condition, signal });
        } catch (error) {
          if (isPresyncError(error, 'CONDITION_FAILED')) return undefined;
          if (!isPresyncError(error) || !error.retryable) throw error;
        }
      }
    }),
  );
}
