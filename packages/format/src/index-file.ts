import { createReadStream, createWriteStream } from 'node:fs';
import { Readable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import { createZstdCompress, createZstdDecompress, constants as zlib } from 'node:zlib';
import { ioError, isPresyncError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { z } from 'zod';
import { type ArchiveFile, type ChunkLayout, compareFiles, createChunkReader } from './chunks.ts';
import { createSha256, type Sha256 } from './digest.ts';
import { countSchema, sha256Schema } from './documents.ts';
import {
  MAX_CHUNK_SIZE,
  MAX_CHUNKS,
  MAX_FILE_SIZE,
  MAX_FILES,
  MAX_FRAME_OVERHEAD,
  MAX_INDEX_LENGTH,
  MAX_INDEX_LINE,
} from './limits.ts';
import { isSafePath } from './paths.ts';

/**
 * The index: JSON Lines in one zstd frame. A head, then the archive in order: each file's line stands before the line of the chunk
 * in which it begins, and an end with totals. Reader and writer stream it and hold a line at a time.
 */

export interface IndexedFile extends ArchiveFile {
  /** Permission bits, for people: a restore sets modes as it is told. */
  mode: number;
  /** Milliseconds since 1970. */
  mtimeMs: number;
}

/** A stored chunk. */
export interface StoredChunk {
  /** SHA-256 of the plaintext; the object's key. */
  sha256: Sha256;
  /** Bytes of plaintext. */
  length: number;
  /** Bytes of the object. */
  storedSize: number;
  /** SHA-256 of the object. */
  storedSha256: Sha256;
}

export interface IndexedChunk extends StoredChunk, Omit<ChunkLayout<IndexedFile>, 'length'> {
  /** Position in the archive, from 0. */
  ordinal: number;
}

export interface IndexTotals {
  files: number;
  chunks: number;
  /** Bytes of files. */
  bytes: number;
}

/** What the manifest records of an index. */
export interface IndexDigest {
  size: number;
  sha256: Sha256;
  length: number;
}

const VERSION = 1;

/** 8 MiB, zstd's own default limit: what a decoder must be ready to hold. */
const WINDOW_LOG = 23;

export interface IndexWriter {
  file(file: IndexedFile): Promise<void>;
  chunk(chunk: StoredChunk): Promise<void>;
  /** Ends the index and returns what the manifest records of it. */
  finish(): Promise<{ digest: IndexDigest; totals: IndexTotals }>;
  /** Gives up; the file may be removed after. */
  abort(): Promise<void>;
}

/** Writes an index into a new file. */
export function createIndexWriter(path: string, { chunkSize }: { chunkSize: number }): IndexWriter {
  const compressor = createZstdCompress({
    params: { [zlib.ZSTD_c_checksumFlag]: 1, [zlib.ZSTD_c_windowLog]: WINDOW_LOG - 2 },
  });
  const output = createWriteStream(path, { flags: 'wx', mode: 0o600 });
  const stored = createSha256();
  let size = 0;
  let length = 0;
  const totals: IndexTotals = { files: 0, chunks: 0, bytes: 0 };
  const done = pipeline(
    compressor,
    async function* (source: AsyncIterable<Buffer>) {
      for await (const bytes of source) {
        size += bytes.length;
        stored.update(bytes);
        yield bytes;
      }
    },
    output,
  ).catch((error: unknown) => {
    throw ioError(error, 'write the index', path);
  });
  // Reported by whichever call comes next.
  done.catch(() => {});

  async function line(value: unknown): Promise<void> {
    const bytes = Buffer.from(`${JSON.stringify(value)}\n`);
    length += bytes.length;
    if (compressor.write(bytes)) return;
    await Promise.race([new Promise((resolve) => compressor.once('drain', resolve)), done]);
  }

  let head: Promise<void> | undefined;
  const begin = (): Promise<void> => {
    head ??= line({ presync: 'index', version: VERSION, chunkSize });
    return head;
  };

  return {
    async file({ path: file, size: bytes, class: kind, mode, mtimeMs }) {
      await begin();
      totals.files += 1;
      totals.bytes += bytes;
      await line({ file, size: bytes, class: kind, mode, mtime: Math.trunc(mtimeMs) });
    },
    async chunk({ sha256, length: plain, storedSize, storedSha256 }) {
      await begin();
      totals.chunks += 1;
      await line({ chunk: sha256, length: plain, size: storedSize, sha256: storedSha256 });
    },
    async finish() {
      await begin();
      await line({ end: true, ...totals });
      compressor.end();
      await done;
      return { digest: { size, sha256: stored.digest(), length }, totals };
    },
    async abort() {
      compressor.destroy();
      output.destroy();
      await Promise.allSettled([done, finished(output)]);
    },
  };
}

const headSchema = z.strictObject({
  presync: z.literal('index'),
  version: z.literal(VERSION),
  chunkSize: z.int().min(1).max(MAX_CHUNK_SIZE),
});
const fileSchema = z.strictObject({
  file: z.string().refine(isSafePath, 'must be a safe relative path'),
  size: countSchema.max(MAX_FILE_SIZE),
  class: z.enum(['immutable', 'mutable', 'seal']),
  mode: z.int().min(0).max(0o7777),
  mtime: z.int(),
});
const chunkSchema = z.strictObject({
  chunk: sha256Schema,
  length: z.int().min(1),
  size: z.int().min(1),
  sha256: sha256Schema,
});
const endSchema = z.strictObject({
  end: z.literal(true),
  files: countSchema,
  chunks: countSchema,
  bytes: countSchema,
});

export interface ReadIndexOptions {
  /** Plaintext bytes that the manifest states. */
  length: number;
  chunkSize: number;
  /** The folders that the manifest's parts name: each file must lie directly in one of them. */
  parts: readonly string[];
  /** Totals that the manifest states. */
  totals?: IndexTotals | undefined;
  /** Names the index in errors. */
  what: string;
  signal: AbortSignal;
}

/**
 * Streams an index that was already proved to be the manifest's (size and SHA-256). Rejects with INDEX_CORRUPT, or PATH_UNSAFE for a name that
 * would leave its part or clashes with another one when letter case is ignored.
 */
export async function* readIndex(
  source: string | AsyncIterable<Uint8Array>,
  options: ReadIndexOptions,
): AsyncGenerator<IndexedChunk> {
  const { what, chunkSize, signal } = options;
  const chunks = createChunkReader<IndexedFile>(chunkSize, what);
  const seen = new Set<string>();
  const totals: IndexTotals = { files: 0, chunks: 0, bytes: 0 };
  let previous: IndexedFile | undefined;
  let head = false;
  let ended = false;

  for await (const text of indexLines(source, options)) {
    throwIfAborted(signal);
    if (ended) throw corrupt(what, 'a line follows its end');
    const value = parseLine(text, what);
    if (!head) {
      const { chunkSize: stated } = check(headSchema, value, what);
      if (stated !== chunkSize)
        throw corrupt(what, `its chunk size is ${stated}, the repository's ${chunkSize}`);
      head = true;
    } else if (isRecord(value) && 'chunk' in value) {
      const { chunk, length, size, sha256 } = check(chunkSchema, value, what);
      if (size > length + MAX_FRAME_OVERHEAD)
        throw corrupt(what, `chunk ${chunk} claims ${size} stored bytes for ${length}`);
      totals.chunks += 1;
      if (totals.chunks > MAX_CHUNKS) throw corrupt(what, `it has more than ${MAX_CHUNKS} chunks`);
      const layout = chunks.chunk(length);
      yield { ...layout, ordinal: totals.chunks - 1, sha256: chunk, storedSize: size, storedSha256: sha256 };
    } else if (isRecord(value) && 'file' in value) {
      const line = check(fileSchema, value, what);
      const file: IndexedFile = {
        path: line.file,
        size: line.size,
        class: line.class,
        mode: line.mode,
        mtimeMs: line.mtime,
      };
      assertPlace(file, options.parts, seen, what);
      if (previous !== undefined && compareFiles(previous, file) >= 0)
        throw corrupt(what, `${file.path} is out of order`);
      previous = file;
      totals.files += 1;
      totals.bytes += file.size;
      if (totals.files > MAX_FILES) throw corrupt(what, `it has more than ${MAX_FILES} files`);
      chunks.file(file);
    } else {
      const end = check(endSchema, value, what);
      chunks.end();
      for (const field of ['files', 'chunks', 'bytes'] as const) {
        if (end[field] !== totals[field])
          throw corrupt(what, `it states ${end[field]} ${field} and has ${totals[field]}`);
        if (options.totals !== undefined && options.totals[field] !== totals[field]) {
          throw corrupt(
            what,
            `the manifest states ${options.totals[field]} ${field}, the index has ${totals[field]}`,
          );
        }
      }
      ended = true;
    }
  }
  if (!ended) throw corrupt(what, 'it has no end');
}

function assertPlace(file: IndexedFile, parts: readonly string[], seen: Set<string>, what: string): void {
  const folder = file.path.slice(0, file.path.lastIndexOf('/'));
  if (!parts.includes(folder)) {
    throw new PresyncError(
      'PATH_UNSAFE',
      `${what} names ${file.path}, which lies in none of the snapshot's database folders`,
      {
        hint: 'do not use this snapshot',
      },
    );
  }
  const folded = file.path.toLowerCase();
  // Parts may lie within each other (a relay chain's parachains folder), so a file could take the place of a folder.
  if (parts.some((part) => `${part.toLowerCase()}/`.startsWith(`${folded}/`))) {
    throw new PresyncError(
      'PATH_UNSAFE',
      `${what} names ${file.path} as a file, and it is a database folder`,
      { hint: 'do not use this snapshot' },
    );
  }
  if (seen.has(folded)) {
    throw new PresyncError('PATH_UNSAFE', `${what} names ${file.path} twice, if letter case is ignored`, {
      hint: 'do not use this snapshot',
    });
  }
  seen.add(folded);
}

/** Decodes and cuts into lines; stops at the stated length, so that a decompression bomb is never unfolded. */
async function* indexLines(
  source: string | AsyncIterable<Uint8Array>,
  options: ReadIndexOptions,
): AsyncGenerator<string> {
  const { what, length, signal } = options;
  if (length > MAX_INDEX_LENGTH) throw corrupt(what, `it would be ${length} bytes long`);
  const input = typeof source === 'string' ? createReadStream(source) : Readable.from(source);
  const decoder = createZstdDecompress({ params: { [zlib.ZSTD_d_windowLogMax]: WINDOW_LOG } });
  const flow = pipeline(input, decoder, { signal });
  // Errors reach the loop below through the decoder.
  flow.catch(() => {});
  let rest = '';
  let total = 0;
  const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  try {
    for await (const bytes of decoder as AsyncIterable<Buffer>) {
      total += bytes.length;
      if (total > length)
        throw corrupt(what, `it unfolds to more than the ${length} bytes that the manifest states`);
      const lines = (rest + text.decode(bytes, { stream: true })).split('\n');
      rest = lines.pop() ?? '';
      if (rest.length > MAX_INDEX_LINE) throw corrupt(what, `a line is longer than ${MAX_INDEX_LINE} bytes`);
      yield* lines;
    }
    if (total !== length)
      throw corrupt(what, `it unfolds to ${total} bytes, and the manifest states ${length}`);
    // The decoder holds back the bytes of an incomplete character; without this call they would pass unseen.
    rest += text.decode();
    if (rest !== '') throw corrupt(what, 'its last line is cut short');
  } catch (error) {
    throwIfAborted(signal);
    if (isPresyncError(error)) throw error;
    if (error instanceof Error && 'syscall' in error)
      throw ioError(error, 'read', typeof source === 'string' ? source : what);
    throw corrupt(what, messageOf(error), error);
  } finally {
    input.destroy();
    decoder.destroy();
    // A file is closed before the caller goes on. A foreign source is not waited for: it may be stuck in a read that never ends.
    if (typeof source === 'string') await flow.catch(() => {});
  }
}

function parseLine(text: string, what: string): unknown {
  if (text.length > MAX_INDEX_LINE) throw corrupt(what, `a line is longer than ${MAX_INDEX_LINE} bytes`);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw corrupt(what, `a line is not JSON: ${messageOf(error)}`, error);
  }
}

function check<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const field = issue?.path.join('.') ?? '';
  const shown = JSON.stringify(value)?.slice(0, 200) ?? '';
  if (field === 'file') {
    throw new PresyncError('PATH_UNSAFE', `${what} names ${shown}: ${issue?.message}`, {
      hint: 'do not use this snapshot',
    });
  }
  throw corrupt(what, `line ${shown}: ${field} ${issue?.message ?? 'does not fit'}`);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

function corrupt(what: string, why: string, cause?: unknown): PresyncError {
  return new PresyncError('INDEX_CORRUPT', `${what} is not a sound index: ${why}`, {
    cause,
    hint: 'do not use this snapshot; take a new one on the source node',
  });
}
