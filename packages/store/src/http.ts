import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { assertKey, assertPrefix } from './keys.ts';
import { announced } from './lib/announced.ts';
import { malformed, type StoreCall } from './lib/answer-errors.ts';
import { receive, receiveAll, receiveWindow } from './lib/body.ts';
import { assertRange, assertWithin, notFound, tooLarge } from './lib/calls.ts';
import { createHttpClient, type HttpClientOptions } from './lib/http-client.ts';
import { type Reply, statusOf } from './lib/http-errors.ts';
import { listPages } from './listing.ts';
import type { CallOptions, ObjectData, ObjectInfo, ObjectStore, ReadOptions } from './object-store.ts';

export type { HttpAccess } from './lib/http-client.ts';

export interface HttpStoreOptions extends HttpClientOptions {
  /** `http://host[:port][/path]`, without a slash at its end. */
  base: string;
  /** True for another machine's `presync serve`, which lists and tells its versions. */
  peer?: boolean | undefined;
}

/**
 * A repository behind a web server or CDN, to be read only: the objects are files below `base`. Ranges are used where the server
 * knows them. `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are honoured.
 *
 * The version is the ETag; without one it is made of Last-Modified and the size, which is as good as a web server gets.
 * 404 and 410 are OBJECT_NOT_FOUND: a web server does not tell a missing folder from a missing file.
 */
export async function createHttpStore(options: HttpStoreOptions): Promise<ObjectStore> {
  const { base, peer = false } = options;
  const location = peer ? `peer+${base}` : base;
  const client = createHttpClient(options);
  const { stallMs } = client;

  const ask = (path: string, call: StoreCall, headers: Record<string, string> = {}): Promise<Reply> =>
    client.ask(new URL(`${base}/${path}`), call, { headers });

  const describe = (action: StoreCall['action'], key: string, signal: AbortSignal): StoreCall => ({
    action,
    key,
    location,
    signal,
  });

  async function stat(key: string, signal: AbortSignal): Promise<ObjectInfo | undefined> {
    const call = describe('HEAD', key, signal);
    let reply: Reply;
    try {
      reply = await ask(key, call);
    } catch (error) {
      if (!(error instanceof PresyncError)) throw error;
      if (error.code === 'OBJECT_NOT_FOUND') return undefined;
      // Some servers know no HEAD.
      if (statusOf(error) !== 405 && statusOf(error) !== 501) throw error;
      return viaRange(key, signal);
    }
    reply.body.destroy();
    if (reply.contentLength === undefined) return viaRange(key, signal);
    return { key, size: reply.contentLength, version: versionOf(call, reply, reply.contentLength) };
  }

  async function viaRange(key: string, signal: AbortSignal): Promise<ObjectInfo | undefined> {
    const call = describe('GET', key, signal);
    try {
      const { reply, size } = await begin(key, call, { offset: 0, length: 1 });
      reply.body.destroy();
      if (size === undefined) throw malformed(call, 'neither Content-Length nor Content-Range');
      return { key, size, version: versionOf(call, reply, size) };
    } catch (error) {
      if (error instanceof PresyncError && error.code === 'OBJECT_NOT_FOUND') return undefined;
      throw error;
    }
  }

  /** The answer to a GET; `length` and `size` are undefined where the server does not tell. */
  async function begin(
    key: string,
    call: StoreCall,
    range: ReadOptions['range'],
  ): Promise<{ reply: Reply; length: number | undefined; size: number | undefined }> {
    const headers: Record<string, string> =
      range === undefined ? {} : { range: `bytes=${range.offset}-${range.offset + range.length - 1}` };
    const reply = await ask(key, call, headers);
    try {
      // A server without ranges gives all of it, and chunked coding does not say how much that is.
      if (reply.status === 200) return { reply, length: reply.contentLength, size: reply.contentLength };
      return { reply, ...announced(call, reply, range) };
    } catch (error) {
      reply.body.destroy();
      throw error;
    }
  }

  async function read(key: string, { range, maxBytes, signal }: ReadOptions): Promise<ObjectData> {
    assertRange(key, range);
    const call = describe('GET', key, signal);
    if (range?.length === 0) return nothing(key, Number.POSITIVE_INFINITY, signal);
    let begun: Awaited<ReturnType<typeof begin>>;
    try {
      begun = await begin(key, call, range);
    } catch (error) {
      if (range !== undefined && statusOf(error) === 416) return nothing(key, range.offset, signal);
      throw error;
    }
    const { reply, length, size } = begun;
    const options = { what: `${location} GET ${key}`, stallMs, signal };
    try {
      if (range === undefined || reply.status === 206) {
        if (length === undefined || size === undefined) {
          const bytes = await receiveAll(
            reply.body,
            maxBytes,
            () => tooLarge(key, 'more', maxBytes),
            options,
          );
          return { bytes, size: bytes.length, version: versionOf(call, reply, bytes.length) };
        }
        assertWithin(key, length, maxBytes);
        const bytes = await receive(reply.body, length, options);
        return { bytes, size, version: versionOf(call, reply, size) };
      }
      if (size === undefined)
        throw malformed(call, 'the whole object where a range was asked, of unknown length');
      const start = Math.min(range.offset, size);
      const wanted = Math.min(range.length, size - start);
      assertWithin(key, wanted, maxBytes);
      const bytes = await receiveWindow(reply.body, { skip: start, length: wanted }, options);
      return { bytes, size, version: versionOf(call, reply, size) };
    } finally {
      reply.body.destroy();
    }
  }

  async function nothing(key: string, offset: number, signal: AbortSignal): Promise<ObjectData> {
    const found = await stat(key, signal);
    if (found === undefined) throw notFound(key, location);
    if (found.size > offset)
      throw malformed(describe('GET', key, signal), '416 to a range within the object');
    return { bytes: new Uint8Array(0), size: found.size, version: found.version };
  }

  const readOnly = async (): Promise<never> => {
    throw new PresyncError('STORE_READ_ONLY', `${location} can only be read`, {
      hint: 'publish to a file or bucket URL',
    });
  };

  return {
    location,
    traits: { writable: false, listable: peer },

    async stat(key, { signal }) {
      assertKey(key);
      return stat(key, signal);
    },

    async read(key, options) {
      assertKey(key);
      return read(key, options);
    },

    async put(key) {
      assertKey(key);
      return readOnly();
    },

    async remove(key) {
      assertKey(key);
      return readOnly();
    },

    async *list(prefix: string, { signal }: CallOptions): AsyncGenerator<ObjectInfo> {
      assertPrefix(prefix);
      throwIfAborted(signal);
      if (!peer) {
        throw new PresyncError('STORE_FAILED', `${location} is a web server, which cannot be listed`, {
          hint: 'name what you want, as with --channel; or use the URL of the bucket itself',
        });
      }
      const call = describe('LIST', prefix, signal);
      yield* listPages(prefix, call, async (path, maxBytes) => {
        const { body } = await ask(path, call);
        const options = { what: `${location} LIST ${prefix}`, stallMs, signal };
        return receiveAll(
          body,
          maxBytes,
          () => malformed(call, `a page of more than ${maxBytes} bytes`),
          options,
        );
      });
    },

    async close() {
      client.close();
    },
  };
}

function versionOf(call: StoreCall, { etag, lastModified }: Reply, size: number): string {
  if (etag !== undefined && etag !== '') return etag;
  if (lastModified !== undefined) return `${lastModified} ${size}`;
  throw malformed(call, 'neither ETag nor Last-Modified');
}
