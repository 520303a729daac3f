import { readdir, rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { RELAY_FOLDER } from '@presync/node/layout';
import { errnoOf, ioError } from '@presync/runtime/errors';
import { durableRename } from './lib/durable.ts';
import { exists } from './lib/stage.ts';
import type { RestorePlaces } from './part-targets.ts';

/** Folders of a chain in which databases lie, and `.presync` beside them. */
const PLACES = ['db', 'paritydb'];

/**
 * Removes all that interrupted restores have left in a base path, so that a node may begin with an empty database there. An old database
 * that was moved aside comes back. Returns the folders that were removed.
 *
 * @throws IO_FAILED
 */
export async function discardRestores({ basePath, relayBasePath }: RestorePlaces): Promise<string[]> {
  const removed: string[] = [];
  for (const base of [basePath, relayBasePath ?? join(basePath, RELAY_FOLDER)]) {
    for (const chain of await names(join(base, 'chains'))) {
      for (const place of PLACES) {
        const folder = join(base, 'chains', chain, place);
        if (await discard(folder)) removed.push(folder);
      }
    }
  }
  return removed;
}

async function discard(folder: string): Promise<boolean> {
  const work = join(folder, '.presync');
  const own = (await names(work)).filter((name) => /^(?:restore|replaced|swap)[-.]/.test(name));
  try {
    for (const name of own) {
      const [, database] = /^replaced-(full|parachains)$/.exec(name) ?? [];
      if (database !== undefined && !(await exists(join(folder, database))))
        await durableRename(join(work, name), join(folder, database));
      else await rm(join(work, name), { recursive: true, force: true });
    }
    // A frozen view may lie beside.
    if (own.length > 0 && (await names(work)).length === 0) await rmdir(work);
  } catch (error) {
    throw ioError(error, 'remove', work);
  }
  return own.length > 0;
}

async function names(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return [];
    throw ioError(error, 'list', dir);
  }
}
