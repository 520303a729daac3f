import { closeSync, constants, openSync, readSync } from 'node:fs';
import { errnoOf, ioError } from '@presync/runtime/errors';

/**
 * The last eight bytes of every finished SST, little endian (RocksDB `table/*`): block-based tables, the same from before
 * version 2, plain tables of both kinds, and cuckoo tables.
 */
const SST_MAGIC = new Set([
  0x88e241b785f4cff7n,
  0xdb4775248b80fb57n,
  0x8242229663bf9564n,
  0x4f3418eb7a8f13b8n,
  0x926789d0c5f17873n,
]);
/** The first four bytes of a blob file's footer, which is its last 32 bytes (`db/blob/blob_log_format.h`). */
const BLOB_MAGIC = 0x00248f37;
const FOOTER_BYTES = 32;

/**
 * Whether RocksDB has finished writing this SST or blob file. "Immutable" begins only then: the output of a running
 * compaction has its final name from the start, grows after the pause, and a hard link would grow with it. The footer
 * is the last thing that is written. A file that is not recognised is copied, so an error here costs time only.
 *
 * @returns undefined when the file is gone
 */
export function isFinishedTable(path: string, size: number): boolean | undefined {
  if (size < FOOTER_BYTES) return false;
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw ioError(error, 'open', path);
  }
  try {
    const footer = Buffer.alloc(FOOTER_BYTES);
    if (readSync(fd, footer, 0, FOOTER_BYTES, size - FOOTER_BYTES) < FOOTER_BYTES) return false;
    return path.endsWith('.sst')
      ? SST_MAGIC.has(footer.readBigUInt64LE(FOOTER_BYTES - 8))
      : footer.readUInt32LE(0) === BLOB_MAGIC;
  } catch (error) {
    throw ioError(error, 'read', path);
  } finally {
    closeSync(fd);
  }
}
