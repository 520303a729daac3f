import { randomBytes } from 'node:crypto';
import { lstat, opendir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf } from '@presync/runtime/errors';
import { ownIdentity, processState } from './process-identity.ts';

/** Where objects are written before they get their name. No object key can begin with a dot. */
export const TEMP_DIR = '.tmp';

/** After this long a temporary file is garbage even if its writer cannot be proved dead. */
const TEMP_MAX_AGE_MS = 24 * 60 * 60 * 1000;

/** A new path for a temporary file of this process, `<process identity>.<random>`. */
export async function tempPath(root: string): Promise<string> {
  return join(root, TEMP_DIR, `${await ownIdentity()}.${randomBytes(12).toString('hex')}`);
}

/** Removes the temporary files of processes that are dead, and those older than a day. */
export async function sweepTemp(root: string): Promise<void> {
  const states = new Map<string, 'alive' | 'dead' | 'unknown'>();
  for await (const entry of await opendir(join(root, TEMP_DIR))) {
    if (!entry.isFile()) continue;
    const owner = entry.name.slice(0, entry.name.lastIndexOf('.'));
    const state = states.get(owner) ?? (await processState(owner));
    states.set(owner, state);
    const path = join(root, TEMP_DIR, entry.name);
    if (state === 'dead' || (state === 'unknown' && (await ageMs(path)) > TEMP_MAX_AGE_MS))
      await unlinkIfThere(path);
  }
}

/** Removes a file; that it is not there is fine. */
export async function unlinkIfThere(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
}

async function ageMs(path: string): Promise<number> {
  try {
    return Date.now() - (await lstat(path)).mtimeMs;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return 0;
    throw error;
  }
}
