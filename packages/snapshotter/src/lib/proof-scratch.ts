import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isAlive, ownProcess, type ProcessId } from '@presync/node/processes';
import { errnoOf, ioError } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';

/** Beside the restored copy: which process looks after the node. */
export const OWNER_FILE = 'supervisor';

/** `proof-<pid>-<start time>-<random>`: the name tells whose it is. */
const FOLDER = /^proof-(\d{1,10})-(\d{1,20})-[0-9a-f]{16}$/;

/** A new folder, mode 0700, for one proof. */
export async function createProofFolder(parent: string): Promise<string> {
  const { pid, startTime } = ownProcess();
  const dir = join(parent, `proof-${pid}-${startTime}-${randomBytes(8).toString('hex')}`);
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw ioError(error, 'make the folder', dir);
  }
  return dir;
}

/** Ends the proof nodes and removes the copies that presyncs which were killed have left. Those of living ones are left alone. */
export async function clearProofs(parent: string, log: Logger): Promise<void> {
  for (const name of await names(parent)) {
    const [, pid, startTime = ''] = FOLDER.exec(name) ?? [];
    if (pid === undefined || isAlive({ pid: Number(pid), startTime })) continue;
    const dir = join(parent, name);
    const left = await readOwner(dir);
    if (left !== undefined && isAlive(left)) {
      try {
        process.kill(-left.pid, 'SIGKILL');
      } catch (error) {
        if (errnoOf(error) !== 'ESRCH') throw ioError(error, 'end the proof node of', dir);
      }
    }
    log.warn('proof.left', 'a proof that was killed is cleared away', { dir });
    await removeProofFolder(dir);
  }
}

/** May be called twice. */
export async function removeProofFolder(dir: string): Promise<void> {
  try {
    await rm(dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  } catch (error) {
    throw ioError(error, 'remove', dir);
  }
}

async function readOwner(dir: string): Promise<ProcessId | undefined> {
  try {
    const [, pid, startTime] = /^(\d+) (\d+)\n$/.exec(await readFile(join(dir, OWNER_FILE), 'utf8')) ?? [];
    return pid === undefined || startTime === undefined ? undefined : { pid: Number(pid), startTime };
  } catch {
    // Killed before it was written, or while: then there was no node yet.
    return undefined;
  }
}

async function names(parent: string): Promise<string[]> {
  try {
    return await readdir(parent);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw ioError(error, 'list', parent);
  }
}
