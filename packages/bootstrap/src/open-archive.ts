import type { BigIntStats } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { type RecognizedArchive, recognizeArchive } from '@presync/format/archive-stream';
import { createSha256 } from '@presync/format/digest';
import { isSafePath } from '@presync/format/paths';
import { safeEntryPath } from '@presync/format/tar-reader';
import { errnoOf, ioError, isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Download, Downloads } from '@presync/store/download';

/** An archive that is one file. */
export interface StreamArchive {
  kind: 'tar';
  /** Where it is, without what may be a credential. */
  location: string;
  /** Bytes, as far as that is known. */
  size: number | undefined;
  /** What tells it from any other; undefined when nothing does. */
  identity: string | undefined;
  /** Its first bytes were read; the rest comes as it is decoded. */
  recognized: RecognizedArchive;
  /** How many bytes came so far, whether that was all, and their SHA-256; the digest to be asked for once, at the end. */
  progress: { readonly bytes: number; readonly ended: boolean; digest(): string };
  close(): Promise<void>;
}

/** The layout that paritytech's helm chart `node` calls `http-filelist`: each file of a database by itself, and a list of them. */
export interface ListArchive {
  kind: 'list';
  location: string;
  /** What `latest_version.meta.txt` names; undefined when there is none. */
  version: string | undefined;
  identity: string | undefined;
  /** Paths of the files, safe. */
  paths: readonly string[];
  open(path: string, signal: AbortSignal): Promise<Download>;
  /** Bytes, if the server tells. */
  sizeOf(path: string, signal: AbortSignal): Promise<number | undefined>;
  /** Rejects with STORE_FAILED when the list is another one now: the files may be of two databases. */
  assertUnchanged(): Promise<void>;
  close(): Promise<void>;
}

export interface OpenArchiveOptions {
  downloads: Downloads;
  /** Told of bytes of one that is one file, as they come. */
  onBytes: (bytes: number) => void;
  signal: AbortSignal;
}

const VERSION_NAME = 'latest_version.meta.txt';
const LIST_NAME = 'files.txt';

/** A version is a folder's name. */
const MAX_VERSION = 4096;
/** A million names of files. */
const MAX_LIST = 32 * 1024 * 1024;

/** What servers give that answer everything with a page, or refuse what is not there: what was found first says more. */
const NO_LIST = ['STORE_FORBIDDEN', 'FORMAT_INVALID', 'OBJECT_TOO_LARGE'] as const;

/** Bytes that are read from a file at a time. */
const FILE_PIECE = 256 * 1024;

/**
 * Opens an archive by its URL or path, and tells by its first bytes what it is. A URL that has no archive behind it is taken for the base of a
 * file list, if there is one.
 *
 * @throws PresyncError CONFIG_INVALID, FORMAT_INVALID, PATH_UNSAFE, STORE_…, OBJECT_NOT_FOUND, IO_FAILED, ABORTED
 */
export async function openArchive(
  text: string,
  options: OpenArchiveOptions,
): Promise<StreamArchive | ListArchive> {
  throwIfAborted(options.signal);
  const place = placeOf(text);
  if (place.kind === 'file') return openFile(place.path, options);
  const { url } = place;
  if (url.pathname.endsWith('/')) {
    const list = await openList(url, options);
    if (list !== undefined) return list;
    throw new PresyncError('OBJECT_NOT_FOUND', `${url.origin}${url.pathname} has no ${LIST_NAME}`, {
      hint: 'give the URL of an archive, or the base URL of a file list',
    });
  }
  // What a folder's address gives: nothing, a refusal to list it, a redirect to it, or a page.
  const archive = await openUrl(url, options).catch((error: unknown) => {
    if (!isPresyncError(error, 'OBJECT_NOT_FOUND') && !isPresyncError(error, 'STORE_FORBIDDEN')) throw error;
    return error;
  });
  if (!isPresyncError(archive) && archive.recognized.compression !== undefined) return archive;
  try {
    const list = await openList(url, options).catch((error: unknown) => {
      if (NO_LIST.some((code) => isPresyncError(error, code))) return undefined;
      throw error;
    });
    if (list === undefined) {
      if (isPresyncError(archive)) throw archive;
      // Whoever decodes it is told what it is.
      return archive;
    }
    if (!isPresyncError(archive)) await archive.close();
    return list;
  } catch (error) {
    if (!isPresyncError(archive)) await archive.close();
    throw error;
  }
}

/** Tells a URL from a path. */
function placeOf(text: string): { kind: 'file'; path: string } | { kind: 'web'; url: URL } {
  const scheme = /^([A-Za-z][A-Za-z0-9+.-]*):\/\//.exec(text)?.[1]?.toLowerCase();
  if (scheme === undefined) return { kind: 'file', path: text };
  const invalid = (why: string, hint: string): PresyncError =>
    new PresyncError('CONFIG_INVALID', `the URL of --archive ${why}`, { hint });
  if (!URL.canParse(text)) throw invalid('is none', 'write https://host/path, or the path of a file');
  const url = new URL(text);
  if (scheme === 'file') {
    try {
      return { kind: 'file', path: fileURLToPath(url) };
    } catch {
      throw invalid('names no file of this machine', 'write the path of the file');
    }
  }
  if (scheme !== 'http' && scheme !== 'https') {
    throw invalid(
      `begins with ${scheme}:, and archives are read from web servers and files only`,
      'get the archive with a tool of that store, and give its path; --store is for repositories of presync',
    );
  }
  if (url.username !== '' || url.password !== '') {
    throw invalid(
      'has a user name or password in it',
      'take it out of the URL, which ends up in logs; credentials of web servers come from --store-auth',
    );
  }
  url.hash = '';
  return { kind: 'web', url };
}

async function openUrl(url: URL, { downloads, onBytes, signal }: OpenArchiveOptions): Promise<StreamArchive> {
  const download = await downloads.open(url.href, { anyCoding: true, signal });
  const { location, size, version } = download;
  return openStream(download.bytes(), {
    location,
    size,
    identity:
      version === undefined || size === undefined ? undefined : JSON.stringify([url.href, version, size]),
    onBytes,
    close: async () => download.close(),
  });
}

async function openFile(path: string, { onBytes, signal }: OpenArchiveOptions): Promise<StreamArchive> {
  let handle: FileHandle;
  try {
    handle = await open(path, 'r');
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw ioError(error, 'read', path);
    throw new PresyncError('CONFIG_INVALID', `there is no file ${path} to restore from`, {
      cause: error,
      hint: 'give --archive the path of an archive, or its URL with https://',
    });
  }
  try {
    const info = await handle.stat({ bigint: true });
    if (info.isDirectory()) {
      throw new PresyncError('CONFIG_INVALID', `${path} is a folder, not an archive`, {
        hint: 'give the path of an archive; a database folder is restored by copying it while no node runs',
      });
    }
    // A pipe has no size, and nothing that tells it from another one.
    const regular = info.isFile();
    return await openStream(readAll(handle, path, regular ? info : undefined, signal), {
      location: path,
      size: regular ? Number(info.size) : undefined,
      identity: regular ? [path, info.dev, info.ino, info.size, info.mtimeNs].join(' ') : undefined,
      onBytes,
      close: () => handle.close(),
    });
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function* readAll(
  handle: FileHandle,
  path: string,
  was: BigIntStats | undefined,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  try {
    for (;;) {
      throwIfAborted(signal);
      const buffer = Buffer.allocUnsafeSlow(FILE_PIECE);
      const { bytesRead } = await handle.read(buffer, 0, FILE_PIECE, null);
      if (bytesRead === 0) break;
      yield buffer.subarray(0, bytesRead);
    }
    if (was === undefined) return;
    const is = await handle.stat({ bigint: true });
    if (is.size === was.size && is.mtimeNs === was.mtimeNs) return;
    throw new PresyncError('IO_FAILED', `${path} changed while it was read`, {
      hint: 'wait until it is complete, and run the command again',
    });
  } catch (error) {
    throw ioError(error, 'read', path);
  }
}

async function openStream(
  source: AsyncIterable<Uint8Array>,
  {
    onBytes,
    ...rest
  }: Pick<StreamArchive, 'location' | 'size' | 'identity' | 'close'> & Pick<OpenArchiveOptions, 'onBytes'>,
): Promise<StreamArchive> {
  const hash = createSha256();
  const progress = { bytes: 0, ended: false, digest: () => hash.digest() };
  async function* watched(): AsyncGenerator<Uint8Array> {
    for await (const piece of source) {
      hash.update(piece);
      progress.bytes += piece.length;
      onBytes(piece.length);
      yield piece;
    }
    progress.ended = true;
  }
  try {
    const recognized = await recognizeArchive(watched(), { what: rest.location });
    return { kind: 'tar', ...rest, recognized, progress };
  } catch (error) {
    await rest.close();
    throw error;
  }
}

/** The file list below a URL; undefined when there is none. */
async function openList(
  url: URL,
  { downloads, signal }: OpenArchiveOptions,
): Promise<ListArchive | undefined> {
  /** The address of something below a folder; what stands behind a `?` goes with it, as a signature may. */
  const below = (folder: URL, path: string): URL => {
    const address = new URL(folder);
    address.pathname = [folder.pathname.replace(/\/$/, ''), ...path.split('/').map(encodeURIComponent)].join(
      '/',
    );
    return address;
  };
  const named = await downloads
    .text(below(url, VERSION_NAME).href, { maxBytes: MAX_VERSION, signal })
    .catch((error: unknown) => {
      // A bucket without listing rights refuses what is not there.
      if (isPresyncError(error, 'STORE_FORBIDDEN')) return undefined;
      throw error;
    });
  const version = named === undefined || named.trim() === '' ? undefined : named.trim();
  const location = `${url.origin}${url.pathname}`;
  if (version !== undefined && !isSafePath(version)) {
    throw new PresyncError(
      'FORMAT_INVALID',
      `${VERSION_NAME} in ${location} is ${JSON.stringify(version.slice(0, 100))}, which is no version`,
      { hint: 'look at the address: it may be that of a web page' },
    );
  }
  // The chart takes everything from the base itself when no version is named.
  const root = version === undefined ? url : below(url, version);
  const list = below(root, LIST_NAME).href;
  const text = await downloads.text(list, { maxBytes: MAX_LIST, signal });
  if (text === undefined) {
    if (version === undefined) return undefined;
    throw new PresyncError(
      'OBJECT_NOT_FOUND',
      `${location} names version ${version}, which has no ${LIST_NAME}`,
      {
        hint: 'the version may just have been replaced: run the command again',
      },
    );
  }
  const what = `${LIST_NAME} in ${root.origin}${root.pathname}`;
  return {
    kind: 'list',
    location,
    version,
    identity: version === undefined ? undefined : JSON.stringify([url.href, version, text]),
    paths: linesOf(text).map((line) => safeEntryPath(line, what)),
    open: (path, abort) => downloads.open(below(root, path).href, { signal: abort }),
    sizeOf: (path, abort) => downloads.sizeOf(below(root, path).href, { signal: abort }),
    async assertUnchanged() {
      if ((await downloads.text(list, { maxBytes: MAX_LIST, signal })) === text) return;
      throw new PresyncError('STORE_FAILED', `${what} changed while the files were read`, {
        hint: 'run the command again',
      });
    },
    close: async () => {},
  };
}

/** Lines as rclone's `--files-from` takes them, which the chart uses: those that begin with # or ; are comments. */
function linesOf(text: string): string[] {
  return text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== '' && !/^[#;]/.test(line));
}
