import type { Dirent } from 'node:fs';
import { lstat, opendir } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, throwIfAborted } from '@presync/runtime/errors';
import { isKey, isKeySegment } from '../keys.ts';
import type { ObjectInfo } from '../object-store.ts';
import { versionOf } from './file-write.ts';

/**
 * The objects below `folder` (whose keys begin with `base`, empty or ending in `/`) whose names there begin with
 * `start`, in key order. Holds the names of one folder a level at a time. What can be no object is passed over: links,
 * devices, and names that no key has, as `.tmp` or `lost+found`.
 */
export async function* walk(
  folder: string,
  base: string,
  start: string,
  signal: AbortSignal,
): AsyncGenerator<ObjectInfo> {
  for (const entry of await sortedEntries(folder, start, signal)) {
    throwIfAborted(signal);
    const key = base + entry.name;
    const path = join(folder, entry.name);
    if (entry.isFolder) {
      yield* walk(path, `${key}/`, '', signal);
      continue;
    }
    if (!isKey(key)) continue;
    try {
      const stats = await lstat(path, { bigint: true });
      if (stats.isFile()) yield { key, size: Number(stats.size), version: versionOf(stats) };
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error; // removed since the folder was read
    }
  }
}

interface Entry {
  name: string;
  isFolder: boolean;
}

async function sortedEntries(folder: string, start: string, signal: AbortSignal): Promise<Entry[]> {
  const entries: Entry[] = [];
  try {
    for await (const entry of await opendir(folder, { bufferSize: 256 })) {
      throwIfAborted(signal);
      if (isCandidate(entry, start)) entries.push({ name: entry.name, isFolder: entry.isDirectory() });
    }
  } catch (error) {
    const code = errnoOf(error);
    if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error; // removed since its parent was read
  }
  // Keys are compared as a whole, so a folder sorts as its name and the `/` that follows it: `a.b`, then `a/b`.
  const sortKey = (entry: Entry): string => (entry.isFolder ? `${entry.name}/` : entry.name);
  return entries.sort((a, b) => (sortKey(a) < sortKey(b) ? -1 : 1));
}

function isCandidate(entry: Dirent, start: string): boolean {
  return (entry.isFile() || entry.isDirectory()) && entry.name.startsWith(start) && isKeySegment(entry.name);
}
