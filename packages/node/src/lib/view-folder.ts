import { randomBytes } from 'node:crypto';
import { lstat, mkdir, readdir, rm, rmdir } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { errnoOf, ioError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { DatabaseLayout } from '../layout.ts';
import { isAlive, ownProcess } from './proc.ts';

/**
 * `view-<pid>-<start time>-<random>`: the name tells whose it is, so that a folder without its owner can be found. Pids are those of one PID
 * namespace: presyncs that take views of one database share it with the node anyway, which they have to pause.
 */
const VIEW_NAME = /^view-(\d{1,10})-(\d{1,20})-[0-9a-f]{16}$/;

/** Times that the folder of views is made anew while others prune it away. */
const ATTEMPTS = 100;

/** Beside the database folder. */
const OWN_FOLDER = '.presync';

export function viewParent(layout: DatabaseLayout, viewDir: string | undefined): string {
  return viewDir === undefined ? join(dirname(layout.dir), OWN_FOLDER) : resolve(viewDir);
}

/** Makes a new folder, mode 0700, for one view. Tells whether it is on the database's file system. */
export async function createViewFolder(
  layout: DatabaseLayout,
  viewDir: string | undefined,
): Promise<{ dir: string; sameDevice: boolean }> {
  const parent = viewParent(layout, viewDir);
  const owner = ownProcess();
  const dir = join(parent, `view-${owner.pid}-${owner.startTime}-${randomBytes(8).toString('hex')}`);
  try {
    for (let attempt = 1; ; attempt++) {
      try {
        return { dir, sameDevice: await makeIn(parent, dir, layout, viewDir) };
      } catch (error) {
        // Another presync's last view went, and the folder with it, between two of our steps.
        if (errnoOf(error) !== 'ENOENT' || attempt >= ATTEMPTS) throw error;
      }
    }
  } catch (error) {
    throw ioError(error, 'make the folder', dir);
  }
}

/** Makes the folder of views, where it is not there, and one view's in it. Tells whether it is on the database's file system. */
async function makeIn(
  parent: string,
  dir: string,
  layout: DatabaseLayout,
  viewDir: string | undefined,
): Promise<boolean> {
  await mkdir(parent, { recursive: viewDir !== undefined, mode: 0o700 }).catch((error: unknown) => {
    if (errnoOf(error) !== 'EEXIST') throw error;
  });
  if (!(await lstat(parent)).isDirectory()) {
    throw new PresyncError('IO_FAILED', `${parent} is not a folder`, {
      hint: 'remove it, or choose another folder for frozen views',
    });
  }
  const sameDevice = (await lstat(parent)).dev === (await lstat(layout.dir)).dev;
  if (!sameDevice && viewDir === undefined) {
    throw new PresyncError(
      'CONFIG_INVALID',
      `${layout.dir} is the root of a file system of its own, so no frozen view of it can be made beside it`,
      {
        hint: 'mount the disk at a folder further up, or name a folder for frozen views, which will be filled with a whole copy',
      },
    );
  }
  await mkdir(dir, { mode: 0o700 });
  return sameDevice;
}

export async function removeViewFolder(dir: string): Promise<void> {
  try {
    await rm(dir, { recursive: true, force: true });
    // The folder beside the database is presync's own and goes with its last view; one that the user named stays.
    if (basename(dirname(dir)) === OWN_FOLDER) await rmdir(dirname(dir));
  } catch (error) {
    if (errnoOf(error) === 'ENOTEMPTY' || errnoOf(error) === 'ENOENT') return;
    throw ioError(error, 'remove', dir);
  }
}

/** A view's folder that is there. */
export interface FoundView {
  dir: string;
  /** Whose it is: this process's, another's that is alive, or one's that has ended. */
  owner: 'self' | 'other' | 'ended';
}

/**
 * The views in the folder that `prepareView` uses with the same options, by name. Whatever else lies there, symbolic links too, is left out.
 *
 * @throws IO_FAILED
 */
export async function listViews(
  layout: DatabaseLayout,
  { viewDir }: { viewDir?: string | undefined },
): Promise<FoundView[]> {
  const parent = viewParent(layout, viewDir);
  const own = ownProcess();
  const found: FoundView[] = [];
  try {
    if (!(await lstat(parent)).isDirectory()) return [];
    const entries = await readdir(parent, { withFileTypes: true });
    for (const entry of entries.toSorted((a, b) => (a.name < b.name ? -1 : 1))) {
      const [, pid, startTime] = VIEW_NAME.exec(entry.name) ?? [];
      if (pid === undefined || startTime === undefined || !entry.isDirectory()) continue;
      const owner = { pid: Number(pid), startTime };
      const isOwn = owner.pid === own.pid && startTime === own.startTime;
      found.push({
        dir: join(parent, entry.name),
        owner: isOwn ? 'self' : isAlive(owner) ? 'other' : 'ended',
      });
    }
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw ioError(error, 'list', parent);
  }
  return found;
}

/**
 * Removes the views that a presync which has ended left behind, in the folder that `prepareView` uses with the same
 * options. Views of running ones, and whatever else lies there, are left alone. Symbolic links are not followed.
 *
 * @returns the folders that were removed
 * @throws IO_FAILED, ABORTED
 */
export async function removeStaleViews(
  layout: DatabaseLayout,
  options: { viewDir?: string | undefined; signal: AbortSignal },
): Promise<string[]> {
  const removed: string[] = [];
  for (const { dir, owner } of await listViews(layout, options)) {
    throwIfAborted(options.signal);
    if (owner !== 'ended') continue;
    // Another presync may be sweeping here too.
    const found = await lstat(dir).catch((error: unknown) => {
      if (errnoOf(error) !== 'ENOENT') throw ioError(error, 'look at', dir);
    });
    if (found?.isDirectory() !== true) continue;
    await removeViewFolder(dir);
    removed.push(dir);
  }
  return removed;
}
