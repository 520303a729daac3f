import { createHash } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, messageOf } from '@presync/runtime/errors';
import type { OnEvent } from '../events.ts';

/**
 * Which chunks each index names, kept on this machine: a collector has to know that of every snapshot at each run, and would download every index each time.
 * It may be lost at any instant, and may be shared by several runs: what is missing or damaged is downloaded again.
 *
 * A file for each index, by the SHA-256 that its manifest signs: a line that names the index, the chunks' digests in order, then the SHA-256 of all before.
 */
export interface NamedCache {
  /** Does the work with the digests, proved to be those that were kept; undefined when they are not known here, or cannot be read to their end. */
  use<T>(indexSha256: string, work: (digests: AsyncIterable<string>) => Promise<T>): Promise<T | undefined>;
  /** Passes the chunks of an index on, and keeps their digests when all of them have passed. */
  keep<T extends { sha256: string }>(
    indexSha256: string,
    chunks: AsyncIterable<T>,
    options: { count: number },
  ): AsyncIterable<T>;
}

export interface NamedCacheOptions {
  /** Made when it is not there. */
  dir: string;
  /** Default: 512 MiB, which is 64 snapshots of a terabyte in chunks of 4 MiB. */
  maxBytes?: number | undefined;
  onEvent?: OnEvent | undefined;
}

const DIGEST_LENGTH = 32;
const BUFFER_ROWS = 8192;
const MAX_BYTES = 512 * 1024 * 1024;
/** What a killed run left is its own no more. */
const STALE_MS = 24 * 60 * 60_000;

interface Entry {
  size: number;
  usedAt: number;
}

/** Opens the cache. One that cannot be used is told of once, and gives and keeps nothing. */
export async function openNamedCache({
  dir,
  maxBytes = MAX_BYTES,
  onEvent,
}: NamedCacheOptions): Promise<NamedCache> {
  let broken = false;
  const giveUp = (error: unknown): void => {
    if (!broken)
      onEvent?.(
        'prune.not_remembered',
        'what the snapshots name cannot be kept here; the next run downloads it again',
        { dir, reason: messageOf(error) },
      );
    broken = true;
  };
  const entries = await readEntries(dir).catch((error: unknown) => {
    giveUp(error);
    return new Map<string, Entry>();
  });
  const used = new Set<string>();

  /** Removes what was used the longest ago, and never what this run uses: else one that does not fit would drive out itself. */
  async function makeRoom(bytes: number): Promise<boolean> {
    let total = [...entries.values()].reduce((sum, { size }) => sum + size, bytes);
    const oldest = [...entries].filter(([name]) => !used.has(name));
    oldest.sort(([, a], [, b]) => b.usedAt - a.usedAt);
    while (total > maxBytes) {
      const [name, entry] = oldest.pop() ?? [];
      if (name === undefined || entry === undefined) return false;
      await rm(join(dir, name), { force: true });
      entries.delete(name);
      total -= entry.size;
    }
    return true;
  }

  async function beginEntry(indexSha256: string, count: number): Promise<EntryWriter | undefined> {
    used.add(indexSha256);
    if (broken) return undefined;
    try {
      if (!(await makeRoom(sizeOf(count)))) return undefined;
      return await createEntryWriter(join(dir, indexSha256), indexSha256);
    } catch (error) {
      giveUp(error);
      return undefined;
    }
  }

  return {
    async use(indexSha256, work) {
      const file = await openSound(join(dir, indexSha256), indexSha256);
      if (file === undefined) return undefined;
      used.add(indexSha256);
      const state = { unreadable: false };
      try {
        return await work(readDigests(file, state));
      } catch (error) {
        if (!state.unreadable) throw error;
        return undefined;
      } finally {
        await file.close();
      }
    },
    async *keep(indexSha256, chunks, { count }) {
      const writer = await beginEntry(indexSha256, count);
      let done = false;
      try {
        for await (const chunk of chunks) {
          if (!broken) await writer?.add(chunk.sha256).catch(giveUp);
          yield chunk;
        }
        done = true;
      } finally {
        const size = await writer?.end(done && !broken).catch(giveUp);
        if (typeof size === 'number') entries.set(indexSha256, { size, usedAt: Date.now() });
      }
    },
  };
}

async function readEntries(dir: string): Promise<Map<string, Entry>> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const entries = new Map<string, Entry>();
  for (const name of await readdir(dir)) {
    const path = join(dir, name);
    try {
      const { size, mtimeMs } = await stat(path);
      if (/^[0-9a-f]{64}$/.test(name)) entries.set(name, { size, usedAt: mtimeMs });
      else if (name.endsWith('.new') && Date.now() - mtimeMs > STALE_MS) await rm(path, { force: true });
    } catch (error) {
      // Another run has made room.
      if (errnoOf(error) !== 'ENOENT') throw error;
    }
  }
  return entries;
}

function headOf(indexSha256: string): Buffer {
  return Buffer.from(`presync named chunks 1 ${indexSha256}\n`);
}

const HEAD_LENGTH = headOf('0'.repeat(64)).length;

function sizeOf(count: number): number {
  return HEAD_LENGTH + (count + 1) * DIGEST_LENGTH;
}

interface EntryWriter {
  add(sha256: string): Promise<void>;
  /** Puts the file in its place, and tells its size; or removes it. */
  end(done: boolean): Promise<number | undefined>;
}

async function createEntryWriter(path: string, indexSha256: string): Promise<EntryWriter> {
  const temporary = `${path}.${crypto.randomUUID()}.new`;
  const file = await open(temporary, 'wx', 0o600);
  const hash = createHash('sha256');
  const rows = Buffer.alloc(BUFFER_ROWS * DIGEST_LENGTH);
  let filled = 0;
  let size = 0;
  let last = '';

  async function write(bytes: Buffer): Promise<void> {
    await file.writeFile(bytes);
    size += bytes.length;
  }
  async function flush(bytes: Buffer): Promise<void> {
    hash.update(bytes);
    await write(bytes);
  }

  try {
    await flush(headOf(indexSha256));
  } catch (error) {
    await file.close();
    await rm(temporary, { force: true });
    throw error;
  }
  return {
    async add(sha256) {
      // Long runs of zeros are one chunk, over and over.
      if (sha256 === last) return;
      last = sha256;
      rows.write(sha256, filled, 'hex');
      filled += DIGEST_LENGTH;
      if (filled < rows.length) return;
      filled = 0;
      await flush(rows);
    },
    async end(done) {
      try {
        if (!done) return undefined;
        await flush(rows.subarray(0, filled));
        await write(hash.digest());
        await file.close();
        await rename(temporary, path);
        return size;
      } finally {
        await file.close();
        await rm(temporary, { force: true });
      }
    },
  };
}

/** Opens the file when it is the one that was kept for this index, down to the last bit, and notes that it is used. Another one is removed. */
async function openSound(path: string, indexSha256: string): Promise<FileHandle | undefined> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, 'r');
    if (await isSound(file, indexSha256)) {
      const now = new Date();
      await file.utimes(now, now);
      return file;
    }
    await rm(path, { force: true });
  } catch {
    // Not there, or not to be read: it can be had from the store.
  }
  await file?.close();
  return undefined;
}

async function isSound(file: FileHandle, indexSha256: string): Promise<boolean> {
  const { size } = await file.stat();
  const rows = size - HEAD_LENGTH - DIGEST_LENGTH;
  if (rows < 0 || rows % DIGEST_LENGTH !== 0) return false;
  const head = await readAt(file, 0, HEAD_LENGTH);
  const hash = createHash('sha256').update(head);
  for await (const block of blocks(file, size - DIGEST_LENGTH)) hash.update(block);
  const sum = await readAt(file, size - DIGEST_LENGTH, DIGEST_LENGTH);
  return head.equals(headOf(indexSha256)) && hash.digest().equals(sum);
}

async function* readDigests(file: FileHandle, state: { unreadable: boolean }): AsyncGenerator<string> {
  const { size } = await file.stat();
  const end = size - DIGEST_LENGTH;
  state.unreadable = true;
  for await (const rows of blocks(file, end)) {
    state.unreadable = false;
    for (let at = 0; at < rows.length; at += DIGEST_LENGTH)
      yield rows.toString('hex', at, at + DIGEST_LENGTH);
    state.unreadable = true;
  }
  state.unreadable = false;
}

/** What is between the head and `end`, some rows at a time; each block is valid until the next one. */
async function* blocks(file: FileHandle, end: number): AsyncGenerator<Buffer> {
  const buffer = Buffer.alloc(BUFFER_ROWS * DIGEST_LENGTH);
  for (let at = HEAD_LENGTH; at < end; ) {
    const length = Math.min(buffer.length, end - at);
    const { bytesRead } = await file.read(buffer, 0, length, at);
    if (bytesRead !== length) throw new Error('the file is shorter than it was');
    yield buffer.subarray(0, length);
    at += length;
  }
}

async function readAt(file: FileHandle, at: number, length: number): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, at);
  return buffer.subarray(0, bytesRead);
}
