import { hash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { errnoOf, ioError, throwIfAborted } from '@presync/runtime/errors';
import type { DatabaseFile } from '../layout.ts';

/** The unit that is compared and written again in the pause. */
export const BLOCK_BYTES = 1 << 20;
/** A piece of zeros this long is left out of the copy, so that holes stay holes. */
const HOLE_BYTES = 64 << 10;
const DIGEST_BYTES = 32;
const ZEROS = Buffer.alloc(BLOCK_BYTES);
const ZERO_DIGEST = hash('sha256', ZEROS, 'buffer');
/** No file has a block with this digest: it stands for "not copied". */
const NO_DIGEST = Buffer.alloc(DIGEST_BYTES);

/** mtime has the granularity of the kernel's tick (up to 10 ms), two seconds on the coarsest file systems. */
const SETTLED_NS = 2_000_000_000n;

/** The first pass over one file. */
export interface HotCopy {
  /** The live file before the pass. */
  before: { size: number; mtimeNs: bigint; ino: bigint; dev: bigint };
  /** Whether an equal mtime later on proves that nothing was written since. */
  settled: boolean;
  /** SHA-256 of each block as copied, one after the other. */
  digests: Buffer;
}

/** One buffer of a block's size a worker, so that memory does not follow from the number of files. */
export type BlockBuffer = Buffer;
export function createBlockBuffer(): BlockBuffer {
  return Buffer.allocUnsafe(BLOCK_BYTES);
}

/**
 * Pass 1, while the node runs: copies the file and remembers a digest of each block. The copy may be torn; what matters is
 * that pass 2 can tell which blocks are still right.
 *
 * @returns undefined when the file is gone
 */
export async function copyHot(
  file: DatabaseFile,
  viewPath: string,
  options: { buffer: BlockBuffer; signal: AbortSignal; onBytes?: ((bytes: number) => void) | undefined },
): Promise<HotCopy | undefined> {
  const { buffer, signal } = options;
  const live = await openLive(file.path);
  if (live === undefined) return undefined;
  await using source = live;
  try {
    // The stat comes first, the fsync second, the reading last. A page that was already dirty through a mapping when the
    // stat was taken can be written to without mtime moving, since mtime moves when a page becomes writable, not with
    // each write. The fsync writes such pages back and write-protects them again, so any write that follows it faults
    // and moves mtime; and what was written before it is in what is read after it. Were the stat taken after the
    // fsync, a write between the two would move mtime before the stat and its page would stay writable unseen.
    const stats = await source.stat({ bigint: true });
    const settled = BigInt(Date.now()) * 1_000_000n - stats.mtimeNs > SETTLED_NS;
    await source.sync();
    const size = Number(stats.size);
    const digests = Buffer.alloc(Math.ceil(size / BLOCK_BYTES) * DIGEST_BYTES);
    await using target = await open(viewPath, 'wx', 0o600);
    await target.truncate(size);
    for (let index = 0, offset = 0; offset < size; index++, offset += BLOCK_BYTES) {
      throwIfAborted(signal);
      const block = await readBlock(source, buffer, offset, Math.min(BLOCK_BYTES, size - offset));
      digestOf(block).copy(digests, index * DIGEST_BYTES);
      await writeSparse(target, block, offset);
      options.onBytes?.(block.length);
    }
    return { before: { size, mtimeNs: stats.mtimeNs, ino: stats.ino, dev: stats.dev }, settled, digests };
  } catch (error) {
    throw ioError(error, `copy into ${viewPath}`, file.path);
  }
}

/** True when the file's times alone prove that the copy is right. */
export function isUnchanged(hot: HotCopy, file: DatabaseFile, trustMtime: boolean): boolean {
  const { before } = hot;
  return (
    trustMtime &&
    hot.settled &&
    before.size === file.size &&
    before.mtimeNs === file.mtimeNs &&
    before.ino === file.ino &&
    before.dev === file.dev
  );
}

/**
 * Pass 2, while the node stands still: reads the file again and writes the blocks that differ into the copy. Without a
 * first pass (`hot` undefined) it copies the file.
 */
export async function copyFrozen(
  file: DatabaseFile,
  viewPath: string,
  hot: HotCopy | undefined,
  options: { buffer: BlockBuffer; signal: AbortSignal },
): Promise<{ read: number; written: number }> {
  const { buffer, signal } = options;
  let read = 0;
  let written = 0;
  try {
    await using source = await open(file.path, constants.O_RDONLY | constants.O_NOFOLLOW);
    await using target = await open(viewPath, hot === undefined ? 'wx' : 'r+', 0o600);
    if (hot === undefined || hot.before.size !== file.size) await target.truncate(file.size);
    for (let index = 0, offset = 0; offset < file.size; index++, offset += BLOCK_BYTES) {
      throwIfAborted(signal);
      const length = Math.min(BLOCK_BYTES, file.size - offset);
      const block = await readBlock(source, buffer, offset, length);
      read += block.length;
      if (hot === undefined) {
        written += await writeSparse(target, block, offset);
        continue;
      }
      const at = index * DIGEST_BYTES;
      const known = hot.digests.length > at ? hot.digests.subarray(at, at + DIGEST_BYTES) : NO_DIGEST;
      if (digestOf(block).equals(known)) continue;
      await writeAll(target, block, offset);
      written += block.length;
    }
    return { read, written };
  } catch (error) {
    throw ioError(error, `copy into ${viewPath}`, file.path);
  }
}

/** Writes the file's dirty pages back, so that a reflink in the pause need not wait for them. False when it is gone. */
export async function flush(path: string): Promise<boolean> {
  const live = await openLive(path);
  if (live === undefined) return false;
  await using file = live;
  try {
    await file.sync();
    return true;
  } catch (error) {
    throw ioError(error, 'flush', path);
  }
}

async function openLive(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw ioError(error, 'open', path);
  }
}

/** As many of the bytes as there are: a live file may have been cut short meanwhile. */
async function readBlock(
  source: FileHandle,
  buffer: Buffer,
  offset: number,
  length: number,
): Promise<Buffer> {
  let filled = 0;
  while (filled < length) {
    const { bytesRead } = await source.read(buffer, filled, length - filled, offset + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return buffer.subarray(0, filled);
}

function digestOf(block: Buffer): Buffer {
  if (block.length === BLOCK_BYTES && block.equals(ZEROS)) return ZERO_DIGEST;
  return hash('sha256', block, 'buffer');
}

async function writeSparse(target: FileHandle, block: Buffer, offset: number): Promise<number> {
  let written = 0;
  let start = -1;
  for (let at = 0; at <= block.length; at += HOLE_BYTES) {
    const piece = block.subarray(at, Math.min(at + HOLE_BYTES, block.length));
    const isHole = piece.length === 0 || piece.equals(ZEROS.subarray(0, piece.length));
    if (!isHole && start < 0) start = at;
    if ((isHole || at + HOLE_BYTES >= block.length) && start >= 0) {
      const end = isHole ? at : block.length;
      await writeAll(target, block.subarray(start, end), offset + start);
      written += end - start;
      start = -1;
    }
  }
  return written;
}

async function writeAll(target: FileHandle, bytes: Buffer, offset: number): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    done += (await target.write(bytes, done, bytes.length - done, offset + done)).bytesWritten;
  }
}
