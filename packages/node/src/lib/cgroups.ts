import { type Dirent, existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, ioError, PresyncError } from '@presync/runtime/errors';
import { ancestors, descendsFrom, processStatus } from './proc.ts';

/** A cgroup that can be frozen. */
export interface FreezableCgroup {
  version: 1 | 2;
  /** Its folder. */
  dir: string;
}

/**
 * The cgroup that a process is in and that can be frozen: of version 2 where it has one of its own there, else that of the freezer of version 1.
 *
 * @returns undefined when it is in the root of each hierarchy, or there is no freezer
 * @throws IO_FAILED
 */
export function cgroupOf(pid: number): FreezableCgroup | undefined {
  const mounts = freezerMounts();
  const paths = read(`/proc/${pid}/cgroup`).split('\n');
  for (const version of [2, 1] as const) {
    const mount = mounts.find((candidate) => candidate.version === version);
    const path = paths
      .map((line) => /^\d+:([^:]*):(.*)$/.exec(line))
      .find((match) => (version === 2 ? match?.[1] === '' : match?.[1]?.split(',').includes('freezer')))?.[2];
    if (mount === undefined || path === undefined || path === '/' || path.split('/').includes('..')) continue;
    // In a container the mount may show a part of the hierarchy only.
    if (mount.root !== '/' && !path.startsWith(`${mount.root}/`)) continue;
    const dir = join(mount.point, mount.root === '/' ? path : path.slice(mount.root.length));
    if (existsSync(join(dir, version === 2 ? 'cgroup.freeze' : 'freezer.state'))) return { version, dir };
  }
  return undefined;
}

/** The folder of a cgroup of version 2 that systemd names. */
export function unifiedDir(path: string): string | undefined {
  const mount = freezerMounts().find(({ version }) => version === 2);
  return mount === undefined ? undefined : join(mount.point, path);
}

/** Every process in the cgroup and in those below it. */
export function processesIn(dir: string): number[] {
  const pids = read(join(dir, 'cgroup.procs')).split('\n').filter(Boolean).map(Number);
  let entries: Dirent[];
  try {
    entries = readdirSync(dir, { withFileTypes: true });
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return pids;
    throw ioError(error, 'list', dir);
  }
  return [
    ...pids,
    ...entries.filter((entry) => entry.isDirectory()).flatMap(({ name }) => processesIn(join(dir, name))),
  ];
}

/**
 * Refuses a cgroup that holds presync or what started it, and, when the node's process is given, whatever that has not started.
 *
 * @throws NODE_PAUSE_FAILED
 */
export function assertOnlyNode(dir: string, node?: number): void {
  const own = ancestors();
  for (const pid of processesIn(dir)) {
    // Of another PID namespace: it can be told from nobody.
    if (pid === 0) throw refused(dir, 'a process that cannot be seen from here is in it');
    if (own.has(pid)) throw refused(dir, `presync itself, or what started it (process ${pid}), is in it`);
    if (node !== undefined && !descendsFrom(pid, node)) {
      const status = processStatus(pid);
      // One that has ended since it was listed matters to nobody.
      if (status === undefined) continue;
      throw refused(dir, `process ${pid} (${status.command}) is in it, which the node has not started`);
    }
  }
}

function refused(dir: string, why: string): PresyncError {
  return new PresyncError('NODE_PAUSE_FAILED', `cgroup ${dir} is not frozen: ${why}`, {
    hint: 'run the node in a cgroup of its own, as a systemd service, or use --pause signal',
  });
}

interface FreezerMount {
  version: 1 | 2;
  point: string;
  /** Which part of the hierarchy is mounted there. */
  root: string;
}

function freezerMounts(): FreezerMount[] {
  const mounts: FreezerMount[] = [];
  for (const line of read('/proc/self/mountinfo').split('\n')) {
    // "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"
    const [left = '', right = ''] = line.split(' - ');
    const [, , , root = '', point = ''] = left.split(' ');
    const [type, , flags = ''] = right.split(' ');
    if (type === 'cgroup2') mounts.push({ version: 2, root, point });
    if (type === 'cgroup' && flags.split(',').includes('freezer')) mounts.push({ version: 1, root, point });
  }
  return mounts;
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ESRCH') return '';
    throw ioError(error, 'read', path);
  }
}
