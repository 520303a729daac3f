import { createHash } from 'node:crypto';
import { type BigIntStats, constants } from 'node:fs';
import { link, lstat, open, rename, rmdir, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { errnoOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { assertKey, assertPrefix } from './keys.ts';
import { alreadyThere, notFound, wasChanged, window } from './lib/calls.ts';
import { fileError, storeMissing, symlinkInside } from './lib/file-errors.ts';
import { walk } from './lib/file-list.ts';
import { withFileLock } from './lib/file-lock.ts';
import { sweepTemp, TEMP_DIR, tempPath, unlinkIfThere } from './lib/file-temp.ts';
import {
  folderOf,
  makeDir,
  makeFolderOf,
  syncDir,
  syncNearest,
  versionOf,
  writeDurably,
} from './lib/file-write.ts';
import { type Limiter, limited, newLimiter } from './lib/limited.ts';
import type {
  CallOptions,
  ObjectData,
  ObjectInfo,
  ObjectStore,
  PutOptions,
  ReadOptions,
} from './object-store.ts';

export interface FileStoreOptions {
  /** The folder of the store. It may be missing; the first `put` makes it if its parent exists. */
  dir: string;
}

/** Hex digits of a key's digest that name its lock: 256 locks are shared by all keys, so that their files stay few. */
const LOCK_NAME_LENGTH = 2;

/** How often a put makes its folders anew that removals of other objects prune away at the same time. */
const FOLDER_ATTEMPTS = 50;

const READ_BYTES = 4 * 1024 * 1024;

/**
 * A store in a folder. An object is a file under its key; beside them lie `.tmp` (unfinished writes) and `.locks`.
 *
 * - A put writes, syncs, and then names the file in one step: link(2) for create-only, rename(2) otherwise.
 * - Replacing and removing hold a lock (see `withFileLock`), which makes `ifVersion` a true compare-and-swap between
 *   the processes of one machine. Across machines that share the folder, and across pid namespaces, it holds as long
 *   as no holder stops for a minute in the middle of a rename. Create-only puts need no lock and hold everywhere.
 * - Symbolic links inside the folder are refused; the folder itself may be one.
 * - Unfinished writes of dead processes are removed at the first write.
 *
 * Creating the store does not touch the disk. Errors: STORE_NOT_FOUND (no such folder), STORE_FORBIDDEN,
 * STORE_READ_ONLY, NO_SPACE, STORE_FAILED, and those of the contract.
 */
export function createFileStore(options: FileStoreOptions): ObjectStore {
  const root = resolve(options.dir);
  const location = pathToFileURL(root).href;
  const durable = new Set<string>();
  const queues = new Map<string, Limiter>();
  let swept: Promise<void> | undefined;

  async function missing(cause: unknown): Promise<PresyncError | undefined> {
    try {
      if ((await stat(root)).isDirectory()) return undefined;
      return new PresyncError('STORE_NOT_FOUND', `${root} is not a folder`, {
        cause,
        hint: 'look at the store URL',
      });
    } catch (error) {
      if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return storeMissing(root, error);
      throw error;
    }
  }

  /** The object's file; undefined when there is none. Rejects with STORE_NOT_FOUND without a store. */
  async function inspect(key: string): Promise<{ path: string; stats: BigIntStats } | undefined> {
    try {
      const folder = await folderOf(root, key);
      if (folder !== undefined) {
        const path = join(folder, basename(key));
        const stats = await lstat(path, { bigint: true });
        if (stats.isSymbolicLink()) throw symlinkInside(path);
        if (stats.isFile()) return { path, stats };
      }
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT' && errnoOf(error) !== 'ENOTDIR') throw error;
    }
    const absent = await missing(undefined);
    if (absent !== undefined) throw absent;
    return undefined;
  }

  /** Runs the work of a call and turns what it throws into the errors of the contract. */
  async function call<T>(
    action: string,
    key: string,
    signal: AbortSignal,
    work: () => Promise<T>,
  ): Promise<T> {
    assertKey(key);
    throwIfAborted(signal);
    try {
      return await work();
    } catch (error) {
      throw fileError(error, action, join(root, key));
    }
  }

  async function prepare(): Promise<void> {
    try {
      await makeDir(join(root, TEMP_DIR));
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
      await makeDir(root).catch((cause: unknown) => {
        throw errnoOf(cause) === 'ENOENT' ? parentMissing(root, cause) : cause;
      });
      await syncDir(dirname(root));
      await makeDir(join(root, TEMP_DIR));
    }
    swept ??= sweepTemp(root);
    await swept.catch((error: unknown) => {
      swept = undefined;
      throw error;
    });
  }

  function locked<T>(key: string, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    const name = createHash('sha256').update(key).digest('hex').slice(0, LOCK_NAME_LENGTH);
    const queue = queues.get(name) ?? newLimiter(1);
    queues.set(name, queue);
    return limited(queue, signal, () => withFileLock(root, name, signal, work));
  }

  async function publish(temp: string, key: string, { condition, signal }: PutOptions): Promise<string> {
    for (let attempt = 1; ; attempt++) {
      throwIfAborted(signal);
      try {
        const folder = await makeFolderOf(root, key, durable);
        const path = join(folder, basename(key));
        if (condition !== undefined && 'ifAbsent' in condition) {
          await link(temp, path);
          return folder;
        }
        await locked(key, signal, async () => {
          if (condition !== undefined && (await inspectVersion(key)) !== condition.ifVersion) {
            throw wasChanged(key, location);
          }
          await rename(temp, path);
        });
        return folder;
      } catch (error) {
        if (errnoOf(error) === 'EEXIST') throw alreadyThere(key, location, error);
        if (errnoOf(error) !== 'ENOENT' || attempt >= FOLDER_ATTEMPTS) throw error;
        durable.clear();
      }
    }
  }

  async function inspectVersion(key: string): Promise<string | undefined> {
    const found = await inspect(key);
    return found === undefined ? undefined : versionOf(found.stats);
  }

  /** Removes the folders that a removal left empty, so that a listing need not walk them. */
  async function prune(folder: string): Promise<void> {
    for (let path = folder; path !== root; path = dirname(path)) {
      try {
        await rmdir(path);
        durable.delete(path);
      } catch (error) {
        const code = errnoOf(error);
        if (code === 'ENOTEMPTY' || code === 'EEXIST' || code === 'ENOENT' || code === 'EBUSY') return;
        throw error;
      }
    }
  }

  return {
    location,
    traits: { writable: true, listable: true },

    stat: (key: string, { signal }: CallOptions) =>
      call('look at', key, signal, async () => {
        const found = await inspect(key);
        if (found === undefined) return undefined;
        return { key, size: Number(found.stats.size), version: versionOf(found.stats) };
      }),

    read: (key: string, options: ReadOptions) =>
      call('read', key, options.signal, async () => {
        const found = await inspect(key);
        if (found === undefined) throw notFound(key, location);
        return readFileAt(found.path, key, location, options);
      }),

    put: (key, body, options) =>
      call('write', key, options.signal, async () => {
        const { condition, signal } = options;
        await prepare();
        if (condition !== undefined) {
          // A look before the bytes are written; the decision is made by `publish`.
          const version = await inspectVersion(key);
          if ('ifAbsent' in condition && version !== undefined) throw alreadyThere(key, location);
          if ('ifVersion' in condition && version !== condition.ifVersion) throw wasChanged(key, location);
        }
        const temp = await tempPath(root);
        try {
          const { version } = await writeDurably(temp, body, key, signal);
          await syncNearest(await publish(temp, key, options), root);
          return { version };
        } finally {
          await unlinkIfThere(temp);
        }
      }),

    remove: (key: string, { signal }: CallOptions) =>
      call('remove', key, signal, async () => {
        if ((await inspect(key)) === undefined) return;
        await prepare();
        await locked(key, signal, async () => {
          const found = await inspect(key);
          if (found === undefined) return;
          await unlink(found.path);
          await syncNearest(dirname(found.path), root);
          await prune(dirname(found.path));
        });
      }),

    async *list(prefix: string, { signal }: CallOptions): AsyncGenerator<ObjectInfo> {
      assertPrefix(prefix);
      throwIfAborted(signal);
      const base = prefix.slice(0, prefix.lastIndexOf('/') + 1);
      try {
        const absent = await missing(undefined);
        if (absent !== undefined) throw absent;
        const folder = await folderOf(root, `${base}x`);
        if (folder !== undefined) yield* walk(folder, base, prefix.slice(base.length), signal);
        throwIfAborted(signal);
      } catch (error) {
        throw fileError(error, 'list', join(root, base));
      }
    },

    close: async () => {},
  };
}

async function readFileAt(
  path: string,
  key: string,
  location: string,
  options: ReadOptions,
): Promise<ObjectData> {
  // Not to follow a link that appears now, and not to wait for the other end of a pipe.
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const handle = await open(path, flags).catch((error: unknown) => {
    throw errnoOf(error) === 'ENOENT' ? notFound(key, location, error) : error;
  });
  try {
    const stats = await handle.stat({ bigint: true });
    if (!stats.isFile()) throw notFound(key, location);
    const size = Number(stats.size);
    const { start, end } = window(key, size, options);
    const bytes = Buffer.allocUnsafeSlow(end - start);
    for (let at = 0; at < bytes.length; ) {
      throwIfAborted(options.signal);
      const { bytesRead } = await handle.read(bytes, at, Math.min(READ_BYTES, bytes.length - at), start + at);
      if (bytesRead === 0) {
        throw new PresyncError('STORE_FAILED', `${path} ended after ${start + at} of ${size} bytes`, {
          retryable: true,
          hint: 'something else than presync writes into the store folder; stop it',
        });
      }
      at += bytesRead;
    }
    return { bytes, size, version: versionOf(stats) };
  } finally {
    await handle.close();
  }
}

function parentMissing(root: string, cause: unknown): PresyncError {
  return new PresyncError(
    'STORE_NOT_FOUND',
    `${dirname(root)}, in which the store folder is to be made, does not exist`,
    {
      cause,
      hint: 'look at the path, and at whether its file system is mounted; or make the parent folder',
    },
  );
}
