import { Readable } from 'node:stream';
import { isPresyncError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { cacheControl } from '@presync/store/cache-control';
import { isKey } from '@presync/store/keys';
import { LIST_PAGE_OBJECTS, LIST_PATH } from '@presync/store/listing';
import type { CallOptions, ObjectInfo, ObjectStore } from '@presync/store/object-store';
import type { OpenObject } from '@presync/store/open-object';
import type { Pace } from '@presync/store/with-bandwidth';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { isAuthorized } from './bearer.ts';

export interface ObjectRoutesOptions {
  store: ObjectStore;
  /** Opens an object of the store for one answer. */
  open(info: ObjectInfo, options: CallOptions): Promise<OpenObject>;
  /** True for objects that are never replaced. */
  isImmutable(key: string): boolean;
  /** Clients must send it as a bearer token. */
  token?: string | undefined;
  /** Answers at a time; others are told to come again. */
  maxAnswers: number;
  /** Keeps what is sent below a rate. */
  pace?: Pace | undefined;
  /** Told of each answer when it ended. */
  onAnswer?: ((answer: { status: number; bytes: number; seconds: number }) => void) | undefined;
  signal: AbortSignal;
}

/** What is held of an object at a time. */
const BLOCK_BYTES = 1024 * 1024;
/** Seconds after which a client that found all places taken may come again. */
const RETRY_AFTER_S = 1;

/** Serves the objects of a store, read only: GET and HEAD with single ranges, and listings for other machines' presync. */
export function addObjectRoutes(app: FastifyInstance, options: ObjectRoutesOptions): void {
  const { store, token, maxAnswers, signal } = options;
  let answers = 0;

  app.addHook('onRequest', async (request, reply) => {
    const began = performance.now();
    let counted = true;
    answers += 1;
    reply.raw.once('close', () => {
      if (counted) answers -= 1;
      counted = false;
      options.onAnswer?.({
        status: reply.statusCode,
        bytes: Number(reply.getHeader('content-length') ?? 0),
        seconds: (performance.now() - began) / 1000,
      });
    });
    if (token !== undefined && !isAuthorized(request.headers.authorization, token)) {
      return reply.code(401).header('www-authenticate', 'Bearer').send({ error: 'a bearer token is wanted' });
    }
    if (answers > maxAnswers) {
      return reply
        .code(503)
        .header('retry-after', String(RETRY_AFTER_S))
        .send({ error: 'all places are taken' });
    }
  });

  app.get<{ Querystring: { prefix?: string; after?: string } }>(`/${LIST_PATH}`, async (request, reply) => {
    const { prefix = '', after = '' } = request.query;
    const lines: string[] = [];
    // The store has no "after": what comes before is passed over. Listings of a repository's documents are short.
    for await (const info of store.list(prefix, { signal })) {
      if (info.key <= after) continue;
      lines.push(`${JSON.stringify({ ...info, version: etagOf(info.version) })}\n`);
      if (lines.length >= LIST_PAGE_OBJECTS) break;
    }
    return reply
      .header('content-type', 'application/x-ndjson')
      .header('cache-control', 'no-store')
      .send(lines.join(''));
  });

  app.get<{ Params: { '*': string } }>('/*', async (request, reply) => {
    const key = request.params['*'];
    if (!isKey(key)) return absent(reply);
    const found = await store.stat(key, { signal });
    if (found === undefined) return absent(reply);
    const { size, version } = found;
    const etag = etagOf(version);
    const range = rangeOf(request, size);
    const unchanged = request.headers['if-none-match'] === etag;
    const { offset, length } =
      range === 'beyond' || range === undefined ? { offset: 0, length: size } : range;
    const wanted = request.method !== 'HEAD' && !unchanged && range !== 'beyond' && length > 0;
    // Before any header is set: an error must not carry those of the object.
    const body = wanted ? await openBody(found, reply, offset, length) : Readable.from([]);
    reply
      .header('etag', etag)
      .header('accept-ranges', 'bytes')
      .header('cache-control', cacheControl(options.isImmutable(key)))
      .header('content-type', key.endsWith('.json') ? 'application/json' : 'application/octet-stream');
    if (unchanged) return reply.code(304).send();
    if (range === 'beyond') return reply.code(416).header('content-range', `bytes */${size}`).send();
    if (range !== undefined)
      reply.code(206).header('content-range', `bytes ${offset}-${offset + length - 1}/${size}`);
    // Fastify gives the length of any other payload that it drops, and reads a stream that it drops to its end.
    return reply.header('content-length', String(length)).send(body);
  });

  /** The bytes of an answer, from an object that is held open until the answer has left or its client has gone. */
  async function openBody(
    info: ObjectInfo,
    reply: FastifyReply,
    offset: number,
    length: number,
  ): Promise<Readable> {
    const gone = new AbortController();
    const leave = (): void => gone.abort(new PresyncError('ABORTED', 'the client has gone'));
    reply.raw.once('close', leave);
    // Nobody may have listened when it closed.
    if (reply.raw.closed) leave();
    const object = await options.open(info, { signal: gone.signal });
    if (gone.signal.aborted) object.close();
    else gone.signal.addEventListener('abort', () => object.close(), { once: true });
    return Readable.from(blocks(object, { offset, length }, gone.signal), {
      objectMode: false,
      highWaterMark: 1,
    });
  }

  async function* blocks(
    object: OpenObject,
    { offset, length }: { offset: number; length: number },
    gone: AbortSignal,
  ): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < length; at += BLOCK_BYTES) {
      const wanted = Math.min(BLOCK_BYTES, length - at);
      const settle = await options.pace?.take(wanted, gone);
      throwIfAborted(gone);
      // What fails here breaks the answer off, and the client sees that it is short: better than parts of two objects.
      const bytes = await object.read({ offset: offset + at, length: wanted });
      settle?.(bytes.length);
      yield bytes;
    }
  }

  app.setErrorHandler((error, _request, reply) => {
    const status = isPresyncError(error, 'OBJECT_NOT_FOUND')
      ? 404
      : isPresyncError(error) && error.retryable
        ? 503
        : 500;
    const retryAfterMs = isPresyncError(error) ? error.retryAfterMs : undefined;
    if (retryAfterMs !== undefined) reply.header('retry-after', String(Math.ceil(retryAfterMs / 1000)));
    return reply
      .code(status)
      .header('cache-control', 'no-store')
      .send({ error: messageOf(error) });
  });
}

function absent(reply: FastifyReply): FastifyReply {
  return reply.code(404).header('cache-control', 'no-store').send({ error: 'there is no such object' });
}

/** One range of bytes, as RFC 9110, 14.1.2 has it; undefined for none, and for what may be passed over. */
function rangeOf(
  request: FastifyRequest,
  size: number,
): { offset: number; length: number } | 'beyond' | undefined {
  const [, first = '', last = ''] = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(request.headers.range ?? '') ?? [];
  if (first === '' && last === '') return undefined;
  if (first === '') {
    const length = Math.min(Number(last), size);
    return length === 0 ? 'beyond' : { offset: size - length, length };
  }
  const offset = Number(first);
  const end = last === '' ? size - 1 : Math.min(Number(last), size - 1);
  if (last !== '' && Number(last) < offset) return undefined;
  return offset >= size ? 'beyond' : { offset, length: end - offset + 1 };
}

/** A store's version as an entity tag (RFC 9110, 8.8.3). */
function etagOf(version: string): string {
  return /^(W\/)?"[^"]*"$/.test(version) ? version : `"${version.replaceAll(/["\\\s]/g, '_')}"`;
}
