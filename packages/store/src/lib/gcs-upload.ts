import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { ioError, throwIfAborted } from '@presync/runtime/errors';
import { cacheControl } from '../cache-control.ts';
import type { FileBody } from '../object-store.ts';
import { fileStream } from './body.ts';
import { bodyChanged, bodySize, isFileBody } from './calls.ts';

/** An object on its way: https://cloud.google.com/storage/docs/uploading-objects, multipart uploads. */
export interface Upload {
  contentType: string;
  /** Bytes of the request's body. */
  contentLength: number;
  /** Of the object, in base64. */
  md5: string;
  parts: AsyncIterable<Uint8Array>;
}

/** What is given to the socket at a time, which bounds what TLS holds of a body in its encrypted form. */
const SLICE_BYTES = 256 * 1024;

/** What is hashed at a time before others have their turn: some 2 ms. */
const HASH_BYTES = 1024 ** 2;

/**
 * One request with the object's metadata and its bytes. The metadata holds the MD5, so that the server refuses a body
 * that was damaged on the way; since it goes first, a file is read twice.
 *
 * Without a `Cache-Control` of the object's own, Cloud Storage lets caches serve a public object for an hour, also after it was replaced
 * (https://cloud.google.com/storage/docs/caching).
 *
 * @throws PresyncError IO_FAILED when the file cannot be read or has another size; ABORTED.
 */
export async function prepareUpload(
  name: string,
  body: Uint8Array | FileBody,
  { key, immutable, signal }: { key: string; immutable: boolean; signal: AbortSignal },
): Promise<Upload> {
  const md5 = await md5Of(body, key, signal);
  const metadata = {
    name,
    contentType: 'application/octet-stream',
    cacheControl: cacheControl(immutable),
    md5Hash: md5,
  };
  const boundary = randomBytes(24).toString('hex');
  const head = Buffer.from(
    `--${boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n${JSON.stringify(metadata)}\r\n` +
      `--${boundary}\r\nContent-Type: ${metadata.contentType}\r\n\r\n`,
  );
  const tail = Buffer.from(`\r\n--${boundary}--\r\n`);

  async function* parts(): AsyncGenerator<Uint8Array> {
    yield head;
    yield* isFileBody(body) ? piecesOf(body, key) : slices(body);
    yield tail;
  }

  return {
    contentType: `multipart/related; boundary=${boundary}`,
    contentLength: head.length + bodySize(body) + tail.length,
    md5,
    parts: parts(),
  };
}

/** True when that is the MD5, in base64, of the bytes. */
export function isMd5Of(md5: string, bytes: Uint8Array): boolean {
  return createHash('md5').update(bytes).digest('base64') === md5;
}

function* slices(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += SLICE_BYTES) yield bytes.subarray(at, at + SLICE_BYTES);
}

async function* piecesOf(body: FileBody, key: string): AsyncGenerator<Uint8Array> {
  if (body.size === 0) return;
  const { stream } = fileStream(body, key);
  let sent = 0;
  try {
    for await (const piece of stream) {
      sent += piece.byteLength;
      yield piece;
    }
  } catch (error) {
    throw ioError(error, 'read', body.path);
  }
  // The end of the request must not follow, or the server would wait for the bytes that are not there.
  if (sent !== body.size) throw bodyChanged(body.path, key);
}

async function md5Of(body: Uint8Array | FileBody, key: string, signal: AbortSignal): Promise<string> {
  const hash = createHash('md5');
  if (!isFileBody(body)) {
    for (let at = 0; at < body.byteLength; at += HASH_BYTES) {
      if (at > 0) await setImmediate();
      throwIfAborted(signal);
      hash.update(body.subarray(at, at + HASH_BYTES));
    }
    return hash.digest('base64');
  }
  // One byte more than there should be tells a file that is longer.
  const stream = createReadStream(body.path, { end: body.size, highWaterMark: SLICE_BYTES });
  try {
    for await (const piece of stream) {
      throwIfAborted(signal);
      hash.update(piece);
    }
  } catch (error) {
    throw ioError(error, 'read', body.path);
  }
  if (stream.bytesRead !== body.size) throw bodyChanged(body.path, key);
  return hash.digest('base64');
}
