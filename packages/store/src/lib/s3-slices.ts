import { createHash, hash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { ioError, throwIfAborted } from '@presync/runtime/errors';
import type { FileBody } from '../object-store.ts';
import { asBuffer, type FileSlice, fileStream } from './body.ts';
import { bodyChanged, isFileBody } from './calls.ts';

/** What one request carries: a piece of a body. */
export interface Slice {
  size: number;
  /** Lower-case hexadecimal. */
  sha256: string;
  /** Gives it to `send`, for one request. Rejects with IO_FAILED when the file is not what it says. */
  use<T>(send: (body: Buffer | Readable, signal: AbortSignal) => Promise<T>, signal: AbortSignal): Promise<T>;
}

/**
 * A piece of a body, with its digest: that is signed before the first byte goes out, and has the server check what it gets. A file is read
 * twice for it, the second time from the page cache, and never held in memory.
 */
export async function sliceOf(
  body: Uint8Array | FileBody,
  key: string,
  piece: FileSlice,
  { sha256, signal }: { sha256?: string | undefined; signal: AbortSignal },
): Promise<Slice> {
  const { start, length } = piece;
  if (!isFileBody(body)) {
    const bytes = asBuffer(body).subarray(start, start + length);
    return {
      size: length,
      sha256: sha256 ?? hash('sha256', bytes),
      use: (send, given) => send(bytes, given),
    };
  }
  return {
    size: length,
    sha256: sha256 ?? (await digestOf(body, key, piece, signal)),
    async use(send, given) {
      if (length === 0) return send(Buffer.alloc(0), given);
      const { stream, failed } = fileStream(body, key, piece);
      try {
        return await send(stream, AbortSignal.any([given, failed]));
      } catch (error) {
        if (failed.aborted) throw failed.reason;
        throw error;
      } finally {
        stream.destroy();
      }
    },
  };
}

/** Rejects with IO_FAILED when a file has another size than it says. */
export async function assertFileSize(body: Uint8Array | FileBody, key: string): Promise<void> {
  if (!isFileBody(body)) return;
  const { size } = await stat(body.path).catch((error: unknown) => {
    throw ioError(error, 'read', body.path);
  });
  if (size !== body.size) throw bodyChanged(body.path, key);
}

async function digestOf(body: FileBody, key: string, piece: FileSlice, signal: AbortSignal): Promise<string> {
  const digest = createHash('sha256');
  if (piece.length === 0) return digest.digest('hex');
  const { stream, failed } = fileStream(body, key, piece);
  try {
    for await (const bytes of stream) {
      throwIfAborted(signal);
      digest.update(bytes);
    }
  } catch (error) {
    throw ioError(error, 'read', body.path);
  }
  if (failed.aborted) throw failed.reason;
  return digest.digest('hex');
}
