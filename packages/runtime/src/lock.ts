import { createHash } from 'node:crypto';
import { mkdir, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf, ioError, isPresyncError, PresyncError, throwIfAborted } from './errors.ts';
import { findFileHolder, lockByFile } from './lib/lock-file.ts';
import { findSocketHolder, lockBySocket } from './lib/lock-socket.ts';

export interface LockOptions {
  /** What is locked: locks of different names on one folder do not meet. */
  name: string;
  /** The folder that the lock protects; made when it is not there. */
  dir: string;
  signal: AbortSignal;
}

export interface Lock {
  /** Gives the lock back. May be called twice. */
  release(): Promise<void>;
}

/**
 * Takes the lock that only one presync at a time may hold, or rejects at once with LOCKED, naming the holder's process
 * when that can be known. However the holder dies, its lock dies with it.
 *
 * On Linux it is an abstract Unix socket (unix(7)), which the kernel removes with its process. Its name is made from
 * device and inode of the folder, so that every path to the folder, symbolic link or bind mount, gives the same lock.
 * It is known within one network namespace: containers with networks of their own do not see each other's.
 * Elsewhere it is a file in the folder that names the process; see `lib/lock-file.ts` for its limits.
 *
 * @throws PresyncError LOCKED, IO_FAILED, ABORTED
 */
export async function acquireLock(options: LockOptions): Promise<Lock> {
  const { name, dir, signal } = options;
  throwIfAborted(signal);
  let digest: string;
  try {
    await mkdir(dir, { recursive: true });
    digest = await digestOf(options);
  } catch (error) {
    throw ioError(error, 'lock', dir);
  }
  const outcome =
    process.platform === 'linux' ? await lockBySocket(digest, signal) : await lockByFile(dir, name);
  if ('release' in outcome) return outcome;
  const holder = outcome.holder === undefined ? '' : ` (process ${outcome.holder})`;
  throw new PresyncError('LOCKED', `another presync${holder} holds the ${name} lock on ${dir}`, {
    hint:
      outcome.holder === undefined
        ? 'wait until it has ended'
        : `wait until it has ended; "ps -p ${outcome.holder}" shows it`,
  });
}

async function digestOf({ name, dir }: LockOptions): Promise<string> {
  const { dev, ino } = await stat(dir, { bigint: true });
  return createHash('sha256').update(`${dev}:${ino}\0${name}`).digest('hex');
}

/**
 * Who holds the lock at this moment; undefined when nobody does. The lock is not taken for it, not even for a moment: nobody is turned away by the look.
 * The process is undefined when it cannot be known.
 *
 * @throws PresyncError IO_FAILED, ABORTED
 */
export async function lockHolder(options: LockOptions): Promise<{ pid: number | undefined } | undefined> {
  const { name, dir, signal } = options;
  throwIfAborted(signal);
  let digest: string;
  try {
    digest = await digestOf(options);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw ioError(error, 'look at the lock on', dir);
  }
  return process.platform === 'linux' ? findSocketHolder(digest) : findFileHolder(dir, name);
}

const LOOK_EVERY_MS = 50;

/**
 * As `acquireLock`, for what others hold for a moment only: waits for them, and rejects with LOCKED when they take longer than `patienceMs`.
 * `onWait` is told once, if there is a wait.
 *
 * @throws PresyncError LOCKED, IO_FAILED, ABORTED
 */
export async function waitForLock(
  options: LockOptions & { patienceMs: number; onWait?: ((reason: string) => void) | undefined },
): Promise<Lock> {
  const deadline = performance.now() + options.patienceMs;
  for (let waited = false; ; waited = true) {
    try {
      return await acquireLock(options);
    } catch (error) {
      if (!isPresyncError(error, 'LOCKED') || performance.now() > deadline) throw error;
      if (!waited) options.onWait?.(error.message);
    }
    await sleep(LOOK_EVERY_MS, undefined, { signal: options.signal }).catch(() =>
      throwIfAborted(options.signal),
    );
  }
}
