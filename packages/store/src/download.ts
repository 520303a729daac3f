import { isPresyncError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { StoreAccess } from './access.ts';
import { malformed, type StoreCall } from './lib/answer-errors.ts';
import { flow } from './lib/body.ts';
import { tooLarge } from './lib/calls.ts';
import { createHttpClient } from './lib/http-client.ts';
import { type Reply, requestError, statusOf } from './lib/http-errors.ts';
import { createPace } from './lib/pace.ts';
import { sleep } from './lib/sleep.ts';
import type { CallOptions } from './object-store.ts';

export interface DownloadsOptions {
  access?: StoreAccess | undefined;
  /** A connection that moves no byte for so many milliseconds is dead. Default 30,000. */
  stallMs?: number | undefined;
  /** Attempts in a row that bring no byte. Default 8, which with the delays below lasts half a minute on average. */
  attempts?: number | undefined;
  /** Upper bound of the first delay in milliseconds; it doubles each time. Default 250. */
  minDelayMs?: number | undefined;
  /** Told before a new attempt: after how many bytes of which address, and why. */
  onRetry?: ((retry: { location: string; offset: number; reason: string }) => void) | undefined;
}

export interface OpenDownloadOptions extends CallOptions {
  /** Take the file in whatever coding the server says it is in: the bytes are the same. Default false. */
  anyCoding?: boolean | undefined;
}

/** Files of any size from web servers, outside of any repository. */
export interface Downloads {
  /** Begins to get a file. */
  open(url: string, options: OpenDownloadOptions): Promise<Download>;
  /** Bytes of a file; undefined when the server does not tell. */
  sizeOf(url: string, options: CallOptions): Promise<number | undefined>;
  /** A small file as text; undefined when there is none. OBJECT_TOO_LARGE above `maxBytes`. */
  text(url: string, options: CallOptions & { maxBytes: number }): Promise<string | undefined>;
  close(): void;
}

/** A file that is being got. */
export interface Download {
  /** Its address without what stands behind a `?`, which may be a credential. */
  readonly location: string;
  /** Undefined while the server has not told. */
  readonly size: number | undefined;
  /** ETag or date, as the server tells them; undefined when it tells neither. */
  readonly version: string | undefined;
  /**
   * The bytes, once and in order. A connection that breaks or stalls is made again for the rest, if the server has ranges and says that
   * the file is the same still. Rejects with a STORE_… error when the file cannot be had whole.
   */
  bytes(): AsyncGenerator<Uint8Array>;
  /** Gives the connection back. May be called twice. */
  close(): void;
}

const DEFAULT_ATTEMPTS = 8;
const DEFAULT_MIN_DELAY_MS = 250;
const MAX_DELAY_MS = 20_000;
/** A `Retry-After` is obeyed up to this long. */
const MAX_RETRY_AFTER_MS = 120_000;

export function createDownloads(options: DownloadsOptions = {}): Downloads {
  const { access, onRetry } = options;
  const attempts = options.attempts ?? DEFAULT_ATTEMPTS;
  const minDelayMs = options.minDelayMs ?? DEFAULT_MIN_DELAY_MS;
  const client = createHttpClient({ access: access?.http, stallMs: options.stallMs });
  const pace = access?.bandwidth === undefined ? undefined : createPace(access.bandwidth);

  /** Waits before another attempt, or throws the error when there is to be none. */
  async function beforeRetry(
    error: unknown,
    { call, failures, offset }: { call: StoreCall; failures: number; offset: number },
  ): Promise<void> {
    throwIfAborted(call.signal);
    const known = requestError(error, call);
    if (!known.retryable || failures >= attempts) throw known;
    onRetry?.({ location: call.location + call.key, offset, reason: known.message });
    const bound = Math.min(MAX_DELAY_MS, minDelayMs * 2 ** Math.max(0, failures - 1));
    const asked = Math.min(known.retryAfterMs ?? 0, MAX_RETRY_AFTER_MS);
    await sleep(asked + Math.random() * bound, call.signal);
  }

  async function retried<T>(call: StoreCall, work: () => Promise<T>): Promise<T> {
    for (let failures = 1; ; failures++) {
      try {
        return await work();
      } catch (error) {
        await beforeRetry(error, { call, failures, offset: 0 });
      }
    }
  }

  async function open(url: string, { signal, anyCoding }: OpenDownloadOptions): Promise<Download> {
    const address = new URL(url);
    const call: StoreCall = { action: 'GET', key: address.pathname, location: address.origin, signal };
    const ask = async (headers: Record<string, string>): Promise<Reply> => {
      const reply = await client.ask(address, call, { headers, anyCoding });
      // From here on only time in which somebody waits counts, so the socket's own timer is of no use.
      reply.body.setTimeout(0);
      return reply;
    };
    const first = await retried(call, async () => {
      const reply = await ask({});
      if (reply.status === 200) return reply;
      reply.body.destroy();
      throw malformed(
        call,
        `a part of the file (${reply.contentRange ?? 'no Content-Range'}) that was not asked for`,
      );
    });
    let current: Reply | undefined = first;
    const state = {
      location: address.origin + address.pathname,
      size: first.contentLength,
      version: versionOf(first),
    };

    /** The file from `offset` on, which must be the same one still. */
    async function goOn(offset: number): Promise<Reply> {
      const condition = conditionOf(first);
      const headers: Record<string, string> = { range: `bytes=${offset}-` };
      if (condition !== undefined) headers['if-range'] = condition;
      let reply: Reply;
      try {
        reply = await ask(offset === 0 ? {} : headers);
      } catch (error) {
        throw statusOf(error) === 416 ? changed(call, 'is shorter now', error) : error;
      }
      try {
        if (!isSame(first, reply)) {
          // A server without ranges gives the whole; that it is the same whole is of no use.
          throw changed(
            call,
            `was ${versionOf(first)} and is ${versionOf(reply) ?? 'something that it does not name'}`,
          );
        }
        if (offset === 0) assertWhole(call, reply, state.size);
        else state.size = assertRest(call, reply, offset, state.size);
        return reply;
      } catch (error) {
        reply.body.destroy();
        throw error;
      }
    }

    return Object.assign(state, {
      async *bytes(): AsyncGenerator<Uint8Array> {
        let offset = 0;
        for (let failures = 0; ; ) {
          const begun = offset;
          try {
            current ??= await goOn(offset);
            const what = `${state.location} GET`;
            for await (const piece of flow(current.body, { what, stallMs: client.stallMs, signal })) {
              offset += piece.length;
              if (state.size !== undefined && offset > state.size)
                throw malformed(call, `more than the announced ${state.size} bytes`);
              await pace?.take(piece.length, signal);
              yield piece;
            }
            if (state.size === undefined || offset === state.size) return;
            throw malformed(call, `${offset} of the announced ${state.size} bytes`);
          } catch (error) {
            failures = offset > begun ? 0 : failures + 1;
            if (isNotResumable(error)) throw error;
            if (offset > 0 && conditionOf(first) === undefined && requestError(error, call).retryable)
              throw notResumable(
                call,
                offset,
                'does not say how to know the file again (no ETag, no Last-Modified)',
                error,
              );
            await beforeRetry(error, { call, failures, offset });
          } finally {
            current?.body.destroy();
            current = undefined;
          }
        }
      },
      close() {
        current?.body.destroy();
      },
    });
  }

  return {
    open,

    async sizeOf(url, { signal }) {
      const address = new URL(url);
      const call: StoreCall = { action: 'HEAD', key: address.pathname, location: address.origin, signal };
      return retried(call, async () => {
        try {
          const reply = await client.ask(address, call);
          reply.body.destroy();
          return reply.contentLength;
        } catch (error) {
          // Some servers know no HEAD.
          if (statusOf(error) === 405 || statusOf(error) === 501) return undefined;
          throw error;
        }
      });
    },

    async text(url, { maxBytes, signal }) {
      let download: Download;
      try {
        download = await open(url, { signal });
      } catch (error) {
        if (isPresyncError(error, 'OBJECT_NOT_FOUND')) return undefined;
        throw error;
      }
      try {
        const pieces: Uint8Array[] = [];
        let length = 0;
        for await (const piece of download.bytes()) {
          length += piece.length;
          if (length > maxBytes) throw tooLarge(download.location, 'more', maxBytes);
          pieces.push(piece);
        }
        return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(pieces));
      } catch (error) {
        if (isPresyncError(error)) throw error;
        throw new PresyncError('FORMAT_INVALID', `${download.location} is no text: ${messageOf(error)}`, {
          cause: error,
          hint: 'look at the address',
        });
      } finally {
        download.close();
      }
    },

    close: () => client.close(),
  };
}

/** What tells one state of a file from another. */
function versionOf({ etag, lastModified }: Reply): string | undefined {
  return etag !== undefined && etag !== '' ? etag : lastModified;
}

/** True for an ETag that stands for the very bytes (RFC 9110, 8.8.1). */
function isStrong(etag: string | undefined): etag is string {
  return etag?.startsWith('"') === true;
}

/** For `If-Range`, which takes no weak ETag (RFC 9110, 13.1.5). Undefined when the server gave nothing to go by. */
function conditionOf({ etag, lastModified }: Reply): string | undefined {
  return isStrong(etag) ? etag : lastModified;
}

/** A strong ETag says it all, and a 206 may leave the date out then (RFC 9110, 15.3.7). */
function isSame(first: Reply, now: Reply): boolean {
  if (isStrong(first.etag)) return now.etag === first.etag;
  return now.etag === first.etag && now.lastModified === first.lastModified;
}

function assertWhole(call: StoreCall, { status, contentLength }: Reply, size: number | undefined): void {
  if (status !== 200) throw malformed(call, 'a part of the file that was not asked for');
  if (contentLength !== size) throw changed(call, `had ${size} bytes and has ${contentLength}`);
}

/** The size of the whole, of which this answer gives everything from `offset` on. */
function assertRest(call: StoreCall, reply: Reply, offset: number, size: number | undefined): number {
  if (reply.status !== 206) throw notResumable(call, offset, 'gives no ranges');
  const [, from, to, whole] =
    /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15})$/.exec(reply.contentRange ?? '') ?? [];
  if (from === undefined || Number(from) !== offset || Number(to) !== Number(whole) - 1)
    throw malformed(
      call,
      `${reply.contentRange ?? 'no Content-Range'} where all from ${offset} on was asked`,
    );
  if (size !== undefined && Number(whole) !== size) throw changed(call, `had ${size} bytes and has ${whole}`);
  if (reply.contentLength !== undefined && reply.contentLength !== Number(whole) - offset)
    throw malformed(call, `${reply.contentLength} bytes for ${reply.contentRange}`);
  return Number(whole);
}

function changed({ location, key }: StoreCall, how: string, cause?: unknown): PresyncError {
  return new PresyncError(
    'STORE_FAILED',
    `${location} GET ${key}: the file changed while it was read: it ${how}`,
    {
      cause,
      hint: 'run the command again; what was read so far is of no use',
    },
  );
}

function notResumable(call: StoreCall, offset: number, why: string, cause?: unknown): PresyncError {
  return new PresyncError(
    'STORE_FAILED',
    `${call.location} GET ${call.key} broke after ${offset} bytes, and the server ${why}, so the rest cannot be had`,
    {
      cause: new NotResumableError(why, { cause }),
      retryable: true,
      hint: 'run the command again, or get the file with another tool and give its path',
    },
  );
}

class NotResumableError extends Error {
  override readonly name = 'NotResumableError';
}

/** True for the error of a file that broke in the middle, whose rest the server cannot give: only all of it again. */
export function isNotResumable(error: unknown): boolean {
  return isPresyncError(error) && error.cause instanceof NotResumableError;
}
