import * as http from 'node:http';
import * as https from 'node:https';
import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { assertKey, assertPrefix } from './keys.ts';
import { announced } from './lib/announced.ts';
import { malformed, type StoreCall } from './lib/answer-errors.ts';
import { receive, receiveAll, receiveWindow } from './lib/body.ts';
import { assertRange, assertWithin, notFound, tooLarge } from './lib/calls.ts';
import { answerError, type Reply, requestError, statusOf } from './lib/http-errors.ts';
import { listPages } from './listing.ts';
import type { CallOptions, ObjectData, ObjectInfo, ObjectStore, ReadOptions } from './object-store.ts';

/** What a web server or peer wants to see. */
export interface HttpAccess {
  /** Gives the `Authorization` header for an origin (`https://host:port`); it is sent nowhere else, also after a redirect. */
  authorization?: ((origin: string) => string | undefined) | undefined;
  /** Client certificate and its private key, PEM. */
  cert?: string | undefined;
  key?: string | undefined;
}

export interface HttpStoreOptions {
  /** `http://host[:port][/path]`, without a slash at its end. */
  base: string;
  /** True for another machine's `presync serve`, which lists and tells its versions. */
  peer?: boolean | undefined;
  access?: HttpAccess | undefined;
  /** Sockets at a time; further calls wait. Default 256. */
  maxConnections?: number | undefined;
  /** A connection that moves no byte for so many milliseconds is dead. Default 30,000. */
  stallMs?: number | undefined;
}

const DEFAULT_MAX_CONNECTIONS = 256;
const DEFAULT_STALL_MS = 30_000;
/** Fetch's own limit is 20; a CDN needs one or two. */
const MAX_REDIRECTS = 5;
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/**
 * A repository behind a web server or CDN, to be read only: the objects are files below `base`. Ranges are used where the server
 * knows them. `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are honoured.
 *
 * The version is the ETag; without one it is made of Last-Modified and the size, which is as good as a web server gets.
 * 404 and 410 are OBJECT_NOT_FOUND: a web server does not tell a missing folder from a missing file.
 */
export async function createHttpStore(options: HttpStoreOptions): Promise<ObjectStore> {
  const { base, access = {}, peer = false } = options;
  const stallMs = options.stallMs ?? DEFAULT_STALL_MS;
  const location = peer ? `peer+${base}` : base;
  const agentOptions = {
    keepAlive: true,
    maxSockets: options.maxConnections ?? DEFAULT_MAX_CONNECTIONS,
    // Node 24.5 and later: proxies from the environment.
    proxyEnv: process.env,
  };
  const { cert, key: certKey } = access;
  const identity = cert === undefined || certKey === undefined ? {} : { cert, key: certKey };
  const agents = {
    'http:': new http.Agent(agentOptions),
    'https:': new https.Agent({ ...agentOptions, ...identity }),
  };

  function send(url: URL, call: StoreCall, headers: Record<string, string>): Promise<http.IncomingMessage> {
    const secure = url.protocol === 'https:';
    const authorization = access.authorization?.(url.origin);
    return new Promise((resolve, reject) => {
      const request = (secure ? https : http).request(url, {
        agent: agents[secure ? 'https:' : 'http:'],
        method: call.action === 'HEAD' ? 'HEAD' : 'GET',
        headers: {
          // A body in another coding has another length and other ranges.
          'accept-encoding': 'identity',
          'user-agent': 'presync',
          ...(authorization === undefined ? {} : { authorization }),
          ...headers,
        },
        timeout: stallMs,
        signal: AbortSignal.any([call.signal]),
      });
      request.on('timeout', () => request.destroy(new StallError(stallMs)));
      request.on('error', reject);
      request.on('response', resolve);
      request.end();
    });
  }

  /** Follows redirects; anything but 200 and 206 is thrown. The caller reads the body or destroys it. */
  async function ask(path: string, call: StoreCall, headers: Record<string, string> = {}): Promise<Reply> {
    throwIfAborted(call.signal);
    let url = new URL(`${base}/${path}`);
    for (let hops = 0; ; hops++) {
      let answer: http.IncomingMessage;
      try {
        answer = await send(url, call, headers);
      } catch (error) {
        throw requestError(error, call);
      }
      const status = answer.statusCode ?? 0;
      const target = answer.headers.location;
      if (REDIRECTS.has(status) && target !== undefined) {
        answer.destroy();
        if (hops >= MAX_REDIRECTS) throw malformed(call, `more than ${MAX_REDIRECTS} redirects`);
        const next = redirected(url, target, call);
        // How web servers say that there is a folder of that name.
        if (next.origin === url.origin && next.pathname === `${url.pathname}/`)
          throw notFound(call.key, location);
        url = next;
        continue;
      }
      if (status !== 200 && status !== 206) throw answerError(answer, call);
      const coding = answer.headers['content-encoding'] ?? 'identity';
      if (coding !== 'identity') {
        answer.destroy();
        throw malformed(call, `a body in the coding ${coding}, which was not asked for`);
      }
      return replyOf(answer, status);
    }
  }

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
      agents['http:'].destroy();
      agents['https:'].destroy();
    },
  };
}

/** Nothing moved on a connection. */
class StallError extends Error {
  override readonly name = 'TimeoutError';

  constructor(stallMs: number) {
    super(`no byte moved for ${stallMs / 1000} s`);
  }
}

function replyOf(answer: http.IncomingMessage, status: number): Reply {
  const { etag, 'last-modified': lastModified, 'content-range': contentRange } = answer.headers;
  const length = answer.headers['content-length'];
  return {
    status,
    etag,
    lastModified,
    contentRange,
    contentLength: length !== undefined && /^\d{1,15}$/.test(length) ? Number(length) : undefined,
    body: answer,
  };
}

function redirected(from: URL, target: string, call: StoreCall): URL {
  const to = URL.canParse(target, from) ? new URL(target, from) : undefined;
  if (to === undefined || !/^https?:$/.test(to.protocol))
    throw malformed(call, 'a redirect to no web address');
  if (from.protocol === 'https:' && to.protocol === 'http:')
    throw malformed(call, `a redirect from https to plain http (${to.host})`);
  if (to.username !== '' || to.password !== '') throw malformed(call, 'a redirect with a password in it');
  return to;
}

function versionOf(call: StoreCall, { etag, lastModified }: Reply, size: number): string {
  if (etag !== undefined && etag !== '') return etag;
  if (lastModified !== undefined) return `${lastModified} ${size}`;
  throw malformed(call, 'neither ETag nor Last-Modified');
}
