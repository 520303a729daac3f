import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, ioError } from '../errors.ts';
import type { LockOutcome } from './lock-socket.ts';

/**
 * The lock where there are no abstract sockets (macOS): the file `.presync-<name>.lock`, made exclusively, with the
 * process id in it. The lock of a process that is no more is taken over. Two limits, which is why Linux does it
 * otherwise: a process id that was given out again keeps a dead lock until somebody removes the file, and two
 * processes that find the same dead lock in the same instant may both remove it, of which the later could remove the
 * lock that the first has just taken.
 */
export async function lockByFile(dir: string, name: string): Promise<LockOutcome> {
  const path = pathOf(dir, name);
  try {
    for (;;) {
      if (await create(path)) return { release: () => rm(path, { force: true }) };
      const holder = await readHolder(path);
      if (holder === 'gone') continue;
      if (holder === undefined || isAlive(holder)) return { holder };
      await rm(path, { force: true });
    }
  } catch (error) {
    throw ioError(error, 'lock', path);
  }
}

/** Who holds the lock; undefined when nobody does. */
export async function findFileHolder(
  dir: string,
  name: string,
): Promise<{ pid: number | undefined } | undefined> {
  const path = pathOf(dir, name);
  try {
    const holder = await readHolder(path);
    return holder === 'gone' || (holder !== undefined && !isAlive(holder)) ? undefined : { pid: holder };
  } catch (error) {
    throw ioError(error, 'look at the lock', path);
  }
}

function pathOf(dir: string, name: string): string {
  return join(dir, `.presync-${name}.lock`);
}

async function create(path: string): Promise<boolean> {
  try {
    await writeFile(path, `${process.pid}\n`, { flag: 'wx', mode: 0o644 });
    return true;
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return false;
    throw error;
  }
}

/** Undefined while its maker has not written it yet. */
async function readHolder(path: string): Promise<number | undefined | 'gone'> {
  try {
    const content = await readFile(path, 'utf8');
    return /^\d+\n$/.test(content) ? Number(content) : undefined;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return 'gone';
    throw error;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: there is such a process, of another user.
    return errnoOf(error) !== 'ESRCH';
  }
}
