import { constants } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { errnoOf, ioError, PresyncError, throwIfAborted } from '@presync/runtime/errors';

/** The first holder of any lock on the file, from /proc/locks; undefined when there is none. */
export async function holderOf(
  path: string,
  options: { signal: AbortSignal },
): Promise<{ pid?: number | undefined } | undefined> {
  throwIfAborted(options.signal);
  const id = await lockId(path);
  if (id === undefined) return undefined;
  const table = await readText('/proc/locks');
  throwIfAborted(options.signal);
  const pids: number[] = [];
  for (const line of table.split('\n')) {
    // "1: FLOCK  ADVISORY  WRITE 10993 fe:00:9986118 0 EOF"; one who only waits has "->" after the number.
    const match = /^\d+:\s+(?:POSIX|FLOCK|OFDLCK)\s+\S+\s+\S+\s+(-?\d+)\s+([0-9a-f]+:[0-9a-f]+:\d+)\s/.exec(
      line,
    );
    if (match?.[2] === id) pids.push(Number(match[1]));
  }
  if (pids.length === 0) return undefined;
  const pid = pids.find((candidate) => candidate > 0);
  return pid === undefined ? {} : { pid };
}

/**
 * The file as /proc/locks writes it. The device is the superblock's, which on btrfs is not the one that stat tells, so it
 * is read from the table of mounts.
 */
async function lockId(path: string): Promise<string | undefined> {
  try {
    // Opening a file of one's own and closing it again would drop one's own POSIX locks on it; presync never takes any.
    await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const { ino } = await file.stat({ bigint: true });
    const mountId = /^mnt_id:\s*(\d+)/m.exec(await readText(`/proc/self/fdinfo/${file.fd}`))?.[1];
    const mounts = await readText('/proc/self/mountinfo');
    const mount = mounts.split('\n').find((line) => line.startsWith(`${mountId} `));
    const device = mount?.split(' ')[2]?.split(':');
    if (device === undefined)
      throw new PresyncError('IO_FAILED', `the mount of ${path} is not in /proc/self/mountinfo`);
    const [major, minor] = device.map((part) => Number(part).toString(16).padStart(2, '0'));
    return `${major}:${minor}:${ino}`;
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
