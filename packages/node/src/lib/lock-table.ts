import { constants, readdirSync, statSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { errnoOf, ioError, PresyncError, throwIfAborted } from '@presync/runtime/errors';

/** The first holder of any lock on the file, from /proc/locks; undefined when there is none. */
export async function holderOf(
  path: string,
  options: { signal: AbortSignal },
): Promise<{ pid?: number | undefined } | undefined> {
  throwIfAborted(options.signal);
  const file = await lockId(path);
  if (file === undefined) return undefined;
  const table = await readText('/proc/locks');
  throwIfAborted(options.signal);
  const pids: number[] = [];
  for (const line of table.split('\n')) {
    // "1: FLOCK  ADVISORY  WRITE 10993 fe:00:9986118 0 EOF"; one who only waits has "->" after the number.
    const match = /^\d+:\s+(?:POSIX|FLOCK|OFDLCK)\s+\S+\s+\S+\s+(-?\d+)\s+([0-9a-f]+:[0-9a-f]+:\d+)\s/.exec(
      line,
    );
    if (match?.[2] === file.id) pids.push(Number(match[1]));
  }
  const holders = file.shared ? pids.filter((pid) => !holdsTwinOf(pid, file)) : pids;
  if (holders.length === 0) return undefined;
  const pid = holders.find((candidate) => candidate > 0);
  return pid === undefined ? {} : { pid };
}

interface LockedFile {
  /** As /proc/locks writes it. */
  id: string;
  ino: bigint;
  /** As stat tells it. */
  dev: bigint;
  /** True when files of other devices may have the same id. */
  shared: boolean;
}

/**
 * True when it can be seen that the process has the file open of which this one is a copy, and not this one: a snapshot of a btrfs subvolume has
 * the original's inode numbers, and /proc/locks does not tell the subvolume.
 */
function holdsTwinOf(pid: number, { ino, dev }: LockedFile): boolean {
  let twin = false;
  try {
    for (const fd of readdirSync(`/proc/${pid}/fd`)) {
      const found = statSync(`/proc/${pid}/fd/${fd}`, { bigint: true, throwIfNoEntry: false });
      if (found?.ino !== ino) continue;
      if (found.dev === dev) return false;
      twin = true;
    }
  } catch {
    // Another user's process: then it counts as a holder.
    return false;
  }
  return twin;
}

/**
 * The file as /proc/locks writes it. The device is the superblock's, which on btrfs is not the one that stat tells, so it
 * is read from the table of mounts.
 */
async function lockId(path: string): Promise<LockedFile | undefined> {
  try {
    // Opening a file of one's own and closing it again would drop one's own POSIX locks on it; presync never takes any.
    await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const { ino, dev } = await file.stat({ bigint: true });
    const mountId = /^mnt_id:\s*(\d+)/m.exec(await readText(`/proc/self/fdinfo/${file.fd}`))?.[1];
    const mounts = await readText('/proc/self/mountinfo');
    const mount = mounts.split('\n').find((line) => line.startsWith(`${mountId} `));
    const device = mount?.split(' ')[2]?.split(':');
    if (device === undefined)
      throw new PresyncError('IO_FAILED', `the mount of ${path} is not in /proc/self/mountinfo`);
    const [major = 0, minor = 0] = device.map(Number);
    const hex = (part: number) => part.toString(16).padStart(2, '0');
    return {
      id: `${hex(major)}:${hex(minor)}:${ino}`,
      ino,
      dev,
      // As the kernel makes one number of the two.
      shared: dev !== BigInt((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)),
    };
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw ioError(error, 'look at the lock', path);
  }
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'latin1');
  } catch (error) {
    throw ioError(error, 'read', path);
  }
}
