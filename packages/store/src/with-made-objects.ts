import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { assertKey, assertPrefix } from './keys.ts';
import { notFound, window } from './lib/calls.ts';
import type { CallOptions, ObjectInfo, ObjectStore } from './object-store.ts';
import { type OpenObject, openRanges } from './open-object.ts';

/** Objects that are stored nowhere, and made whenever somebody asks for one. */
export interface MadeObjects {
  /** True for every key that could be one of theirs; all other objects are in the store. */
  owns(key: string): boolean;
  /** Size and version, which are known without making it; undefined when there is no such object. */
  find(key: string): ObjectInfo | undefined;
  /** Makes an object that `find` knows, whole. It is held in memory until `release` is called, and must not be used after. */
  make(key: string, options: CallOptions): Promise<{ bytes: Uint8Array; release(): void }>;
  /** Those that begin with the prefix, in key order. */
  list(prefix: string, options: CallOptions): AsyncIterable<ObjectInfo>;
}

/** A store that can only be read, whose objects are partly made. */
export interface MadeStore extends ObjectStore {
  /** Opens an object that `stat` has told of: one that is made is made once, however many reads follow. */
  open(info: ObjectInfo, options: CallOptions): Promise<OpenObject>;
}

/** The store's objects, and those that are made when they are asked for, as one store that can only be read. */
export function withMadeObjects(
  store: ObjectStore,
  made: MadeObjects,
  { location }: { location: string },
): MadeStore {
  const readOnly = async (): Promise<never> => {
    throw new PresyncError('STORE_READ_ONLY', `${location} can only be read`, {
      hint: 'publish to a file or bucket URL',
    });
  };
  return {
    location,
    traits: { writable: false, listable: store.traits.listable },

    async stat(key, options) {
      assertKey(key);
      throwIfAborted(options.signal);
      return made.owns(key) ? made.find(key) : store.stat(key, options);
    },

    async read(key, options) {
      assertKey(key);
      throwIfAborted(options.signal);
      if (!made.owns(key)) return store.read(key, options);
      const info = made.find(key);
      if (info === undefined) throw notFound(key, location);
      const { size, version } = info;
      const { start, end } = window(key, size, options);
      if (start === end) return { bytes: new Uint8Array(0), size, version };
      const { bytes, release } = await made.make(key, options);
      try {
        return { bytes: Uint8Array.from(bytes.subarray(start, end)), size, version };
      } finally {
        release();
      }
    },

    async open(info, options) {
      assertKey(info.key);
      if (!made.owns(info.key)) return openRanges(store, info, options);
      const { bytes, release } = await made.make(info.key, options);
      return {
        read: async ({ offset, length }) => bytes.subarray(offset, offset + length),
        close: release,
      };
    },

    put: readOnly,
    remove: readOnly,

    list(prefix, options) {
      assertPrefix(prefix);
      return merged(store.list(prefix, options), made.list(prefix, options));
    },

    close: () => store.close(),
  } satisfies Required<MadeStore>;
}

/** Two listings as one, in key order. */
async function* merged(
  left: AsyncIterable<ObjectInfo>,
  right: AsyncIterable<ObjectInfo>,
): AsyncGenerator<ObjectInfo> {
  const sources = [left[Symbol.asyncIterator](), right[Symbol.asyncIterator]()] as const;
  try {
    const heads = await Promise.all(sources.map((source) => source.next()));
    for (;;) {
      const [a, b] = heads;
      const first =
        a?.done === true || (b?.done !== true && (b?.value.key ?? '') < (a?.value.key ?? '')) ? 1 : 0;
      const head = heads[first];
      const source = sources[first];
      if (head === undefined || head.done === true) return;
      yield head.value;
      heads[first] = await source.next();
    }
  } finally {
    for (const source of sources) await source.return?.();
  }
}
