import type { FileHandle } from 'node:fs/promises';

/**
 * Holes are looked for at this grain, bytes: the page in which ParityDB's memory-mapped index files are written, and the block of common file
 * systems. With a coarser one (64 KiB) a restored young ParityDB took twice the room of its source.
 */
const GRAIN = 4096;
const ZEROS = Buffer.alloc(GRAIN);

/** True when all of `bytes` is zero. */
export function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at += GRAIN) {
    const length = Math.min(GRAIN, bytes.length - at);
    if (
      Buffer.compare(
        bytes.subarray(at, at + length),
        length === GRAIN ? ZEROS : ZEROS.subarray(0, length),
      ) !== 0
    )
      return false;
  }
  return true;
}

/**
 * Writes `bytes` at `offset`. With `sparse`, stretches of zeros are left out, so that they stay holes: only right in a file that has
 * never held anything else there.
 */
export async function writeAt(
  handle: FileHandle,
  bytes: Uint8Array,
  offset: number,
  { sparse }: { sparse: boolean },
): Promise<void> {
  if (!sparse) return writeFully(handle, bytes, offset);
  let start = 0;
  for (let at = 0; at < bytes.length; at += GRAIN) {
    const end = Math.min(at + GRAIN, bytes.length);
    if (!isZero(bytes.subarray(at, end))) continue;
    if (at > start) await writeFully(handle, bytes.subarray(start, at), offset + start);
    start = end;
  }
  if (start < bytes.length) await writeFully(handle, bytes.subarray(start), offset + start);
}

async function writeFully(handle: FileHandle, bytes: Uint8Array, offset: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, offset + done);
    done += bytesWritten;
  }
}
