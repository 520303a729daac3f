import { readdir, readFile, readlink } from 'node:fs/promises';
import { hostname } from 'node:os';
import { errnoOf } from '@presync/runtime/errors';

/**
 * Names one process for as long as the machine is up, in characters that a file name may have:
 * `<space>.<pid>.<start time>`. The space is the boot and the pid namespace; a process of another space can be neither
 * proved alive nor proved dead from here.
 */
type ProcessIdentity = string;

let own: Promise<ProcessIdentity> | undefined;

/** The identity of this process. */
export function ownIdentity(): Promise<ProcessIdentity> {
  own ??= (async () =>
    `${await ownSpace()}.${process.pid}.${(await procStat(process.pid))?.started ?? '0'}`)();
  return own;
}

/** `unknown` for a process of another machine, boot or container, and for what is not an identity. */
export async function processState(identity: string): Promise<'alive' | 'dead' | 'unknown'> {
  const [space, pidText, started] = identity.split('.');
  const pid = Number(pidText);
  if (started === undefined || !Number.isSafeInteger(pid) || pid <= 0) return 'unknown';
  if (identity === (await ownIdentity())) return 'alive';
  if (space !== (await ownSpace())) return 'unknown';
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (errnoOf(error) === 'ESRCH') return 'dead';
    // EPERM: there is such a process, of another user.
  }
  const stat = await procStat(pid);
  if (stat === undefined) return process.platform === 'linux' ? 'dead' : 'alive';
  if (stat.started !== started) return 'dead';
  return stat.state === 'Z' || stat.state === 'X' ? threadsState(pid) : 'alive';
}

async function ownSpace(): Promise<string> {
  try {
    const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
    const namespace = (await readlink('/proc/self/ns/pid')).replaceAll(/\D/g, '');
    // Short: ext4 keeps the target of a symbolic link of less than 60 bytes in the inode.
    return `${boot.slice(0, 13)}-${namespace}`;
  } catch {
    // No /proc (not Linux): the machine's name is the best that there is.
    return hostname()
      .replaceAll(/[^A-Za-z0-9-]/g, '-')
      .slice(0, 24);
  }
}

/** A killed process is a zombie until it is reaped; its last threads may still be inside a system call, as a rename. */
async function threadsState(pid: number): Promise<'alive' | 'dead'> {
  try {
    for (const thread of await readdir(`/proc/${pid}/task`)) {
      const state = await statFields(`/proc/${pid}/task/${thread}/stat`);
      if (state !== undefined && state.state !== 'Z' && state.state !== 'X') return 'alive';
    }
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT' && errnoOf(error) !== 'ESRCH') throw error;
  }
  return 'dead';
}

function procStat(pid: number): Promise<{ state: string; started: string } | undefined> {
  return statFields(`/proc/${pid}/stat`);
}

/** proc(5): field 2 is the command in parentheses, which may hold anything; 3 is the state, 22 the start in clock ticks. */
async function statFields(path: string): Promise<{ state: string; started: string } | undefined> {
  try {
    const text = await readFile(path, 'utf8');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return { state: fields[0] ?? '', started: fields[19] ?? '0' };
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES') return undefined;
    throw error;
  }
}
