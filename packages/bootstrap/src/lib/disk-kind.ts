import { readFile, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { errnoOf, ioError } from '@presync/runtime/errors';

/** What a folder lies on. */
export interface DiskKind {
  mountPoint: string;
  /** As in /proc/mounts: `ext4`, `nfs4`, `tmpfs`. */
  fileSystem: string;
  /** `/dev/nvme1n1p1`, or what else was mounted. */
  source: string;
  medium: 'solid' | 'rotating' | 'memory' | 'network' | 'overlay' | 'unknown';
}

const MEMORY = new Set(['tmpfs', 'ramfs']);
const OVERLAY = new Set(['overlay', 'aufs', 'fuse.fuse-overlayfs']);
const NETWORK =
  /^(?:nfs4?|cifs|smb3?|smbfs|ceph|glusterfs|9p|afs|lustre|gpfs|beegfs|virtiofs|fuse\.(?!fuse-overlayfs|ntfs).*)$/;

/**
 * What a path lies on, from Linux's own tables (proc_pid_mountinfo(5), /sys/dev/block). A disk of a virtual machine
 * says that it rotates whatever is beneath it, so that `rotating` is only said of others. `unknown` elsewhere.
 */
export async function diskKind(path: string): Promise<DiskKind> {
  const { real, dev } = await nearest(path);
  const mount = mountOf(real, await readFile('/proc/self/mountinfo', 'utf8').catch(() => ''));
  if (mount === undefined) return { mountPoint: '', fileSystem: '', source: '', medium: 'unknown' };
  return { ...mount, medium: await mediumOf(mount, dev) };
}

async function nearest(path: string): Promise<{ real: string; dev: number }> {
  for (let current = path; ; current = dirname(current)) {
    try {
      const real = await realpath(current);
      return { real, dev: (await stat(real)).dev };
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT' || dirname(current) === current)
        throw ioError(error, 'look at the file system of', path);
    }
  }
}

/** The mount that a path without symbolic links lies in: the deepest one, and of several in one place the last. */
export function mountOf(path: string, mountinfo: string): Omit<DiskKind, 'medium'> | undefined {
  let found: Omit<DiskKind, 'medium'> | undefined;
  for (const line of mountinfo.split('\n')) {
    const [before, after] = line.split(' - ');
    const mountPoint = decodeOctal(before?.split(' ')[4] ?? '');
    const [fileSystem, source] = (after ?? '').split(' ');
    if (fileSystem === undefined || source === undefined || mountPoint === '') continue;
    const within = path === mountPoint || path.startsWith(mountPoint === '/' ? '/' : `${mountPoint}/`);
    if (within && mountPoint.length >= (found?.mountPoint.length ?? 0))
      found = { mountPoint, fileSystem, source: decodeOctal(source) };
  }
  return found;
}

/** Blanks and the like stand as three octal digits. */
function decodeOctal(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

async function mediumOf(
  { fileSystem, source }: Omit<DiskKind, 'medium'>,
  dev: number,
): Promise<DiskKind['medium']> {
  if (MEMORY.has(fileSystem)) return 'memory';
  if (OVERLAY.has(fileSystem)) return 'overlay';
  if (NETWORK.test(fileSystem)) return 'network';
  const device = await deviceOf(source, dev);
  if (device === undefined) return 'unknown';
  const text = (await readFile(join(device, 'queue/rotational'), 'utf8').catch(() => '')).trim();
  if (text === '0') return 'solid';
  return text === '1' && !(await isVirtual(device)) ? 'rotating' : 'unknown';
}

/** The whole disk's folder in /sys. */
async function deviceOf(source: string, dev: number): Promise<string | undefined> {
  // btrfs and overlays have devices of their own making, which /sys does not know.
  const rdev = source.startsWith('/dev/') ? (await stat(source).catch(() => undefined))?.rdev : undefined;
  for (const number of [dev, rdev]) {
    if (number === undefined) continue;
    const path = await realpath(`/sys/dev/block/${numberOf(number)}`).catch(() => undefined);
    if (path === undefined) continue;
    const isPartition = (await readFile(join(path, 'partition'), 'utf8').catch(() => '')) !== '';
    return isPartition ? dirname(path) : path;
  }
  return undefined;
}

/** As makedev(3) of glibc puts them together. */
function numberOf(dev: number): string {
  const bits = BigInt(dev);
  const major = ((bits >> 8n) & 0xfffn) | ((bits >> 32n) & ~0xfffn);
  const minor = (bits & 0xffn) | ((bits >> 12n) & ~0xffn);
  return `${major}:${minor & 0xffffffffn}`;
}

/** Of virtio, Xen, Hyper-V, VMware, QEMU and Google. */
async function isVirtual(device: string): Promise<boolean> {
  if (/^(?:vd|xvd)/.test(basename(device))) return true;
  const vendor = await readFile(join(device, 'device/vendor'), 'utf8').catch(() => '');
  const model = await readFile(join(device, 'device/model'), 'utf8').catch(() => '');
  return /QEMU|VMware|Msft|Google|VBOX|Virtual|EphemeralDisk|PersistentDisk/i.test(`${vendor} ${model}`);
}
