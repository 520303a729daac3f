import { type FileHandle, open } from 'node:fs/promises';
import { ioError, throwIfAborted } from '@presync/runtime/errors';
import { isZero, SPARSE_GRAIN } from './sparse.ts';

export interface WriteSparseOptions {
  /** Told of bytes that take room on disk, before they are written; may reject to stop. */
  onWrite: (bytes: number) => Promise<void>;
  signal: AbortSignal;
}

/** Bytes of one write (decision 11). */
const WRITE_PIECE = 256 * 1024;

/**
 * Writes a new file, or another one in its place, as its content comes. Stretches of zeros become holes. One piece is written while the
 * next one is waited for. Returns the file's size; nothing is synced.
 */
export async function writeSparse(
  path: string,
  content: AsyncIterable<Uint8Array>,
  { onWrite, signal }: WriteSparseOptions,
): Promise<number> {
  let handle: FileHandle;
  try {
    handle = await open(path, 'w', 0o600);
  } catch (error) {
    throw ioError(error, 'write', path);
  }
  let size = 0;
  let writing: Promise<void> = Promise.resolve();
  try {
    for await (const piece of content) {
      await writing;
      throwIfAborted(signal);
      writing = writePiece(handle, piece, size, onWrite).catch((error: unknown) => {
        throw ioError(error, 'write', path);
      });
      // It is waited for above and below, and not lost.
      writing.catch(() => {});
      size += piece.length;
    }
    await writing;
    await handle.truncate(size).catch((error: unknown) => {
      throw ioError(error, 'write', path);
    });
    return size;
  } finally {
    await writing.catch(() => {});
    await handle.close();
  }
}

async function writePiece(
  handle: FileHandle,
  piece: Uint8Array,
  offset: number,
  onWrite: (bytes: number) => Promise<void>,
): Promise<void> {
  const write = async (from: number, to: number): Promise<void> => {
    if (from === to) return;
    await onWrite(to - from);
    for (let at = from; at < to; ) {
      const { bytesWritten } = await handle.write(piece, at, Math.min(WRITE_PIECE, to - at), offset + at);
      at += bytesWritten;
    }
  };
  let start = 0;
  for (let at = 0; at < piece.length; ) {
    // To the next boundary of a grain of the file.
    const end = Math.min(piece.length, at + SPARSE_GRAIN - ((offset + at) % SPARSE_GRAIN));
    if (isZero(piece.subarray(at, end))) {
      await write(start, at);
      start = end;
    }
    at = end;
  }
  await write(start, piece.length);
}
