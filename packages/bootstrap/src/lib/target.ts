import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Backend, databasePath } from '@presync/node/layout';
import { databaseHolder } from '@presync/node/locks';
import { errnoOf, ioError, PresyncError } from '@presync/runtime/errors';
import { interruptedRestore } from '@presync/transfer/restore';

/** A database's place. */
export interface TargetPart {
  /** The database folder, relative to the base path. */
  path: string;
  backend: Backend;
  /** As in a manifest; default `main`. */
  role?: string | undefined;
}

/** Checks the place: nobody has the database open, and no other database would be opened in its stead. */
export async function assertTarget(basePath: string, part: TargetPart, signal: AbortSignal): Promise<void> {
  const target = join(basePath, ...part.path.split('/'));
  const holder = await databaseHolder({ dir: target, backend: part.backend }, { signal });
  if (holder !== undefined) {
    throw new PresyncError(
      'TARGET_RUNNING',
      `${holder.pid === undefined ? 'a node' : `process ${holder.pid}`} has ${target} open`,
      { hint: 'stop the node first' },
    );
  }
  // What is kept of parachains has no sibling, and no layout that was older.
  if (part.role === 'parachains' || part.role === 'relay-parachains') return;
  const other: Backend = part.backend === 'rocksdb' ? 'paritydb' : 'rocksdb';
  const specId = part.path.split('/')[1] ?? '';
  const sibling = join(basePath, ...databasePath(specId, other).split('/'));
  if ((await names(sibling)).some((name) => name === 'CURRENT' || name === 'metadata')) {
    throw new PresyncError(
      'TARGET_BACKEND',
      `${sibling} holds a ${other} database of the same chain, which a node may open instead of the restored one`,
      {
        hint: 'move it away, or restore a snapshot with that backend',
      },
    );
  }
  // Substrate takes these for a database of an old layout and moves it into the folder below.
  const stray = (await names(dirname(target))).find(
    (name) => name === 'db_version' || name === 'metadata' || name === 'CURRENT',
  );
  if (stray !== undefined) {
    throw new PresyncError(
      'TARGET_NOT_EMPTY',
      `${join(dirname(target), stray)} belongs to a database of an old layout, which a node would migrate`,
      { hint: 'move it away' },
    );
  }
}

async function names(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return [];
    throw ioError(error, 'list', dir);
  }
}

/** True when every part has a database that can be opened, and none is half restored. */
export async function isWhole(parts: readonly (TargetPart & { basePath: string })[]): Promise<boolean> {
  for (const { basePath, ...part } of parts) {
    if ((await interruptedRestore(basePath, part.path)) !== undefined) return false;
    const found = await names(join(basePath, ...part.path.split('/')));
    if (!found.includes(part.backend === 'rocksdb' ? 'CURRENT' : 'metadata')) return false;
  }
  return true;
}
