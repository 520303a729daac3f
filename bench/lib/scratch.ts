import { createHash } from 'node:crypto';
import { open, readdir, readFile, rename, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { cpus, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { run } from './measure.ts';

const MIB = 1024 * 1024;

/** Sum of the files' apparent and allocated bytes below a folder. Files that vanish meanwhile do not count. */
export async function folderBytes(
  folder: string,
): Promise<{ bytes: number; allocated: number; files: number }> {
  const sum = { bytes: 0, allocated: 0, files: 0 };
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const info = await stat(join(entry.parentPath, entry.name));
    sum.bytes += info.size;
    sum.allocated += info.blocks * 512;
    sum.files += 1;
  }
  return sum;
}

/** Marks what stands in a folder; the function that it returns gives the bytes of files that are new or changed since. */
export async function watchFolder(folder: string): Promise<() => Promise<number>> {
  const read = async (): Promise<Map<string, { size: number; mark: string }>> => {
    const files = new Map<string, { size: number; mark: string }>();
    for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const path = join(entry.parentPath, entry.name);
      const info = await stat(path, { bigint: true });
      files.set(path, { size: Number(info.size), mark: `${info.ino} ${info.mtimeNs} ${info.size}` });
    }
    return files;
  };
  const before = await read();
  return async () => {
    let bytes = 0;
    for (const [path, file] of await read()) if (before.get(path)?.mark !== file.mark) bytes += file.size;
    return bytes;
  };
}

/** Throws with the first difference that `diff` finds between two trees. */
export async function assertSameTree(expected: string, actual: string, signal: AbortSignal): Promise<void> {
  await run('diff', ['-rq', expected, actual], signal);
}

/** Writes out what is dirty and forgets what is cached, where that is allowed. Returns whether it was. */
export async function dropCaches(path: string, signal: AbortSignal): Promise<boolean> {
  await run('sync', ['-f', path], signal);
  try {
    await writeFile('/proc/sys/vm/drop_caches', '3');
    return true;
  } catch {
    // Only root may; the report says that caches were warm.
    return false;
  }
}

/** Sequential write with fsync and cold read of one file. */
export async function measureDisk(folder: string, bytes: number, signal: AbortSignal) {
  const path = join(folder, 'disk-speed');
  const block = createHash('sha256').update('disk').digest();
  const buffer = Buffer.alloc(4 * MIB, block);
  const handle = await open(path, 'w');
  const started = performance.now();
  for (let offset = 0; offset < bytes; offset += buffer.length)
    await handle.write(buffer, 0, buffer.length, offset);
  await handle.sync();
  const wrote = performance.now();
  await handle.close();
  await dropCaches(folder, signal);
  const reader = await open(path, 'r');
  const before = performance.now();
  let position = 0;
  for (;;) {
    const { bytesRead } = await reader.read(buffer, 0, buffer.length, position);
    if (bytesRead === 0) break;
    position += bytesRead;
  }
  const after = performance.now();
  await reader.close();
  await rm(path);
  return {
    writeBytesPerSecond: (bytes / (wrote - started)) * 1000,
    readBytesPerSecond: (position / (after - before)) * 1000,
  };
}

/** What a reader needs to know to judge the figures. No names of hosts or folders. */
export async function describeMachine(folder: string): Promise<Record<string, string | number>> {
  const processors = cpus();
  const kind = (await run('stat', ['-f', '-c', '%T', folder], AbortSignal.timeout(10_000))).trim();
  const { bsize } = await statfs(folder);
  return {
    cores: processors.length,
    processor: processors[0]?.model.trim() ?? 'unknown',
    'memory GiB': Math.round(totalmem() / 1024 ** 3),
    kernel: `Linux ${/^[\d.]+/.exec(release())?.[0] ?? release()}`,
    'file system': `${kind}, blocks of ${bsize} bytes`,
    node: process.version,
    'load at start': (await readFile('/proc/loadavg', 'utf8')).split(' ').slice(0, 1).join(''),
  };
}

/** Makes a generation the current one: the source keeps its path, as a node's base path does between snapshots. */
export async function swapIn(from: string, source: string): Promise<() => Promise<void>> {
  await rename(from, source);
  return () => rename(source, from);
}
