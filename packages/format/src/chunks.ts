import { PresyncError } from '@presync/runtime/errors';
import { MAX_CHUNK_OVERHEAD } from './limits.ts';
import { TAR_END_LENGTH, tarHeaderLength, tarPadding } from './tar.ts';

/** How a file changes over time; decides its place in the archive. `seal` files come last, and are written last by a restore. */
export type ArchiveFileClass = 'immutable' | 'mutable' | 'seal';

export interface ArchiveFile {
  /** Relative to the node's base path, `/`-separated. */
  path: string;
  /** Bytes. */
  size: number;
  class: ArchiveFileClass;
}

/** A stretch of a chunk's plaintext. What no segment covers is padding, and zero. */
export type Segment<F extends ArchiveFile = ArchiveFile> =
  | { kind: 'header'; file: F; at: number; length: number }
  | { kind: 'data'; file: F; at: number; length: number; offset: number };

export interface ChunkLayout<F extends ArchiveFile = ArchiveFile> {
  /** Bytes of plaintext. */
  length: number;
  /** The files that begin in this chunk, in order. */
  begins: F[];
  /** The file that this chunk completes, if it is part of a file that spans several chunks. */
  completes: F | undefined;
  segments: Segment<F>[];
}

const RANK: Record<ArchiveFileClass, number> = { immutable: 0, mutable: 1, seal: 2 };

/** The order of files in an archive: immutable, mutable, seal; bytewise by path within each. */
export function compareFiles(a: ArchiveFile, b: ArchiveFile): number {
  return RANK[a.class] - RANK[b.class] || (a.path < b.path ? -1 : a.path > b.path ? 1 : 0);
}

/** Files of at least this share of a chunk get chunks of their own; smaller ones are bundled. */
const LARGE_SHARE = 4;

/**
 * A bundle also ends after a file whose path hashes to zero modulo this, so that a file that comes or goes
 * shifts the boundaries of its neighbours only, and not of every bundle after it.
 */
const BUNDLE_BREAK = 8;

/** FNV-1a, 32 bits: decides where bundles end, so it must never change. */
function pathHash(path: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < path.length; i++) value = Math.imul(value ^ path.charCodeAt(i), 0x01000193);
  return value >>> 0;
}

/**
 * Cuts an archive into chunks at file-relative boundaries. `files` must be in archive order; a class never shares a bundle with
 * another, so that what changes at every run does not spoil what never changes. The last chunk is the archive's end.
 *
 * The boundaries are the writer's choice: a reader follows the index. They only have to be stable from run to run.
 */
export function* planChunks<F extends ArchiveFile>(
  files: Iterable<F>,
  chunkSize: number,
): Generator<ChunkLayout<F>> {
  let bundle: F[] = [];
  let bundled = 0;
  let bundleClass: ArchiveFileClass = 'immutable';
  for (const file of files) {
    const header = tarHeaderLength(file.path);
    const whole = header + file.size + tarPadding(file.size);
    const large = file.size >= chunkSize / LARGE_SHARE;
    if (bundle.length > 0 && (large || bundled + whole > chunkSize || bundleClass !== file.class)) {
      yield layoutBundle(bundle);
      bundle = [];
      bundled = 0;
    }
    if (large) {
      for (let offset = 0; offset < file.size; offset += chunkSize)
        yield layoutStretch(file, offset, chunkSize);
      continue;
    }
    bundle.push(file);
    bundled += whole;
    bundleClass = file.class;
    if (pathHash(file.path) % BUNDLE_BREAK === 0) {
      yield layoutBundle(bundle);
      bundle = [];
      bundled = 0;
    }
  }
  if (bundle.length > 0) yield layoutBundle(bundle);
  yield layoutEnd();
}

/** The archive's end. */
export function layoutEnd<F extends ArchiveFile>(): ChunkLayout<F> {
  return { length: TAR_END_LENGTH, begins: [], completes: undefined, segments: [] };
}

/** Whole files, one after the other. */
export function layoutBundle<F extends ArchiveFile>(files: F[]): ChunkLayout<F> {
  const segments: Segment<F>[] = [];
  let at = 0;
  for (const file of files) {
    const header = tarHeaderLength(file.path);
    segments.push({ kind: 'header', file, at, length: header });
    at += header;
    if (file.size > 0) segments.push({ kind: 'data', file, at, length: file.size, offset: 0 });
    at += file.size + tarPadding(file.size);
  }
  return { length: at, begins: files, completes: undefined, segments };
}

/** The stretch of a large file's content that begins at `offset`, a multiple of the chunk size. */
export function layoutStretch<F extends ArchiveFile>(
  file: F,
  offset: number,
  chunkSize: number,
): ChunkLayout<F> {
  const length = Math.min(chunkSize, file.size - offset);
  const first = offset === 0;
  const last = offset + length === file.size;
  const at = first ? tarHeaderLength(file.path) : 0;
  return {
    length: at + length + (last ? tarPadding(file.size) : 0),
    begins: first ? [file] : [],
    completes: last && !first ? file : undefined,
    segments: [
      ...(first ? [{ kind: 'header', file, at: 0, length: at } as const] : []),
      { kind: 'data', file, at, length, offset },
    ],
  };
}

/**
 * The reader's side: derives each chunk's segments from the order of files and chunks in an index, and refuses an index that
 * does not describe a tar stream. Holds one open file and the files that begin in the next chunk. `what` names the index in errors.
 */
export interface ChunkReader<F extends ArchiveFile> {
  /** The next file of the archive; it begins in the next chunk. */
  file(file: F): void;
  /** The next chunk, `length` bytes of plaintext. */
  chunk(length: number): ChunkLayout<F>;
  /** After the last chunk. */
  end(): void;
}

export function createChunkReader<F extends ArchiveFile>(
  chunkSize: number,
  what = 'the index',
): ChunkReader<F> {
  let pending: F[] = [];
  let pendingLength = 0;
  let open: { file: F; offset: number } | undefined;
  let ended = false;

  const bad = (why: string): PresyncError =>
    new PresyncError('INDEX_CORRUPT', `${what} does not describe a tar stream: ${why}`, {
      hint: 'do not use this snapshot; take a new one on the source node',
    });

  return {
    file(file) {
      if (ended) throw bad(`${file.path} comes after the archive's end`);
      if (open !== undefined) throw bad(`${file.path} begins before ${open.file.path} is complete`);
      pending.push(file);
      pendingLength += tarHeaderLength(file.path) + file.size + tarPadding(file.size);
      if (pending.length > 1 && pendingLength > chunkSize)
        throw bad(`a bundle that ends with ${file.path} exceeds the chunk size`);
    },
    chunk(length) {
      if (ended) throw bad("a chunk comes after the archive's end");
      if (!(length > 0)) throw bad(`a chunk is ${length} bytes long`);
      if (length > chunkSize + MAX_CHUNK_OVERHEAD)
        throw bad(`a chunk of ${length} bytes exceeds the chunk size`);
      if (open !== undefined) {
        const { file, offset } = open;
        const rest = file.size - offset;
        const complete = length === rest + tarPadding(file.size);
        if (!complete && length >= rest) throw bad(`a chunk of ${file.path} overlaps its end`);
        const data = complete ? rest : length;
        open = complete ? undefined : { file, offset: offset + data };
        return {
          length,
          begins: [],
          completes: complete ? file : undefined,
          segments: [{ kind: 'data', file, at: 0, length: data, offset }],
        };
      }
      const [first] = pending;
      if (first === undefined) {
        if (length !== TAR_END_LENGTH) throw bad(`a chunk of ${length} bytes belongs to no file`);
        ended = true;
        return { length, begins: [], completes: undefined, segments: [] };
      }
      const begins = pending;
      if (length === pendingLength) {
        pending = [];
        pendingLength = 0;
        return layoutBundle(begins);
      }
      const header = tarHeaderLength(first.path);
      if (pending.length > 1 || length <= header || length >= header + first.size) {
        throw bad(
          `the chunk that begins with ${first.path} is ${length} bytes long, its files are ${pendingLength}`,
        );
      }
      pending = [];
      pendingLength = 0;
      open = { file: first, offset: length - header };
      return {
        length,
        begins,
        completes: undefined,
        segments: [
          { kind: 'header', file: first, at: 0, length: header },
          { kind: 'data', file: first, at: header, length: length - header, offset: 0 },
        ],
      };
    },
    end() {
      if (open !== undefined) throw bad(`${open.file.path} is not complete`);
      if (pending.length > 0) throw bad(`${pending[0]?.path} has no chunk`);
      if (!ended) throw bad('the archive has no end');
    },
  };
}
