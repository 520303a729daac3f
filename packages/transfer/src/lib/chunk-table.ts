import type { StoredChunk } from '@presync/format/index-file';
import { createDigestTable } from './digest-table.ts';

/** The chunks that are known to be stored, by the SHA-256 of their plaintext, within bounded memory. */
export interface ChunkTable {
  get(sha256: string): StoredChunk | undefined;
  add(chunk: StoredChunk): void;
}

/** Length, stored size, and the object's SHA-256. */
const VALUE_LENGTH = 4 + 4 + 32;

export function createChunkTable(): ChunkTable {
  const table = createDigestTable(VALUE_LENGTH);
  return {
    get(sha256) {
      const value = table.get(Buffer.from(sha256, 'hex'));
      if (value === undefined) return undefined;
      return {
        sha256,
        length: value.readUInt32LE(0),
        storedSize: value.readUInt32LE(4),
        storedSha256: value.toString('hex', 8, VALUE_LENGTH),
      };
    },
    add(chunk) {
      const value = Buffer.alloc(VALUE_LENGTH);
      value.writeUInt32LE(chunk.length, 0);
      value.writeUInt32LE(chunk.storedSize, 4);
      value.write(chunk.storedSha256, 8, 'hex');
      table.set(Buffer.from(chunk.sha256, 'hex'), value);
    },
  };
}
