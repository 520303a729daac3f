import { createHash } from 'node:crypto';
import { open, readFile, rename, rm } from 'node:fs/promises';
import type { ChunkLayout } from '@presync/format/chunks';
import { errnoOf } from '@presync/runtime/errors';
import type { SourceFile } from '../source.ts';
import { createDigestTable, type DigestTable, MAX_TABLE_ENTRIES } from './digest-table.ts';

/**
 * What the last snapshot read from this machine's files: which stretch of which unchanged file gave which chunk. It lets
 * the next snapshot skip reading. It is a cache: when it is missing, damaged or of something else, everything is read.
 *
 * On disk: a line that names what it is of, then rows of a key and a chunk's SHA-256, then the SHA-256 of all before.
 */
export interface SourceRecord {
  /** The chunk that these very files gave, or undefined. */
  lookup(key: Buffer): string | undefined;
}

const KEY_LENGTH = 32;
const ROW_LENGTH = KEY_LENGTH + 32;

/**
 * Identifies the plaintext of a chunk without reading it: only for chunks of immutable files. Size, times, inode and device tell one file from
 * another that took its name; the database's identity tells a database that was made anew.
 */
export function sourceKey(layout: ChunkLayout<SourceFile>, databaseIdentity: string): Buffer | undefined {
  if (layout.segments.length === 0) return undefined;
  const hash = createHash('sha256').update(databaseIdentity);
  for (const segment of layout.segments) {
    const { file } = segment;
    if (file.class !== 'immutable') return undefined;
    const { dev, ino, mtimeNs, birthtimeNs } = file.identity;
    const offset = segment.kind === 'data' ? segment.offset : -1;
    hash.update(
      `\n${file.path}\0${file.size}\0${dev}\0${ino}\0${mtimeNs}\0${birthtimeNs}\0${offset}\0${segment.length}`,
    );
  }
  return hash.digest();
}

export interface RecordSubject {
  repositoryId: string;
  channel: string;
}

export async function loadSourceRecord(
  path: string,
  subject: RecordSubject,
): Promise<SourceRecord | undefined> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
  const head = headOf(subject);
  const rows = bytes.subarray(head.length, -32);
  const sound =
    bytes.length >= head.length + 32 &&
    rows.length % ROW_LENGTH === 0 &&
    bytes.subarray(0, head.length).equals(head) &&
    createHash('sha256').update(bytes.subarray(0, -32)).digest().equals(bytes.subarray(-32));
  if (!sound) return undefined;
  const table: DigestTable = createDigestTable(KEY_LENGTH, MAX_TABLE_ENTRIES);
  for (let at = 0; at < rows.length; at += ROW_LENGTH) {
    table.set(rows.subarray(at, at + KEY_LENGTH), rows.subarray(at + KEY_LENGTH, at + ROW_LENGTH));
  }
  return { lookup: (key) => table.get(key)?.toString('hex') };
}

/** Writes a record, replacing the old one at once. Rows past the table's cap are left out. */
export async function saveSourceRecord(
  path: string,
  subject: RecordSubject,
  rows: AsyncIterable<{ key: Buffer; sha256: string }>,
): Promise<void> {
  const temporary = `${path}.new`;
  await rm(temporary, { force: true });
  const file = await open(temporary, 'wx', 0o600);
  try {
    const hash = createHash('sha256');
    const write = async (bytes: Buffer): Promise<void> => {
      hash.update(bytes);
      await file.write(bytes);
    };
    await write(headOf(subject));
    let written = 0;
    let pending: Buffer[] = [];
    for await (const { key, sha256 } of rows) {
      if (written >= MAX_TABLE_ENTRIES) break;
      pending.push(key, Buffer.from(sha256, 'hex'));
      written += 1;
      if (pending.length >= 2048) {
        await write(Buffer.concat(pending));
        pending = [];
      }
    }
    await write(Buffer.concat(pending));
    await file.write(hash.digest());
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}

function headOf({ repositoryId, channel }: RecordSubject): Buffer {
  return Buffer.from(`presync source record 1 ${repositoryId} ${channel}\n`);
}
