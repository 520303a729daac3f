import { readdir, rm, stat, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { zeroDigest } from '@presync/format/digest';
import type { IndexedChunk } from '@presync/format/index-file';
import type { Manifest } from '@presync/format/manifest';
import { errnoOf, PresyncError } from '@presync/runtime/errors';
import { formatBytes } from '@presync/runtime/units';
import { durableRename } from './durable.ts';
import { exists, type PartPaths, partOf, stagedBytes } from './stage.ts';

/** What a restore needs on one disk. Bytes. */
export interface RoomNeed {
  /** A folder on the disk that is there. */
  dir: string;
  free: number;
  /** What is still to be written. */
  needed: number;
  /** What the databases there take that would be replaced. */
  old: number;
}

/** What each part's chunks take, as the index tells; for targets on one disk the manifest's totals tell it. */
export type CountedRoom = Map<PartPaths, number>;

/** True when the parts go to several disks, so that the index must be counted. */
export async function isOnSeveralDisks(parts: readonly PartPaths[]): Promise<boolean> {
  const devices = new Set<number>();
  for (const { work } of parts) devices.add((await stat(await existing(work))).dev);
  return devices.size > 1;
}

/** Adds what a chunk will take in each part. Zeros take nothing: they are holes. */
export function countRoom(
  counted: CountedRoom,
  chunk: IndexedChunk,
  chunkSize: number,
  parts: readonly PartPaths[],
): void {
  if (chunk.sha256 === zeroDigest(chunkSize)) return;
  for (const segment of chunk.segments) {
    if (segment.kind !== 'data') continue;
    const part = partOf(parts, segment.file);
    counted.set(part, (counted.get(part) ?? 0) + segment.length);
  }
}

/** What is needed on each disk. Without `counted` all parts are taken to be on one. */
export async function roomNeeds(
  parts: readonly PartPaths[],
  { totals }: Manifest,
  counted?: CountedRoom | undefined,
): Promise<RoomNeed[]> {
  const disks = new Map<number, RoomNeed>();
  for (const part of parts) {
    const dir = await existing(part.work);
    const { dev } = counted === undefined ? { dev: 0 } : await stat(dir);
    let need = disks.get(dev);
    if (need === undefined) {
      need = { dir, free: await freeBytes(dir), needed: 0, old: 0 };
      // Repeated chunks, zeros above all, are counted once: holes take no room.
      if (counted === undefined) need.needed = Math.min(totals.bytes, totals.unique);
      disks.set(dev, need);
    }
    need.needed += (counted?.get(part) ?? 0) - (await stagedBytes(part));
    if (part.within === undefined) need.old += await allocatedBytes(part.target);
  }
  for (const need of disks.values()) need.needed = Math.max(0, need.needed);
  return [...disks.values()];
}

/** The disks that have not room enough. */
export function shortOfRoom(needs: readonly RoomNeed[]): RoomNeed[] {
  return needs.filter(({ free, needed }) => free < needed);
}

/** NO_SPACE where a disk has no room; `freeing` counts in what removing the old databases would give. */
export function assertRoom(needs: readonly RoomNeed[], { freeing }: { freeing: boolean }): void {
  const short = shortOfRoom(needs).find(({ free, needed, old }) => !freeing || free + old < needed);
  if (short === undefined) return;
  const { dir, free, needed, old } = short;
  const missing = formatBytes(needed - free);
  const helps = !freeing && old > 0 && free + old >= needed;
  throw new PresyncError(
    'NO_SPACE',
    `${dir} has ${free} bytes free, and the snapshot needs ${needed} more: ${missing} are missing`,
    {
      hint: helps
        ? `use a larger disk, or say --free-room: then the old database (${formatBytes(old)}) is removed before the new one is there, and there is none if the restore fails`
        : 'use a larger disk, or remove what is not needed; a database that is replaced stays until the new one is complete',
    },
  );
}

/**
 * Removes old databases before there are new ones. Each is moved away at once, so that no node ever finds a part of one; the
 * first part's first, as in a swap.
 */
export async function removeOld(parts: readonly PartPaths[]): Promise<void> {
  for (const part of parts) {
    if (part.within !== undefined || !(await exists(part.target))) continue;
    try {
      await durableRename(part.target, removedPath(part));
    } catch (error) {
      if (errnoOf(error) !== 'EBUSY' && errnoOf(error) !== 'EXDEV') throw error;
      throw new PresyncError('TARGET_UNWRITABLE', `${part.target} cannot be removed: it is a mount point`, {
        cause: error,
        hint: 'mount the volume at the base path or at the folder above the database',
      });
    }
  }
  await clearRemoved(parts);
}

/** Removes what a killed `removeOld` has left. */
export async function clearRemoved(parts: readonly PartPaths[]): Promise<void> {
  for (const part of parts) await rm(removedPath(part), { recursive: true, force: true });
}

function removedPath({ replaced }: PartPaths): string {
  return `${replaced}-first`;
}

async function freeBytes(dir: string): Promise<number> {
  const { bavail, bsize } = await statfs(dir);
  return bavail * bsize;
}

/** What a folder's files take on disk; 0 when it is not there. */
async function allocatedBytes(dir: string): Promise<number> {
  let bytes = 0;
  try {
    for (const entry of await readdir(dir, { withFileTypes: true, recursive: true }))
      if (entry.isFile()) bytes += (await stat(join(entry.parentPath, entry.name))).blocks * 512;
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
  return bytes;
}

/** The path itself, or the nearest folder above that is there. */
async function existing(path: string): Promise<string> {
  let found = path;
  while (!(await exists(found))) found = dirname(found);
  return found;
}
