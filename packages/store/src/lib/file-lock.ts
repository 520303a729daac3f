import { mkdir, open, readlink, stat, symlink, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { unlinkIfThere } from './file-temp.ts';
import { ownIdentity, processState } from './process-identity.ts';
import { sleep } from './sleep.ts';

/** Where the locks lie. No object key can begin with a dot. */
const LOCK_DIR = '.locks';

/**
 * A lock is held for a few system calls. One whose holder cannot be proved dead (another machine, boot or container)
 * is taken over by who has seen it for this long, by its own clock.
 */
const FOREIGN_HOLDER_MS = 60_000;

/** A wait longer than this means a holder that is alive and stuck, say stopped by a signal. */
const MAX_WAIT_MS = 120_000;

/**
 * Runs `work` while no other process runs work under the same name, on one machine. A holder that is killed does not
 * block the others.
 *
 * Generation n of the lock is `<name>.<n>`, a symbolic link that leads nowhere: symlink(2) lets one process win, and
 * its text, the owner, is there from the beginning. `<name>.gen` tells by its size the last generation that was given
 * back; truncate(2) sets it in one step. Neither needs room for data, so that objects can be removed from a full disk.
 * Giving back sets the size first and removes the link after.
 *
 * - The lock is held by who made the first file above `gen` that has no dead owner below it.
 * - Above a file with a dead owner one goes on to the next number instead of removing the file, so that two processes
 *   that both see the dead one cannot remove each other's lock: only one makes the next number.
 * - A file that was given back may be made again by a process that looked too early. It finds out, because `gen`, read
 *   after it was made, has reached its number: a file above `gen` is never removed.
 */
export async function withFileLock<T>(
  root: string,
  name: string,
  signal: AbortSignal,
  work: () => Promise<T>,
): Promise<T> {
  const base = join(root, LOCK_DIR, name);
  const held = await acquire(root, base, signal);
  try {
    return await work();
  } finally {
    await giveBack(base, held);
  }
}

interface Held {
  first: number;
  last: number;
}

/** Locks that this process could not give back, as on a failing disk: its next holder here does it, since nobody takes over from a process that is alive. */
const kept = new Map<string, Held[]>();

function keep(base: string, held: Held): void {
  kept.set(base, [...(kept.get(base) ?? []), held]);
}

async function giveBackKept(base: string): Promise<void> {
  const left = kept.get(base) ?? [];
  kept.delete(base);
  const given = await Promise.allSettled(left.map((held) => giveBack(base, held)));
  const failed = given.find((one) => one.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}

async function giveBack(base: string, held: Held): Promise<void> {
  try {
    // Never back: what was made too early, or was given back already, may lie far below others' locks by now.
    if ((await generation(base)) < held.last) await truncate(`${base}.gen`, held.last);
    for (let n = held.first; n <= held.last; n++) await unlinkIfThere(`${base}.${n}`);
  } catch (error) {
    keep(base, held);
    throw error;
  }
}

async function acquire(root: string, base: string, signal: AbortSignal): Promise<Held> {
  await prepare(root, base);
  const own = await ownIdentity();
  const began = performance.now();
  const seen = new Map<string, number>();
  for (;;) {
    throwIfAborted(signal);
    await giveBackKept(base);
    const first = (await generation(base)) + 1;
    const found = await firstFree(base, first, seen);
    if (found.holder !== undefined) {
      if (performance.now() - began > MAX_WAIT_MS) throw stuck(base, found.holder);
      await sleep(2 + Math.random() * 20, signal);
      continue;
    }
    if (!(await made(own, `${base}.${found.number}`))) continue;
    const held = { first, last: found.number };
    try {
      if ((await generation(base)) < found.number) return held;
      await unlinkIfThere(`${base}.${found.number}`);
    } catch (error) {
      keep(base, held);
      throw error;
    }
  }
}

/** The first number that nobody has, above those of dead owners, or the holder that is in the way. */
async function firstFree(
  base: string,
  first: number,
  seen: Map<string, number>,
): Promise<{ number: number; holder: string | undefined }> {
  for (let number = first; ; number++) {
    let owner: string;
    try {
      owner = await readlink(`${base}.${number}`);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return { number, holder: undefined };
      throw error;
    }
    const state = await processState(owner);
    if (state === 'dead') continue;
    const since = seen.get(`${number} ${owner}`) ?? performance.now();
    seen.set(`${number} ${owner}`, since);
    if (state === 'alive' || performance.now() - since < FOREIGN_HOLDER_MS) return { number, holder: owner };
  }
}

async function prepare(root: string, base: string): Promise<void> {
  try {
    await stat(`${base}.gen`);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
    await mkdir(join(root, LOCK_DIR), { recursive: true });
    await (await open(`${base}.gen`, 'a')).close();
  }
}

async function generation(base: string): Promise<number> {
  return (await stat(`${base}.gen`)).size;
}

async function made(owner: string, path: string): Promise<boolean> {
  try {
    await symlink(owner, path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return false;
    throw error;
  }
}

function stuck(base: string, holder: string): PresyncError {
  return new PresyncError(
    'STORE_FAILED',
    `the lock ${base} is held by process ${holder.split('.')[1] ?? holder}, which does not give it back`,
    {
      retryable: true,
      hint: 'see whether that process is stopped, and let it go on or end it',
    },
  );
}
