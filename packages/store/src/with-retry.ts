import { open } from 'node:fs/promises';
import { ioError, isPresyncError, PresyncError } from '@presync/runtime/errors';
import { bodySize, isFileBody } from './lib/calls.ts';
import { type RetryOptions, retried } from './lib/retried.ts';
import type { FileBody, ObjectInfo, ObjectStore, PutOptions } from './object-store.ts';

/** How much of an object is compared at a time with what was put. */
const COMPARE_BYTES = 8 * 1024 * 1024;

/**
 * The same store, with calls made again after errors that are `retryable`. Delays are random between nothing and a
 * bound that doubles ("full jitter"), and never shorter than the error's `retryAfterMs`. The signal ends the waits.
 *
 * A conditional put that fails with CONDITION_FAILED after an attempt of unknown outcome may have lost to itself. It
 * is read back: when the object holds exactly the bytes of the put, the put has succeeded.
 *
 * A listing that fails goes on after the last object that it gave; attempts are counted anew from there.
 */
export function withRetry(store: ObjectStore, options: RetryOptions = {}): ObjectStore {
  const again = <T>(operation: string, signal: AbortSignal, work: () => Promise<T>): Promise<T> =>
    retried(operation, signal, work, options);

  async function put(
    key: string,
    body: Uint8Array | FileBody,
    call: PutOptions,
  ): Promise<{ version: string }> {
    let uncertain = false;
    try {
      return await again(`put ${key}`, call.signal, async () => {
        try {
          return await store.put(key, body, call);
        } catch (error) {
          uncertain ||= error instanceof PresyncError && error.retryable;
          throw error;
        }
      });
    } catch (error) {
      if (!uncertain || call.condition === undefined || !isPresyncError(error, 'CONDITION_FAILED'))
        throw error;
      const version = await again(`read back ${key}`, call.signal, () =>
        versionIfSame(store, key, body, call.signal),
      );
      if (version === undefined) throw error;
      return { version };
    }
  }

  return {
    location: store.location,
    traits: store.traits,
    stat: (key, call) => again(`stat ${key}`, call.signal, () => store.stat(key, call)),
    read: (key, call) => again(`read ${key}`, call.signal, () => store.read(key, call)),
    put,
    remove: (key, call) => again(`remove ${key}`, call.signal, () => store.remove(key, call)),
    async *list(prefix, call) {
      let source: AsyncIterator<ObjectInfo> | undefined;
      let last = '';
      const step = async (): Promise<IteratorResult<ObjectInfo>> => {
        source ??= store.list(prefix, call)[Symbol.asyncIterator]();
        try {
          for (;;) {
            const next = await source.next();
            if (next.done || next.value.key > last) return next;
          }
        } catch (error) {
          source = undefined;
          throw error;
        }
      };
      try {
        for (;;) {
          const next = await again(`list ${prefix}`, call.signal, step);
          if (next.done) return;
          last = next.value.key;
          yield next.value;
        }
      } finally {
        await source?.return?.();
      }
    },
    close: () => store.close(),
  } satisfies Required<ObjectStore>;
}

/** The version of the object when it holds exactly the bytes of `body`. */
async function versionIfSame(
  store: ObjectStore,
  key: string,
  body: Uint8Array | FileBody,
  signal: AbortSignal,
): Promise<string | undefined> {
  const size = bodySize(body);
  const found = await store.stat(key, { signal });
  if (found?.size !== size) return undefined;
  const source = isFileBody(body) ? await openBody(body) : body;
  try {
    for (let offset = 0; offset < size; offset += COMPARE_BYTES) {
      const length = Math.min(COMPARE_BYTES, size - offset);
      const theirs = await store.read(key, { range: { offset, length }, maxBytes: length, signal });
      if (theirs.version !== found.version) return undefined;
      const ours =
        source instanceof Uint8Array
          ? source.subarray(offset, offset + length)
          : (await source.read(Buffer.alloc(length), 0, length, offset)).buffer;
      if (Buffer.compare(ours, theirs.bytes) !== 0) return undefined;
    }
    return found.version;
  } catch (error) {
    if (isPresyncError(error, 'OBJECT_NOT_FOUND')) return undefined;
    throw error;
  } finally {
    if (!(source instanceof Uint8Array)) await source.close();
  }
}

async function openBody(body: FileBody): Promise<Awaited<ReturnType<typeof open>>> {
  try {
    return await open(body.path, 'r');
  } catch (error) {
    throw ioError(error, 'read', body.path);
  }
}
