import { messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { type CaseResult, newCorner, type Topic } from './conformance.ts';
import { expect, expectBytes, expectError } from './lib/expect.ts';
import type { CallOptions, ObjectInfo, ObjectStore } from './object-store.ts';

export interface ReaderPromisesOptions extends CallOptions {
  /** Objects that are there; the first of them is read. */
  objects: readonly ObjectInfo[];
  /** False where a listing is not allowed. Default: true. */
  mayList?: boolean | undefined;
}

interface Reading {
  store: ObjectStore;
  object: ObjectInfo;
  signal: AbortSignal;
}

/** What is held of an object at most. */
const MAX_BYTES = 8 * 1024 * 1024;

/** Objects of a listing that are looked at: one page of S3, and the beginning of the next. */
const MAX_LISTED = 1100;

const PROMISES: readonly {
  name: string;
  topic: Topic;
  needs?: 'listing';
  check: (reading: Reading) => Promise<void>;
}[] = [
  {
    name: 'stat and read tell the same of an object',
    topic: 'objects',
    check: async ({ store, object, signal }) => {
      const info = await store.stat(object.key, { signal });
      expect(info !== undefined, `stat does not find ${object.key}`);
      const { bytes, size, version } = await readFront(store, info, signal);
      expect(size === info.size, `read tells ${size} as the size of ${object.key}, and stat ${info.size}`);
      expect(version === info.version, `read tells another version of ${object.key} than stat`);
      expect(
        bytes.length === Math.min(info.size, MAX_BYTES),
        `a read of ${object.key} gives ${bytes.length} bytes`,
      );
    },
  },
  {
    name: 'ranges give the bytes of the whole',
    topic: 'ranges',
    check: async ({ store, object, signal }) => {
      const { bytes } = await readFront(store, object, signal);
      for (const [offset, length] of [
        [0, 1],
        [Math.floor(bytes.length / 3), Math.ceil(bytes.length / 3)],
        [Math.max(0, bytes.length - 1), 1],
      ] as const) {
        const part = await store.read(object.key, {
          range: { offset, length },
          maxBytes: Math.max(1, length),
          signal,
        });
        expectBytes(
          part.bytes,
          bytes.subarray(offset, offset + length),
          `the range ${offset}+${length} of ${object.key}`,
        );
      }
    },
  },
  {
    name: 'a range past the end gives no bytes',
    topic: 'ranges',
    check: async ({ store, object, signal }) => {
      const { size } = await readFront(store, object, signal);
      const range = { offset: size, length: 1 };
      const { bytes } = await store.read(object.key, { range, maxBytes: 1, signal });
      expect(bytes.length === 0, `the range ${size}+1 of ${object.key} gives ${bytes.length} bytes`);
    },
  },
  {
    name: 'an absent object is told as absent',
    topic: 'absence',
    check: async ({ store, signal }) => {
      const key = `${newCorner()}absent`;
      expect((await store.stat(key, { signal })) === undefined, 'stat finds an object that was never put');
      await expectError(
        store.read(key, { maxBytes: 1, signal }),
        ['OBJECT_NOT_FOUND'],
        'a read of an absent object',
      );
    },
  },
  {
    name: 'a listing is in key order and has the objects',
    topic: 'listing',
    needs: 'listing',
    check: async ({ store, object, signal }) => {
      const folder = object.key.slice(0, object.key.lastIndexOf('/') + 1);
      let last = '';
      let seen = 0;
      for await (const { key } of store.list(folder, { signal })) {
        expect(key > last, `the listing is not in key order: ${key} after ${last}`);
        last = key;
        // The object is the first of its folder that was listed before.
        if (key >= object.key || ++seen >= MAX_LISTED) break;
      }
      expect(last === object.key || seen >= MAX_LISTED, `a listing of ${folder} does not have ${object.key}`);
    },
  },
];

/** The promises that can be put to the test on objects that are there, without writing anything. */
export async function checkReaderPromises(
  store: ObjectStore,
  { objects, mayList = true, signal }: ReaderPromisesOptions,
): Promise<CaseResult[]> {
  const [object] = objects;
  const results: CaseResult[] = [];
  for (const { name, topic, needs, check } of PROMISES) {
    throwIfAborted(signal);
    const trait = hindrance(needs === 'listing', store, mayList, object);
    const began = performance.now();
    let error: PresyncError | undefined;
    if (trait === undefined && object !== undefined) {
      try {
        await check({ store, object, signal });
      } catch (failure) {
        throwIfAborted(signal);
        error =
          failure instanceof PresyncError
            ? failure
            : new PresyncError('INTERNAL', messageOf(failure), { cause: failure });
      }
    }
    const outcome = trait !== undefined ? 'not applicable' : error === undefined ? 'ok' : 'failed';
    results.push({
      name,
      topic,
      outcome,
      trait,
      error,
      milliseconds: performance.now() - began,
      left: [],
    });
  }
  return results;
}

/** Why a promise cannot be tried. */
function hindrance(
  takesListing: boolean,
  { traits }: ObjectStore,
  mayList: boolean,
  object: ObjectInfo | undefined,
): string | undefined {
  if (object === undefined) return 'no object';
  if (takesListing && !traits.listable) return 'no listing';
  return takesListing && !mayList ? 'not allowed to list' : undefined;
}

/** As much of the object as may be held. */
function readFront(
  store: ObjectStore,
  { key, size }: ObjectInfo,
  signal: AbortSignal,
): ReturnType<ObjectStore['read']> {
  return size <= MAX_BYTES
    ? store.read(key, { maxBytes: MAX_BYTES, signal })
    : store.read(key, { range: { offset: 0, length: MAX_BYTES }, maxBytes: MAX_BYTES, signal });
}
