import { createReadStream, type ReadStream } from 'node:fs';
import { ioError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { FileBody } from '../object-store.ts';
import { bodyChanged } from './calls.ts';

/** A stream of bytes as the SDK gives it in Node.js. */
export interface ByteStream extends AsyncIterable<Uint8Array> {
  destroy(error?: Error): unknown;
}

/** True for the body of an answer as it comes from node:http. */
export function isByteStream(body: unknown): body is ByteStream {
  return typeof body === 'object' && body !== null && Symbol.asyncIterator in body && 'destroy' in body;
}

/**
 * Receives exactly `length` bytes. A body that is shorter or longer rejects with a retryable STORE_FAILED, one of which
 * no byte comes for `stallMs` with a retryable STORE_UNREACHABLE.
 */
export async function receive(
  body: ByteStream,
  length: number,
  options: { what: string; stallMs: number; signal: AbortSignal },
): Promise<Uint8Array> {
  const { what, stallMs } = options;
  const bytes = Buffer.allocUnsafeSlow(length);
  let at = 0;
  let stalled = false;
  const timer = setTimeout(() => {
    stalled = true;
    body.destroy();
  }, stallMs);
  const signal = AbortSignal.any([options.signal]);
  const onAbort = (): unknown => body.destroy();
  signal.addEventListener('abort', onAbort, { once: true });
  let failure: unknown;
  try {
    throwIfAborted(signal);
    for await (const piece of body) {
      timer.refresh();
      if (at + piece.byteLength > length) throw wrongLength(what, `more than the announced ${length} bytes`);
      bytes.set(piece, at);
      at += piece.byteLength;
    }
  } catch (error) {
    failure = error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
  }
  throwIfAborted(options.signal);
  if (failure instanceof PresyncError) throw failure;
  if (stalled || (failure instanceof Error && failure.name === 'TimeoutError'))
    throw stall(what, stallMs, failure);
  if (at !== length) throw wrongLength(what, `${at} of the announced ${length} bytes`, failure);
  if (failure !== undefined) throw failure;
  return bytes;
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

/**
 * A stream of the file. `failed` fires when the file cannot be read or has another size than announced: a request
 * would wait for the missing bytes.
 */
export function fileStream(body: FileBody, key: string): { stream: ReadStream; failed: AbortSignal } {
  const failure = new AbortController();
  const stream = createReadStream(body.path, { end: body.size - 1, highWaterMark: 256 * 1024 });
  stream.on('error', (error) => failure.abort(ioError(error, 'read', body.path)));
  stream.on('end', () => {
    if (stream.bytesRead !== body.size) failure.abort(bodyChanged(body.path, key));
  });
  return { stream, failed: failure.signal };
}
