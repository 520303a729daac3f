import { type FileHandle, open } from 'node:fs/promises';
import { errnoOf } from '@presync/runtime/errors';

/**
 * Which chunks a restore has written: a hint for the next attempt, which proves each of them again by its digest. So it need not
 * be durable, and a damaged one costs time only. On disk: chunk ordinals, 4 bytes each, little-endian.
 */
export interface Journal {
  /** True when an earlier attempt wrote this chunk. */
  has(ordinal: number): boolean;
  add(ordinal: number): Promise<void>;
  close(): Promise<void>;
}

export async function openJournal(path: string, chunks: number): Promise<Journal> {
  const file: FileHandle = await open(path, 'a+', 0o600);
  const has = await readOrdinals(file, chunks);
  return {
    has,
    async add(ordinal) {
      const row = Buffer.alloc(4);
      row.writeUInt32LE(ordinal);
      await file.appendFile(row);
    },
    close: () => file.close(),
  };
}

/** What a journal says, for looking only. One that is not there says nothing. */
export async function readJournal(path: string, chunks: number): Promise<Journal['has']> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return () => false;
    throw error;
  }
  try {
    return await readOrdinals(file, chunks);
  } finally {
    await file.close();
  }
}

async function readOrdinals(file: FileHandle, chunks: number): Promise<Journal['has']> {
  const done = new Uint8Array(Math.ceil(chunks / 8));
  const buffer = Buffer.alloc(64 * 1024);
  for (let position = 0; ; ) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length, position);
    const whole = bytesRead - (bytesRead % 4);
    if (whole === 0) break;
    for (let at = 0; at < whole; at += 4) {
      const ordinal = buffer.readUInt32LE(at);
      if (ordinal < chunks) done[ordinal >> 3] = (done[ordinal >> 3] ?? 0) | (1 << (ordinal & 7));
    }
    position += whole;
  }
  return (ordinal) => ((done[ordinal >> 3] ?? 0) & (1 << (ordinal & 7))) !== 0;
}
