/**
 * Whether a good snapshot can be taken now: what the machine says, beside what the node says of itself.
 */
import { lstat, stat, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { errnoOf, ioError } from '@presync/runtime/errors';
import { formatBytes } from '@presync/runtime/units';
import type { ShutGate } from './gate.ts';
import type { DatabaseFile, DatabaseLayout } from './layout.ts';
import { viewParent } from './lib/view-folder.ts';

/** What tells a node that a folder holds a database of the layout before `full/` (sdk `client/db/src/utils.rs`). */
const OLD_LAYOUT = ['db_version', 'metadata'];

/**
 * A node that finds an old layout moves it: `db` is renamed to `tmp` beside it, and that to `db/full`. It does so when it opens the database, before
 * its RPC is up; upgrades of a version happen then too, and leave no mark, so that the silent RPC is what tells of them.
 */
export async function findMigration({
  basePath,
  archivePrefix,
}: DatabaseLayout): Promise<ShutGate | undefined> {
  const parent = join(basePath, dirname(archivePrefix));
  for (const dir of [parent, join(dirname(parent), 'tmp')]) {
    for (const name of OLD_LAYOUT) {
      if (!(await exists(join(dir, name)))) continue;
      return {
        gate: 'migration',
        reason: `${join(dir, name)} shows that the database is being moved to another layout, or that this was broken off`,
      };
    }
  }
  return undefined;
}

export interface RoomOptions {
  layout: DatabaseLayout;
  files: readonly DatabaseFile[];
  viewDir: string | undefined;
  stateDir: string;
  /** What the node must keep on the database's file system; 0 where none runs. */
  reserve: number;
  /** Bytes that are written below the state folder, at the most. */
  scratch: number;
}

/** statfs types on which a view takes no room at first: xfs, btrfs (`linux/magic.h`). */
const REFLINKS = new Set([0x58465342, 0x9123683e]);

/** Looks whether view and scratch files fit on their disks, and leave the node what it needs. */
export async function findTightDisk(options: RoomOptions): Promise<ShutGate | undefined> {
  const { layout } = options;
  const database = await diskOf(layout.dir);
  const view = await diskOf(viewParent(layout, options.viewDir));
  const state = await diskOf(options.stateDir);
  const same = view.dev === database.dev;
  const copied = options.files.filter(
    (file) => !same || (file.class !== 'immutable' && !REFLINKS.has(database.type)),
  );
  const needs = [
    {
      ...view,
      bytes: copied.reduce((sum, file) => sum + Math.min(file.size, file.allocated), 0),
      what: 'the view',
    },
    { ...state, bytes: options.scratch, what: 'scratch files' },
    { ...database, bytes: options.reserve, what: 'the node' },
  ];
  const short = [...new Set(needs.map(({ dev }) => dev))].flatMap((dev) => {
    const here = needs.filter((need) => need.dev === dev);
    const wanted = here.reduce((sum, { bytes }) => sum + bytes, 0);
    const free = here[0]?.free ?? 0;
    if (wanted <= free) return [];
    const parts = here
      .filter(({ bytes }) => bytes > 0)
      .map(({ bytes, what }) => `${formatBytes(bytes)} for ${what}`);
    return [
      `the disk of ${here.at(-1)?.path} has ${formatBytes(free)} free, and needs ${parts.join(' and ')}`,
    ];
  });
  return short.length === 0 ? undefined : { gate: 'disk', reason: short.join('; ') };
}

/** Bytes that are free for whoever is not root on the disk of a folder, which need not be there yet. */
export async function freeBytes(path: string): Promise<number> {
  return (await diskOf(path)).free;
}

async function diskOf(path: string): Promise<{ path: string; dev: number; type: number; free: number }> {
  for (let current = path; ; current = dirname(current)) {
    try {
      const { dev } = await stat(current);
      const { type, bavail, bsize } = await statfs(current);
      return { path, dev, type, free: bavail * bsize };
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT' || dirname(current) === current) {
        throw ioError(error, 'look at the file system of', path);
      }
    }
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return false;
    throw ioError(error, 'look at', path);
  }
}
