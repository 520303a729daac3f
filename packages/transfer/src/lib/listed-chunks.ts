import { type FileHandle, open } from 'node:fs/promises';
import { repositoryKeys } from '@presync/format/paths';
import type { ObjectStore } from '@presync/store/object-store';
import { createFingerprints, type Fingerprints } from './fingerprints.ts';

/** The chunks that a listing has found, kept in a file. */
export interface ListedChunks {
  present: Fingerprints;
  chunks: number;
  bytes: number;
  /** All of them, in key order. */
  all(): AsyncGenerator<{ sha256: string; size: number }>;
  close(): Promise<void>;
}

/** Digest and size. */
const ROW = 32 + 8;
const BUFFER_ROWS = 16_384;

/** Lists all chunks once, into a new file at `path`. */
export async function listChunks(
  store: ObjectStore,
  path: string,
  signal: AbortSignal,
): Promise<ListedChunks> {
  const file = await open(path, 'wx+', 0o600);
  try {
    const present = createFingerprints();
    const buffer = Buffer.alloc(BUFFER_ROWS * ROW);
    let rows = 0;
    let chunks = 0;
    let bytes = 0;
    for await (const { key, size } of store.list(repositoryKeys.chunks, { signal })) {
      const sha256 = /^chunks\/[0-9a-f]{2}\/([0-9a-f]{64})$/.exec(key)?.[1];
      // Nothing of presync's lies there under another name; what is not its own is not touched.
      if (sha256 === undefined || repositoryKeys.chunk(sha256) !== key) continue;
      present.add(sha256);
      buffer.write(sha256, rows * ROW, 'hex');
      buffer.writeDoubleLE(size, rows * ROW + 32);
      rows += 1;
      chunks += 1;
      bytes += size;
      if (rows === BUFFER_ROWS) {
        await file.write(buffer);
        rows = 0;
      }
    }
    await file.write(buffer, 0, rows * ROW);
    return { present, chunks, bytes, all: () => readRows(file, chunks), close: () => file.close() };
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function* readRows(file: FileHandle, chunks: number): AsyncGenerator<{ sha256: string; size: number }> {
  const buffer = Buffer.alloc(BUFFER_ROWS * ROW);
  for (let done = 0; done < chunks; ) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length, done * ROW);
    const rows = Math.floor(bytesRead / ROW);
    if (rows === 0) return;
    for (let row = 0; row < rows; row++) {
      const at = row * ROW;
      yield { sha256: buffer.toString('hex', at, at + 32), size: buffer.readDoubleLE(at + 32) };
    }
    done += rows;
  }
}
