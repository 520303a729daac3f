import { constants } from 'node:fs';
import { lstat, mkdir, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { errnoOf, ioError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { FileBody } from '../object-store.ts';
import { bodyChanged, isFileBody } from './calls.ts';
import { symlinkInside } from './file-errors.ts';

const COPY_BYTES = 1024 * 1024;
const WRITE_BYTES = 4 * 1024 * 1024;

/**
 * Writes the body into a new file and makes it durable. The file's time is moved back by a random part of a second:
 * the version of an object rests on it, and an inode may be used again within one tick of the file system's clock.
 */
export async function writeDurably(
  path: string,
  body: Uint8Array | FileBody,
  key: string,
  signal: AbortSignal,
): Promise<{ version: string }> {
  const target = await open(path, 'wx');
  try {
    if (isFileBody(body)) {
      await copyInto(target, body, key, signal);
    } else {
      for (let at = 0; at < body.byteLength; ) {
        throwIfAborted(signal);
        at += (await target.write(body, at, Math.min(WRITE_BYTES, body.byteLength - at), at)).bytesWritten;
      }
    }
    const now = Date.now() / 1000;
    await target.utimes(now, now - Math.random());
    throwIfAborted(signal);
    await target.sync();
    return { version: versionOf(await target.stat({ bigint: true })) };
  } finally {
    await target.close();
  }
}

/** Equal only for the same file, unchanged. */
export function versionOf(stats: { ino: bigint; size: bigint; mtimeNs: bigint }): string {
  return `${stats.mtimeNs.toString(36)}-${stats.size.toString(36)}-${stats.ino.toString(36)}`;
}

async function copyInto(
  target: Awaited<ReturnType<typeof open>>,
  body: FileBody,
  key: string,
  signal: AbortSignal,
): Promise<void> {
  const source = await open(body.path, 'r').catch((error: unknown) => {
    throw ioError(error, 'read', body.path);
  });
  try {
    const buffer = Buffer.allocUnsafe(COPY_BYTES);
    for (let at = 0; ; ) {
      throwIfAborted(signal);
      const { bytesRead } = await source.read(buffer, 0, buffer.length, at).catch((error: unknown) => {
        throw ioError(error, 'read', body.path);
      });
      if (at + bytesRead > body.size || (bytesRead === 0 && at < body.size))
        throw bodyChanged(body.path, key);
      if (bytesRead === 0) return;
      for (let done = 0; done < bytesRead; ) {
        done += (await target.write(buffer, done, bytesRead - done, at + done)).bytesWritten;
      }
      at += bytesRead;
    }
  } finally {
    await source.close();
  }
}

/** fsync(2) of a folder, which makes the names in it durable. Some file systems know no such thing. */
export async function syncDir(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY);
  try {
    await handle.sync();
  } catch (error) {
    const code = errnoOf(error);
    if (code !== 'EINVAL' && code !== 'ENOTSUP') throw error;
  } finally {
    await handle.close();
  }
}

/**
 * Syncs a folder, or, when another removal has pruned it meanwhile, the nearest one above that is left: its entries tell that the
 * pruned ones are gone.
 */
export async function syncNearest(path: string, root: string): Promise<void> {
  for (let folder = path; ; folder = dirname(folder)) {
    try {
      await syncDir(folder);
      return;
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT' || folder === root) throw error;
    }
  }
}

/** Makes a folder; that it is there is fine. Its parent must exist. */
export async function makeDir(path: string): Promise<void> {
  try {
    await mkdir(path);
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
  }
}

/**
 * The folder of a key, after a look at each folder on the way that it is one and no symbolic link. Undefined when one
 * is missing or is a file.
 */
export async function folderOf(root: string, key: string): Promise<string | undefined> {
  let path = root;
  for (const segment of key.split('/').slice(0, -1)) {
    path = join(path, segment);
    try {
      const found = await lstat(path);
      if (found.isSymbolicLink()) throw symlinkInside(path);
      if (!found.isDirectory()) return undefined;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw error;
    }
  }
  return path;
}

/** How many folders a store remembers as durable; then it begins anew. */
const MAX_DURABLE = 10_000;

/**
 * As `folderOf`, and makes what is missing. Each folder that is not in `durable` is made durable, also when it is
 * there already: who made it may not have come so far.
 */
export async function makeFolderOf(root: string, key: string, durable: Set<string>): Promise<string> {
  let path = root;
  for (const segment of key.split('/').slice(0, -1)) {
    const parent = path;
    path = join(path, segment);
    await makeDir(path);
    const found = await lstat(path);
    if (found.isSymbolicLink()) throw symlinkInside(path);
    if (!found.isDirectory()) {
      throw new PresyncError('STORE_FAILED', `${path} is a file where ${key} needs a folder`, {
        hint: 'move the file away: no object may have the name of a folder',
      });
    }
    if (durable.has(path)) continue;
    await syncDir(parent);
    if (durable.size >= MAX_DURABLE) durable.clear();
    durable.add(path);
  }
  return path;
}
