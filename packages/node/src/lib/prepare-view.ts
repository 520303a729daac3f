import { constants, linkSync, lstatSync, unlinkSync } from 'node:fs';
import { copyFile, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { errnoOf, ioError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { DatabaseFile } from '../layout.ts';
import type {
  FrozenView,
  PreparedView,
  PrepareViewOptions,
  ViewEstimate,
  ViewFile,
  ViewMethod,
} from '../view.ts';
import { isFinishedTable } from './finished-table.ts';
import { scanDatabase } from './scan.ts';
import {
  type BlockBuffer,
  copyFrozen,
  copyHot,
  createBlockBuffer,
  flush,
  type HotCopy,
  isUnchanged,
} from './two-pass.ts';
import { createViewFolder, removeViewFolder } from './view-folder.ts';

/** statfs types whose mtime follows writes through a mapping: ext2/3/4, xfs, btrfs (`linux/magic.h`). */
const MTIME_FOLLOWS_MMAP = new Set([0xef53, 0x58465342, 0x9123683e]);
/** How many files are linked before other work, timers above all, gets its turn. */
const LINK_BATCH = 256;
/** Files that are copied at the same time. */
const COPIES = 4;
/** Files that are reflinked at the same time. */
const REFLINKS = 16;

interface Preparation {
  options: PrepareViewOptions;
  dir: string;
  /** Turned off when the file system or the permissions do not allow hard links. */
  canLink: boolean;
  canReflink: boolean;
  trustMtime: boolean;
  /** What is in the view's folder by now. */
  linked: Map<string, { ino: bigint; dev: bigint }>;
  copied: Map<string, HotCopy>;
}

/**
 * Does everything for a frozen view that can be done while the node runs, so that the pause is short.
 *
 * @throws NODE_UNKNOWN_FILE, NO_SPACE, CONFIG_INVALID, IO_FAILED, ABORTED; nothing is left behind then
 */
export async function prepareView(options: PrepareViewOptions): Promise<PreparedView> {
  const { layout, signal } = options;
  throwIfAborted(signal);
  const { dir, sameDevice } = await createViewFolder(layout, options.viewDir);
  try {
    const files = await scanDatabase(layout, { signal });
    const view: Preparation = {
      options,
      dir,
      canLink: sameDevice,
      canReflink: sameDevice && (await probeReflink(files, dir)),
      trustMtime: MTIME_FOLLOWS_MMAP.has((await fileSystemOf(layout.dir)).type),
      linked: new Map(),
      copied: new Map(),
    };
    const rest = await linkHot(view, files);
    await (view.canReflink ? flushAll(rest, signal) : copyAllHot(view, rest));
    const estimate = await estimateOf(view);
    return createPrepared(view, estimate);
  } catch (error) {
    await removeViewFolder(dir);
    throw error;
  }
}

function createPrepared(view: Preparation, estimate: ViewEstimate): PreparedView {
  const { dir } = view;
  let used = false;
  return {
    dir,
    estimate,
    freeze: async ({ signal }) => {
      if (used) throw new PresyncError('INTERNAL', `the view ${dir} was frozen already`);
      used = true;
      return freeze(view, signal);
    },
    discard: () => {
      used = true;
      return removeViewFolder(dir);
    },
  };
}

async function freeze(view: Preparation, signal: AbortSignal): Promise<FrozenView> {
  const { layout } = view.options;
  const files = await scanDatabase(layout, { signal });
  dropVanished(view, files);
  const methods = new Map<string, ViewMethod>();
  const rest: DatabaseFile[] = [];
  for (const [index, file] of files.entries()) {
    if (index % LINK_BATCH === LINK_BATCH - 1) await setImmediate();
    throwIfAborted(signal);
    if (file.class === 'immutable' && link(view, file)) methods.set(file.name, 'link');
    else rest.push(file);
  }
  let bytesReadInPause = 0;
  let bytesCopiedInPause = 0;
  await inParallel(rest, view.canReflink ? REFLINKS : COPIES, async (file, buffer) => {
    throwIfAborted(signal);
    const viewPath = join(view.dir, file.name);
    const hot = view.copied.get(file.name);
    if (hot === undefined && view.canReflink) {
      await reflink(file, viewPath);
      methods.set(file.name, 'reflink');
      return;
    }
    methods.set(file.name, 'copy');
    if (hot !== undefined && isUnchanged(hot, file, view.trustMtime)) return;
    const { read, written } = await copyFrozen(file, viewPath, hot, { buffer: buffer(), signal });
    bytesReadInPause += read;
    bytesCopiedInPause += written;
  });
  throwIfAborted(signal);
  return {
    dir: view.dir,
    files: files.map(
      (file): ViewFile => ({
        ...file,
        viewPath: join(view.dir, file.name),
        method: methods.get(file.name) ?? 'copy',
      }),
    ),
    methods: countMethods(methods.values()),
    bytesReadInPause,
    bytesCopiedInPause,
    release: () => removeViewFolder(view.dir),
  };
}

/** Links what can be linked, and returns what has to be taken in another way. */
async function linkHot(view: Preparation, files: readonly DatabaseFile[]): Promise<DatabaseFile[]> {
  const { signal, onProgress } = view.options;
  const rest: DatabaseFile[] = [];
  for (const [index, file] of files.entries()) {
    if (index % LINK_BATCH === LINK_BATCH - 1) {
      onProgress?.({ files: view.linked.size, filesTotal: files.length, bytes: 0, bytesTotal: 0 });
      await setImmediate();
    }
    throwIfAborted(signal);
    if (file.class !== 'immutable') rest.push(file);
    else if (!link(view, file) && (!view.canLink || isFinishedTable(file.path, file.size) === true))
      rest.push(file);
  }
  return rest;
}

/**
 * Makes the view hold a hard link to this very file. False when it cannot be linked, or must not be because it is still
 * being written, or when it is gone.
 */
function link(view: Preparation, file: DatabaseFile): boolean {
  const known = view.linked.get(file.name);
  if (known !== undefined) {
    if (known.ino === file.ino && known.dev === file.dev) return true;
    unlink(join(view.dir, file.name));
    view.linked.delete(file.name);
  }
  if (!view.canLink || isFinishedTable(file.path, file.size) !== true) return false;
  const viewPath = join(view.dir, file.name);
  try {
    linkSync(file.path, viewPath);
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'ENOENT') return false;
    // Other device; not the owner (protected_hardlinks) or no links on this file system; too many links.
    if (code !== 'EXDEV' && code !== 'EPERM' && code !== 'ENOTSUP' && code !== 'EMLINK')
      throw ioError(error, `link as ${viewPath}`, file.path);
    if (code !== 'EMLINK') view.canLink = false;
    return false;
  }
  const made = lstatSync(viewPath, { bigint: true });
  if (made.ino !== file.ino || made.dev !== file.dev || Number(made.size) !== file.size) {
    // The name was given to another file since the scan: RocksDB may use a number again after a restart.
    unlink(viewPath);
    return false;
  }
  view.linked.set(file.name, { ino: file.ino, dev: file.dev });
  return true;
}

async function copyAllHot(view: Preparation, files: readonly DatabaseFile[]): Promise<void> {
  const { signal, onProgress } = view.options;
  const bytesTotal = files.reduce((sum, file) => sum + file.size, 0);
  const filesTotal = files.length + view.linked.size;
  await checkRoom(view.dir, files);
  let bytes = 0;
  await inParallel(files, COPIES, async (file, buffer) => {
    const viewPath = join(view.dir, file.name);
    const onBytes = (count: number) => {
      bytes += count;
      onProgress?.({ files: view.linked.size + view.copied.size, filesTotal, bytes, bytesTotal });
    };
    const hot = await copyHot(file, viewPath, { buffer: buffer(), signal, onBytes });
    if (hot !== undefined) view.copied.set(file.name, hot);
  });
}

async function checkRoom(dir: string, files: readonly DatabaseFile[]): Promise<void> {
  const needed = files.reduce((sum, file) => sum + Math.min(file.size, file.allocated), 0);
  const { bavail, bsize } = await fileSystemOf(dir);
  if (bavail * bsize >= needed) return;
  throw new PresyncError(
    'NO_SPACE',
    `a frozen view in ${dir} needs ${needed} bytes, and only ${bavail * bsize} are free`,
    {
      hint: 'free some disk room, or put the database on a file system with reflinks (xfs, btrfs), where a view takes none',
    },
  );
}

async function fileSystemOf(path: string) {
  try {
    return await statfs(path);
  } catch (error) {
    throw ioError(error, 'look at the file system of', path);
  }
}

function unlink(viewPath: string): void {
  try {
    unlinkSync(viewPath);
  } catch (error) {
    throw ioError(error, 'remove', viewPath);
  }
}

async function flushAll(files: readonly DatabaseFile[], signal: AbortSignal): Promise<void> {
  await inParallel(files, COPIES, async (file) => {
    throwIfAborted(signal);
    await flush(file.path);
  });
}

/** Tries a reflink of the database's smallest file. */
async function probeReflink(files: readonly DatabaseFile[], dir: string): Promise<boolean> {
  const smallest = files
    .filter((file) => file.class !== 'immutable' && file.size > 0)
    .sort((a, b) => a.size - b.size)[0];
  if (smallest === undefined) return false;
  const probe = join(dir, '.reflink-probe');
  try {
    await copyFile(smallest.path, probe, constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL);
    return true;
  } catch (error) {
    const code = errnoOf(error);
    if (
      code === 'ENOENT' ||
      code === 'ENOTSUP' ||
      code === 'EOPNOTSUPP' ||
      code === 'EXDEV' ||
      code === 'EINVAL' ||
      code === 'ENOSYS' ||
      code === 'ENOTTY'
    )
      return false;
    throw ioError(error, `reflink as ${probe}`, smallest.path);
  } finally {
    await rm(probe, { force: true });
  }
}

async function reflink(file: DatabaseFile, viewPath: string): Promise<void> {
  try {
    await copyFile(file.path, viewPath, constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL);
  } catch (error) {
    throw ioError(error, `reflink as ${viewPath}`, file.path);
  }
  if (lstatSync(viewPath).size !== file.size) {
    throw new PresyncError('NODE_CHANGED', `${file.path} changed while the view was frozen`, {
      hint: 'check that the node is really paused: another process writes to its database',
    });
  }
}

/** Takes out of the view what the database has deleted since it was prepared. */
function dropVanished(view: Preparation, files: readonly DatabaseFile[]): void {
  const names = new Set(files.map((file) => file.name));
  for (const known of [view.linked, view.copied]) {
    for (const name of known.keys()) {
      if (names.has(name)) continue;
      unlink(join(view.dir, name));
      known.delete(name);
    }
  }
}

async function estimateOf(view: Preparation): Promise<ViewEstimate> {
  const files = await scanDatabase(view.options.layout, { signal: view.options.signal });
  let bytesToRereadAtMost = 0;
  let bytesToRereadNow = 0;
  for (const file of files) {
    if (view.canReflink || view.linked.has(file.name)) continue;
    const hot = view.copied.get(file.name);
    const bytes = Math.min(file.size, file.allocated);
    bytesToRereadAtMost += bytes;
    if (hot === undefined || !isUnchanged(hot, file, view.trustMtime)) bytesToRereadNow += bytes;
  }
  return {
    files: files.length,
    method: view.canReflink ? 'reflink' : 'copy',
    bytesToRereadAtMost,
    bytesToRereadNow,
  };
}

/** Runs the work for all items, `width` at a time; after a failure no further one is begun. */
async function inParallel<T>(
  items: readonly T[],
  width: number,
  work: (item: T, buffer: () => BlockBuffer) => Promise<void>,
): Promise<void> {
  const queue = items[Symbol.iterator]();
  const failures: unknown[] = [];
  const worker = async () => {
    let own: BlockBuffer | undefined;
    const buffer = () => {
      own ??= createBlockBuffer();
      return own;
    };
    for (const item of queue) {
      if (failures.length > 0) return;
      try {
        await work(item, buffer);
      } catch (error) {
        failures.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, worker));
  if (failures.length > 0) throw failures[0];
}

function countMethods(methods: Iterable<ViewMethod>): Record<ViewMethod, number> {
  const counts: Record<ViewMethod, number> = { link: 0, reflink: 0, copy: 0 };
  for (const method of methods) counts[method]++;
  return counts;
}
