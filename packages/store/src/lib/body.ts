import { createReadStream, type ReadStream } from 'node:fs';
import { ioError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { FileBody } from '../object-store.ts';
import { bodyChanged } from './calls.ts';

/** A stream of bytes as node:http and the SDKs give it. */
export interface ByteStream extends AsyncIterable<Uint8Array> {
  destroy(error?: Error): unknown;
}

/** The same bytes, as node:http and the SDKs take them. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** True for the body of an answer as it comes from node:http. */
export function isByteStream(body: unknown): body is ByteStream {
  return typeof body === 'object' && body !== null && Symbol.asyncIterator in body && 'destroy' in body;
}

/** Timers fire some milliseconds apart. */
const NEARLY = 0.9;

export interface ReceiveOptions {
  /** Where the bytes come from, for errors. */
  what: string;
  /** A connection that moves no byte for so many milliseconds is dead. */
  stallMs: number;
  signal: AbortSignal;
}

/**
 * Receives exactly `length` bytes. A body that is shorter or longer rejects with a retryable STORE_FAILED, one of which
 * no byte comes for `stallMs` with a retryable STORE_UNREACHABLE.
 */
export async function receive(
  body: ByteStream,
  length: number,
  options: ReceiveOptions,
): Promise<Uint8Array> {
  const bytes = Buffer.allocUnsafeSlow(length);
  let at = 0;
  const { failure, idleMs } = await drain(body, options, (piece) => {
    if (at + piece.byteLength > length)
      throw wrongLength(options.what, `more than the announced ${length} bytes`);
    bytes.set(piece, at);
    at += piece.byteLength;
    return true;
  });
  // The socket's own timer runs out with ours, and may be the first to end the body.
  if (at !== length && idleMs >= NEARLY * options.stallMs)
    throw stall(options.what, options.stallMs, failure);
  if (at !== length) throw wrongLength(options.what, `${at} of the announced ${length} bytes`, failure);
  if (failure !== undefined) throw failure;
  return bytes;
}

/**
 * Receives a body whose length nobody announced, and gives up with `tooLarge` before it holds more than `maxBytes`. Only sound for
 * transfers that mark their end (HTTP's chunked coding).
 */
export async function receiveAll(
  body: ByteStream,
  maxBytes: number,
  tooLarge: () => PresyncError,
  options: ReceiveOptions,
): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  const { failure } = await drain(body, options, (piece) => {
    size += piece.byteLength;
    if (size > maxBytes) throw tooLarge();
    pieces.push(piece);
    return true;
  });
  if (failure !== undefined) throw failure;
  return Buffer.concat(pieces);
}

/** Leaves out `skip` bytes, receives `length`, and closes the connection: for servers that know no ranges. */
export async function receiveWindow(
  body: ByteStream,
  { skip, length }: { skip: number; length: number },
  options: ReceiveOptions,
): Promise<Uint8Array> {
  const bytes = Buffer.allocUnsafeSlow(length);
  let position = 0;
  let at = 0;
  const { failure } = await drain(body, options, (piece) => {
    const wanted = piece.subarray(Math.max(0, skip - position), Math.max(0, skip + length - position));
    position += piece.byteLength;
    bytes.set(wanted, at);
    at += wanted.byteLength;
    return at < length;
  });
  if (at !== length) throw wrongLength(options.what, `no more than ${position} bytes`, failure);
  return bytes;
}

/**
 * Gives each piece of a body to `take` until that says false. Returns what went wrong with the body itself, and for how long no byte had come when it ended, for the caller to weigh; a
 * stall, an abort and a PresyncError of `take` are thrown.
 */
async function drain(
  body: ByteStream,
  { what, stallMs, signal }: ReceiveOptions,
  take: (piece: Uint8Array) => boolean,
): Promise<{ failure: unknown; idleMs: number }> {
  let stalled = false;
  let last = performance.now();
  const timer = setTimeout(() => {
    stalled = true;
    body.destroy();
  }, stallMs);
  const watched = AbortSignal.any([signal]);
  const onAbort = (): unknown => body.destroy();
  watched.addEventListener('abort', onAbort, { once: true });
  let failure: unknown;
  try {
    throwIfAborted(watched);
    for await (const piece of body) {
      timer.refresh();
      last = performance.now();
      if (!take(piece)) break;
    }
  } catch (error) {
    failure = error;
  } finally {
    clearTimeout(timer);
    watched.removeEventListener('abort', onAbort);
  }
  const idleMs = performance.now() - last;
  throwIfAborted(signal);
  if (failure instanceof PresyncError) throw failure;
  if (stalled || (failure instanceof Error && failure.name === 'TimeoutError'))
    throw stall(what, stallMs, failure);
  return { failure, idleMs };
}

/**
 * The pieces of a body as they come, for who takes them at a pace of their own: only time in which a piece is waited for counts as
 * a stall. What goes wrong with the body is thrown as it is; a stall is a retryable STORE_UNREACHABLE. Lets go of the body at the end.
 */
export async function* flow(
  body: ByteStream,
  { what, stallMs, signal }: ReceiveOptions,
): AsyncGenerator<Uint8Array> {
  let waiting = false;
  let stalled = false;
  const timer = setTimeout(() => {
    if (!waiting) return;
    stalled = true;
    body.destroy();
  }, stallMs);
  const watched = AbortSignal.any([signal]);
  const onAbort = (): unknown => body.destroy();
  watched.addEventListener('abort', onAbort, { once: true });
  try {
    const pieces = body[Symbol.asyncIterator]();
    for (;;) {
      throwIfAborted(watched);
      waiting = true;
      timer.refresh();
      const next = await pieces.next();
      waiting = false;
      if (next.done === true) break;
      yield next.value;
    }
  } catch (error) {
    throwIfAborted(signal);
    if (stalled) throw stall(what, stallMs, error);
    throw error;
  } finally {
    clearTimeout(timer);
    watched.removeEventListener('abort', onAbort);
    body.destroy();
  }
  throwIfAborted(signal);
  if (stalled) throw stall(what, stallMs);
}

/** A connection on which nothing moved. */
export function stall(what: string, stallMs: number, cause?: unknown): PresyncError {
  return new PresyncError('STORE_UNREACHABLE', `${what}: no byte moved for ${stallMs / 1000} s`, {
    cause,
    retryable: true,
    hint: 'look at the network between this machine and the store',
  });
}

function wrongLength(what: string, got: string, cause?: unknown): PresyncError {
  return new PresyncError('STORE_FAILED', `${what}: the body had ${got}`, {
    cause,
    retryable: true,
    hint: 'if it goes on, look for a proxy between this machine and the store that cuts or rewrites answers',
  });
}

/** A piece of a file; by default all of it. */
export interface FileSlice {
  start: number;
  length: number;
}

/**
 * A stream of a piece of the file. `failed` fires when it cannot be read or has another size than announced: a request
 * would wait for the missing bytes.
 */
export function fileStream(
  body: FileBody,
  key: string,
  { start, length }: FileSlice = { start: 0, length: body.size },
): { stream: ReadStream; failed: AbortSignal } {
  const failure = new AbortController();
  const stream = createReadStream(body.path, { start, end: start + length - 1, highWaterMark: 256 * 1024 });
  stream.on('error', (error) => failure.abort(ioError(error, 'read', body.path)));
  stream.on('end', () => {
    if (stream.bytesRead !== length) failure.abort(bodyChanged(body.path, key));
  });
  return { stream, failed: failure.signal };
}
