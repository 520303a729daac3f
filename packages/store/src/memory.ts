import { readFile } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ioError, throwIfAborted } from '@presync/runtime/errors';
import { assertKey, assertPrefix } from './keys.ts';
import { alreadyThere, bodyChanged, isFileBody, notFound, wasChanged, window } from './lib/calls.ts';
import type {
  CallOptions,
  FileBody,
  ObjectInfo,
  ObjectStore,
  PutOptions,
  ReadOptions,
} from './object-store.ts';

const LOCATION = 'memory:';

/** A store in this process's memory, for tests. Each one is its own, and ends with the process. */
export function createMemoryStore(): ObjectStore {
  const objects = new Map<string, { bytes: Uint8Array; version: string }>();
  let writes = 0;

  /** Every call gives way once, as one to a real store does, so that calls interleave. */
  async function begin(key: string, signal: AbortSignal): Promise<void> {
    assertKey(key);
    throwIfAborted(signal);
    await nextTurn();
    throwIfAborted(signal);
  }

  return {
    location: LOCATION,
    traits: { writable: true, listable: true },

    async stat(key: string, { signal }: CallOptions) {
      await begin(key, signal);
      const found = objects.get(key);
      return found && { key, size: found.bytes.byteLength, version: found.version };
    },

    async read(key: string, options: ReadOptions) {
      await begin(key, options.signal);
      const found = objects.get(key);
      if (found === undefined) throw notFound(key, LOCATION);
      const size = found.bytes.byteLength;
      const { start, end } = window(key, size, options);
      return { bytes: found.bytes.slice(start, end), size, version: found.version };
    },

    async put(key: string, body: Uint8Array | FileBody, { condition, signal }: PutOptions) {
      await begin(key, signal);
      const bytes = isFileBody(body) ? await fileBytes(body, key, signal) : Uint8Array.from(body);
      const found = objects.get(key);
      if (condition !== undefined && 'ifAbsent' in condition && found !== undefined) {
        throw alreadyThere(key, LOCATION);
      }
      if (condition !== undefined && 'ifVersion' in condition && found?.version !== condition.ifVersion) {
        throw wasChanged(key, LOCATION);
      }
      const version = `w${++writes}`;
      objects.set(key, { bytes, version });
      return { version };
    },

    async remove(key: string, { signal }: CallOptions) {
      await begin(key, signal);
      objects.delete(key);
    },

    async *list(prefix: string, { signal }: CallOptions): AsyncGenerator<ObjectInfo> {
      assertPrefix(prefix);
      // Keys are ASCII, so the default order of strings is that of their bytes.
      for (const key of [...objects.keys()].filter((name) => name.startsWith(prefix)).sort()) {
        await nextTurn();
        throwIfAborted(signal);
        const found = objects.get(key);
        if (found !== undefined) yield { key, size: found.bytes.byteLength, version: found.version };
      }
      throwIfAborted(signal);
    },

    close: async () => {},
  };
}

async function fileBytes(body: FileBody, key: string, signal: AbortSignal): Promise<Uint8Array> {
  const bytes = await readFile(body.path).catch((error: unknown) => {
    throw ioError(error, 'read', body.path);
  });
  throwIfAborted(signal);
  if (bytes.byteLength !== body.size) throw bodyChanged(body.path, key);
  return bytes;
}
