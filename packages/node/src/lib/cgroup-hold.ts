import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf, ioError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { type FreezableCgroup, processesIn } from './cgroups.ts';
import type { Hold } from './hold.ts';

/** A task in a system call that cannot be interrupted freezes only when the call returns. */
const MAX_FREEZE_MS = 10_000;
/** A cgroup needs no more than a moment to thaw. */
const THAW_TIMEOUT_MS = 5000;

/** The kernel's freezer, of either version. Nothing is remembered: a cgroup that is not frozen can be thawed as well. */
export function createCgroupHold(cgroup: FreezableCgroup): Hold {
  const { dir, version } = cgroup;
  const [file, freeze, thaw] =
    version === 2 ? (['cgroup.freeze', '1', '0'] as const) : (['freezer.state', 'FROZEN', 'THAWED'] as const);
  const control = join(dir, file);
  return {
    target: { kind: 'cgroup', version, dir },
    emergency: {
      script: '[ ! -e "$1" ] || echo "$2" >"$1"',
      gone: '[ ! -e "$1" ]',
      args: [control, thaw],
    },
    assertFree: async () => {
      if (processesIn(dir).length === 0)
        throw new PresyncError('NODE_NOT_RUNNING', `no process is in cgroup ${dir}`, {
          hint: 'start the node',
        });
      if (isThawed(cgroup)) return;
      throw new PresyncError('NODE_PAUSE_FAILED', `cgroup ${dir} is frozen already, and not by presync`, {
        hint: `find out who froze it; echo ${thaw} > ${control} thaws it`,
      });
    },
    hold: async ({ timeoutMs, signal }) => {
      await write(control, freeze, 'NODE_PAUSE_FAILED');
      const limit = Math.min(timeoutMs, MAX_FREEZE_MS);
      const deadline = performance.now() + limit;
      while (!isFrozen(cgroup)) {
        throwIfAborted(signal);
        if (performance.now() > deadline) {
          throw new PresyncError('NODE_PAUSE_FAILED', `cgroup ${dir} was not frozen within ${limit} ms`, {
            hint: 'look whether the disk is overloaded',
            retryable: true,
          });
        }
        await sleep(1);
      }
    },
    isHeld: async () => isFrozen(cgroup),
    release: async () => {
      const frozen = !isThawed(cgroup);
      // A cgroup goes when the last of its processes has ended.
      if (!(await write(control, thaw, 'NODE_RESUME_FAILED'))) return 'gone';
      const deadline = performance.now() + THAW_TIMEOUT_MS;
      while (!isThawed(cgroup)) {
        if (performance.now() > deadline) {
          throw new PresyncError('NODE_RESUME_FAILED', `cgroup ${dir} stays frozen`, {
            hint: `echo ${thaw} > ${control} as root, and look whether a cgroup above it is frozen`,
          });
        }
        await sleep(1);
      }
      if (processesIn(dir).length === 0) return 'gone';
      return frozen ? 'resumed' : 'running';
    },
  };
}

/** True when the cgroup stands still as a whole, by its own freezer. */
function isFrozen({ dir, version }: FreezableCgroup): boolean {
  if (version === 1) return state(dir, 'freezer.state') === 'FROZEN';
  return state(dir, 'cgroup.freeze') === '1' && /^frozen 1$/m.test(state(dir, 'cgroup.events'));
}

/** True also when it is gone. */
function isThawed({ dir, version }: FreezableCgroup): boolean {
  if (version === 1) return ['THAWED', ''].includes(state(dir, 'freezer.state'));
  return state(dir, 'cgroup.freeze') !== '1' && !/^frozen 1$/m.test(state(dir, 'cgroup.events'));
}

function state(dir: string, file: string): string {
  const path = join(dir, file);
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    if (isGone(error)) return '';
    throw ioError(error, 'read', path);
  }
}

/** False when the cgroup is gone and the failure is to be none. */
async function write(
  control: string,
  value: string,
  code: 'NODE_PAUSE_FAILED' | 'NODE_RESUME_FAILED',
): Promise<boolean> {
  try {
    await writeFile(control, value, { flag: 'r+' });
    return true;
  } catch (error) {
    if (isGone(error) && code === 'NODE_RESUME_FAILED') return false;
    throw new PresyncError(code, `${value} cannot be written to ${control}`, {
      cause: error,
      hint: 'run presync as root, or as the user to whom the cgroup is delegated',
    });
  }
}

function isGone(error: unknown): boolean {
  return errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENODEV';
}
