import { randomUUID } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { ioError } from '@presync/runtime/errors';
import type { FileBody } from '../object-store.ts';
import { bodyChanged } from './calls.ts';
import { inParallel } from './in-parallel.ts';

/** Larger files are put in blocks of this size; smaller ones at once. */
export const BLOCK_BYTES = 8 * 1024 ** 2;

/** A blob has at most this many blocks (https://learn.microsoft.com/rest/api/storageservices/put-block-list). */
export const MAX_BLOCKS = 50_000;

/** Blocks of one file that are in memory and on their way at a time. */
const PARALLEL = 4;

/** All of a file of at most `BLOCK_BYTES`. */
export function readWhole(body: FileBody, key: string): Promise<Buffer> {
  return withFile(body, key, (file) => readBlock(file, body, key, Buffer.allocUnsafeSlow(body.size), 0));
}

/**
 * Gives the file to `stage` block by block, several at a time, and returns the blocks' ids in order. The first failure stops the
 * others. A file that is not of the size that it says rejects with IO_FAILED.
 */
export function stageFile(
  body: FileBody,
  key: string,
  signal: AbortSignal,
  stage: (id: string, bytes: Buffer, signal: AbortSignal) => Promise<void>,
): Promise<string[]> {
  // Writers of the same key share its uncommitted blocks, so that no two puts may have the same ids.
  const upload = randomUUID();
  const ids = Array.from({ length: Math.ceil(body.size / BLOCK_BYTES) }, (_, index) =>
    blockId(upload, index),
  );
  return withFile(body, key, async (file) => {
    const left = ids.entries();
    await inParallel(PARALLEL, signal, async (both) => {
      const buffer = Buffer.allocUnsafeSlow(BLOCK_BYTES);
      for (const [index, id] of left) {
        const bytes = await readBlock(file, body, key, buffer, index * BLOCK_BYTES);
        await stage(id, bytes, both);
      }
    });
    return ids;
  });
}

/** All ids of a blob must be of one length. */
function blockId(upload: string, index: number): string {
  return Buffer.from(`${upload}-${String(index).padStart(6, '0')}`).toString('base64');
}

/** Opens the file, and looks at its size before and after the work. */
async function withFile<T>(body: FileBody, key: string, work: (file: FileHandle) => Promise<T>): Promise<T> {
  let file: FileHandle;
  try {
    file = await open(body.path, 'r');
  } catch (error) {
    throw ioError(error, 'read', body.path);
  }
  try {
    await assertSize(file, body, key);
    const result = await work(file);
    await assertSize(file, body, key);
    return result;
  } finally {
    await file.close();
  }
}

async function assertSize(file: FileHandle, body: FileBody, key: string): Promise<void> {
  const { size } = await file.stat().catch((error: unknown) => {
    throw ioError(error, 'read', body.path);
  });
  if (size !== body.size) throw bodyChanged(body.path, key);
}

/** What the file has from `start`, as much of it as fits into the buffer. */
async function readBlock(
  file: FileHandle,
  body: FileBody,
  key: string,
  buffer: Buffer,
  start: number,
): Promise<Buffer> {
  const bytes = buffer.subarray(0, Math.min(buffer.length, body.size - start));
  for (let at = 0; at < bytes.length; ) {
    const { bytesRead } = await file
      .read(bytes, at, bytes.length - at, start + at)
      .catch((error: unknown) => {
        throw ioError(error, 'read', body.path);
      });
    if (bytesRead === 0) throw bodyChanged(body.path, key);
    at += bytesRead;
  }
  return bytes;
}
