import { isPresyncError, messageOf, PresyncError } from '@presync/runtime/errors';
import { type Extract, extract, type Header } from 'tar-stream';
import { createTarEnd } from './lib/tar-end.ts';
import { MAX_FILE_SIZE } from './limits.ts';

/** A regular file of an archive. */
export interface TarFile {
  /** Relative, without `.`, `..` and empty segments. */
  path: string;
  size: number;
  /** Milliseconds since 1970; undefined when the archive does not say. */
  mtimeMs: number | undefined;
  /** To be read to its end, or not at all. */
  content: AsyncIterable<Uint8Array>;
}

/** Entries, directories among them: more than any database has, and few enough to be read in a reasonable time. */
const MAX_ENTRIES = 4_000_000;

/** Longest path that a file system takes, bytes. */
const MAX_PATH = 4096;

/**
 * The regular files of a tar archive that others made, one after the other. Directories are passed over.
 *
 * @throws PresyncError FORMAT_INVALID when the archive is damaged or cut short, or something follows its end; PATH_UNSAFE for a name
 * that would leave the folder; ARCHIVE_UNFIT for links, devices and forms of GNU tar's own. What the source throws is passed on.
 */
export async function* readTar(
  source: AsyncIterable<Uint8Array>,
  { what }: { what: string },
): AsyncGenerator<TarFile> {
  const unpack = extract();
  // Reported by the loop below.
  unpack.on('error', () => {});
  const end = createTarEnd(what);
  const fed = feed(source, unpack, (piece) => end.see(piece));
  fed.catch(() => {});
  let entries = 0;
  try {
    for await (const entry of unpack) {
      entries += 1;
      if (entries > MAX_ENTRIES) throw invalid(what, `it has more than ${MAX_ENTRIES} entries`);
      const { header } = entry;
      const path = safeEntryPath(header.name, what);
      const size = sizeOf(header, what);
      end.file(offsetOf(header, what), size);
      if (isFile(header, path, what))
        yield { path, size, mtimeMs: timeOf(header), content: contentOf(entry, what) };
      entry.resume();
    }
    await fed;
    end.finish();
  } catch (error) {
    throw known(error, what);
  } finally {
    unpack.destroy();
  }
}

/**
 * The path of an entry in its plain form: `./a//b` is `a/b`. The folder itself (`.`) is ''.
 *
 * @throws PresyncError PATH_UNSAFE for an absolute path, one with `..`, and one that no file system takes.
 */
export function safeEntryPath(name: string, what: string): string {
  const segments = name.split('/').filter((segment) => segment !== '' && segment !== '.');
  if (name.startsWith('/') || segments.includes('..') || name.includes('\0') || name.length > MAX_PATH) {
    throw new PresyncError(
      'PATH_UNSAFE',
      `${what} holds ${JSON.stringify(name.slice(0, 200))}, which is no safe path`,
      {
        hint: 'do not use this archive; ask who made it',
      },
    );
  }
  return segments.join('/');
}

function sizeOf({ name, size, type, pax }: Header, what: string): number {
  if (type === 'directory') return 0;
  // tar-stream takes what of it is a number: 1 for `1e3`.
  const stated: unknown = typeof pax === 'object' && pax !== null ? Reflect.get(pax, 'size') : undefined;
  const plain = stated === undefined || (typeof stated === 'string' && /^\d{1,16}$/.test(stated));
  if (plain && Number.isSafeInteger(size) && size >= 0 && size <= MAX_FILE_SIZE) return size;
  throw invalid(what, `${JSON.stringify(name.slice(0, 200))} has no size that can be`);
}

/** tar-stream tells where an entry's content begins; its types do not say so. */
function offsetOf(header: Header, what: string): number {
  const offset: unknown = Reflect.get(header, 'byteOffset');
  if (typeof offset === 'number') return offset;
  throw new PresyncError('INTERNAL', `tar-stream does not tell where in ${what} an entry begins`);
}

function timeOf({ mtime }: Header): number | undefined {
  const milliseconds = mtime.getTime();
  return milliseconds > 0 ? milliseconds : undefined;
}

/** False for a directory. */
function isFile(header: Header, path: string, what: string): boolean {
  const { name, type, pax } = header;
  if (type === 'directory' || path === '') return false;
  const shown = JSON.stringify(name.slice(0, 200));
  const unfit = (is: string, hint: string): PresyncError =>
    new PresyncError('ARCHIVE_UNFIT', `${what} holds ${shown}, which is ${is}`, { hint });
  if (typeof pax === 'object' && Object.keys(pax ?? {}).some((key) => key.startsWith('GNU.sparse.')))
    throw unfit(
      "a file in GNU tar's sparse form",
      'unpack it with GNU tar, and pack it again without --sparse',
    );
  switch (type) {
    case 'file':
    case 'contiguous-file':
      // Archives from before there were directories in tar write them so.
      return !name.endsWith('/');
    case 'link':
    case 'symlink':
      throw unfit(
        'a link',
        'no database has links; pack the files that they lead to (tar --dereference --hard-dereference)',
      );
    case 'character-device':
    case 'block-device':
    case 'fifo':
      throw unfit(`a ${type.replace('-', ' ')}`, 'no database has such; do not use this archive');
    default:
      throw unfit(
        'of a kind that is not read here',
        'it may be a sparse file or part of an incremental backup of GNU tar: unpack it with that, and pack it again plainly',
      );
  }
}

async function* contentOf(entry: AsyncIterable<unknown>, what: string): AsyncGenerator<Uint8Array> {
  try {
    for await (const piece of entry) if (piece instanceof Uint8Array) yield piece;
  } catch (error) {
    throw known(error, what);
  }
}

/** Gives the source to the extractor, no faster than that takes it. A source that fails takes the extractor down with its error. */
async function feed(
  source: AsyncIterable<Uint8Array>,
  unpack: Extract,
  see: (piece: Uint8Array) => void,
): Promise<void> {
  try {
    for await (const piece of source) {
      if (piece.length === 0) continue;
      see(piece);
      if (!unpack.write(Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength))) await drained(unpack);
      if (unpack.destroyed) return;
    }
    unpack.end(undefined);
  } catch (error) {
    unpack.destroy(error instanceof Error ? error : new Error(messageOf(error)));
    throw error;
  }
}

function drained(unpack: Extract): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      unpack.off('drain', done);
      unpack.off('close', done);
      resolve();
    };
    unpack.once('drain', done);
    unpack.once('close', done);
  });
}

function known(error: unknown, what: string): PresyncError {
  return isPresyncError(error) ? error : invalid(what, messageOf(error), error);
}

function invalid(what: string, why: string, cause?: unknown): PresyncError {
  return new PresyncError('FORMAT_INVALID', `${what} is no sound tar archive: ${why}`, {
    cause,
    hint: 'get the file again; when it stays so, it is damaged where it comes from',
  });
}
