/** The checks of this machine: disk, limits, clock. */
import { readdir, stat, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { errnoOf, ioError } from '@presync/runtime/errors';
import { formatBytes, formatDuration } from '@presync/runtime/units';
import { stagedSoFar } from '@presync/transfer/staged';
import { type DiskKind, diskKind } from './disk-kind.ts';
import { type Finding, pass, refusal, warning } from './finding.ts';
import type { PreflightContext, SubjectPart } from './preflight-context.ts';

function targetOf({ basePath, path }: SubjectPart): string {
  return join(basePath, ...path.split('/'));
}

/** Room on the disks of the parts; what each of several disks needs only the index tells, which the restore reads first. */
export async function checkRoom({
  subject,
  restores,
  reserve,
  freeRoom,
}: PreflightContext): Promise<Finding[]> {
  const { bytes, parts } = subject;
  const [first] = parts;
  if (!restores || bytes === undefined || first === undefined) return [];
  const disks = new Map<number, { free: number; path: string }>();
  for (const part of parts) {
    // It is put together beside its place.
    const disk = await diskOf(dirname(targetOf(part)));
    if (!disks.has(disk.dev)) disks.set(disk.dev, { ...disk, path: targetOf(part) });
  }
  const staged = await stagedSoFar(parts.map((part) => ({ part: part.path, target: targetOf(part) })));
  const needed = Math.max(0, bytes - staged);
  const free = [...disks.values()].reduce((sum, disk) => sum + disk.free, 0);
  const where = [...disks.values()].map(({ path }) => path).join(' and ');
  const old = await sizeOf(parts);
  const goes = freeRoom === true && free < needed;
  const stays =
    old === 0
      ? ''
      : goes
        ? `; the old database (${formatBytes(old)}) is removed first (--free-room)`
        : `; the old database (${formatBytes(old)}) stays until the new one is whole`;
  const hint = 'use a larger disk, or remove what is not needed';
  const usable = goes ? free + old : free;
  if (usable < needed) {
    return [
      refusal(
        'room',
        'NO_SPACE',
        `${where} has ${free} bytes free, and the snapshot needs ${needed} more${stays}`,
        old > 0 && free + old >= needed
          ? `${hint}; or say --existing replace --free-room: then the old database is removed before the new one is there, and there is none if the restore fails`
          : hint,
      ),
    ];
  }
  const left = usable - needed;
  const rest = `${where} has ${formatBytes(free)} free, of which the snapshot needs ${formatBytes(needed)}${stays}`;
  if (left < reserve) {
    return [
      refusal(
        'room',
        'NO_SPACE',
        `${rest}: less than ${formatBytes(reserve)} would be left for the node, which stops itself when its disk is nearly full`,
        `${hint}, or change what must stay free, with --disk-reserve`,
      ),
    ];
  }
  return [pass('room', rest)];
}

async function diskOf(path: string): Promise<{ dev: number; free: number }> {
  for (let current = path; ; current = dirname(current)) {
    try {
      const { dev } = await stat(current);
      const { bavail, bsize } = await statfs(current);
      return { dev, free: bavail * bsize };
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT' || dirname(current) === current)
        throw ioError(error, 'look at the file system of', path);
    }
  }
}

/** Bytes on disk of the databases that are there. */
async function sizeOf(parts: readonly SubjectPart[]): Promise<number> {
  let bytes = 0;
  for (const part of parts) {
    const target = targetOf(part);
    const files = await readdir(target).catch(() => []);
    for (const name of files)
      bytes += ((await stat(join(target, name)).catch(() => undefined))?.blocks ?? 0) * 512;
  }
  return bytes;
}

const MEDIA: Readonly<
  Record<Exclude<DiskKind['medium'], 'solid' | 'unknown'>, { is: string; hint: string }>
> = {
  rotating: {
    is: 'a disk that rotates, on which a node falls behind its chain',
    hint: 'use a solid-state disk, best NVMe',
  },
  memory: {
    is: 'memory, and is gone after a reboot',
    hint: 'mount a disk there, if that is not meant',
  },
  network: {
    is: 'a file system over the network or in user space, on which databases are slow and their locks may not hold',
    hint: 'use a disk of this machine, or a block volume',
  },
  overlay: {
    is: "a container's own layer, which is slow and goes with the container",
    hint: 'mount a volume there',
  },
};

export async function checkDisk({ subject }: PreflightContext): Promise<Finding[]> {
  const findings = new Map<string, Finding>();
  for (const part of subject.parts) {
    const { medium, mountPoint, fileSystem, source } = await diskKind(targetOf(part));
    const disk = `${mountPoint} (${fileSystem} on ${source})`;
    if (medium === 'unknown' || medium === 'solid') {
      if (fileSystem !== '') findings.set(mountPoint, pass('disk', `the database goes to ${disk}`));
      continue;
    }
    const { is, hint } = MEDIA[medium];
    findings.set(mountPoint, warning('disk', `the database goes to ${disk}, which is ${is}`, hint));
  }
  return [...findings.values()];
}

/** What nodes are recommended to have (sdk `client/cli/src/config.rs`, `RECOMMENDED_OPEN_FILE_DESCRIPTOR_LIMIT`). */
const RECOMMENDED_FILES = 10_000;
/** kvdb-rocksdb keeps no more of a database's tables open at a time (`DatabaseConfig::max_open_files`). ParityDB has all of its files open. */
const ROCKSDB_OPEN = 512;
/** What polkadot-omni-node 1.25.1 was seen to have open beside its database, without peers and without clients. */
const OTHER_FILES = 28;

/** A node raises its limit as far as it may, so that the hard one counts. */
export function checkFiles({ node, subject }: PreflightContext): Finding[] {
  const limit = node?.openFiles;
  if (node === undefined || limit === undefined) return [];
  const { files = 0, parts } = subject;
  const most = parts.some(({ backend }) => backend === 'rocksdb') ? ROCKSDB_OPEN * parts.length : files;
  const needed = OTHER_FILES + Math.min(files, most);
  const isUnit = node.container === undefined && node.name.endsWith('.service');
  const hint = isUnit
    ? `put LimitNOFILE=65536 into [Service] of ${node.name}`
    : `raise the hard limit of open files to 65536 (${node.container === undefined ? 'ulimit -Hn' : '--ulimit nofile=65536'})`;
  const has = `${node.name} may have ${Number.isFinite(limit) ? limit : 'any number of'} files open`;
  if (limit < needed)
    return [refusal('files', 'TARGET_LIMITS', `${has}, and a node with this database needs ${needed}`, hint)];
  if (limit < RECOMMENDED_FILES)
    return [
      warning(
        'files',
        `${has}, fewer than the ${RECOMMENDED_FILES} that nodes are recommended to have`,
        hint,
      ),
    ];
  return [pass('files', has)];
}

export function checkClock({ clock }: PreflightContext): Finding[] {
  if (clock === undefined) return [];
  const { skewMs, verdict } = clock;
  const off = formatDuration(Math.abs(skewMs));
  const message = `the store's clock is ${off} ${skewMs < 0 ? 'behind' : 'ahead of'} that of this machine`;
  if (verdict === 'ok') return [pass('clock', "the store's clock agrees with that of this machine")];
  const hint =
    "set this machine's clock (timedatectl set-ntp true, chrony): a node refuses blocks from the future, and stores what is signed at another time";
  return [
    verdict === 'error' ? refusal('clock', 'TARGET_CLOCK', message, hint) : warning('clock', message, hint),
  ];
}
