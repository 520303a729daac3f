/** What stands in a folder: for tests that must show that nothing changed. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { lstat, readdir, readlink } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { pipeline } from 'node:stream/promises';

export interface ListTreeOptions {
  /** Names of entries that are passed over, with all below them. */
  ignore?: readonly string[] | undefined;
}

/** One line for each entry below a folder: kind, mode, and for files size, modification time and SHA-256. Empty when it is not there. */
export async function listTree(dir: string, { ignore = [] }: ListTreeOptions = {}): Promise<string[]> {
  const lines: string[] = [];
  const visit = async (path: string): Promise<void> => {
    const stats = await lstat(path).catch(() => undefined);
    if (stats === undefined) return;
    const name = relative(dir, path) || '.';
    const mode = (stats.mode & 0o7777).toString(8);
    if (stats.isSymbolicLink()) lines.push(`${name} link ${await readlink(path)}`);
    else if (stats.isFile())
      lines.push(`${name} file ${mode} ${stats.size} ${stats.mtimeMs} ${await sha256Of(path)}`);
    else if (stats.isDirectory()) {
      lines.push(`${name} folder ${mode}`);
      for (const entry of (await readdir(path)).sort())
        if (!ignore.includes(entry)) await visit(join(path, entry));
    } else lines.push(`${name} special ${mode}`);
  };
  await visit(dir);
  return lines;
}

/** Name and SHA-256 of each file of one folder, for comparing a database with its copy. */
export async function digestFiles(
  dir: string,
  keep: (name: string) => boolean = () => true,
): Promise<Record<string, string>> {
  const digests: Record<string, string> = {};
  for (const name of (await readdir(dir)).sort())
    if (keep(name)) digests[name] = await sha256Of(join(dir, name));
  return digests;
}

/** As `digestFiles`, of what belongs to a snapshot: no locks, no logs. */
export function digestDatabase(dir: string): Promise<Record<string, string>> {
  return digestFiles(dir, (name) => !/^(?:LOCK|lock|stats\.txt)$|^LOG/.test(name));
}

/** Names of files that a folder does not have as it should. `expected` is of `digestDatabase`. */
export async function differingFiles(expected: Record<string, string>, actual: string): Promise<string[]> {
  const [left, right] = [expected, await digestFiles(actual)];
  return [...new Set([...Object.keys(left), ...Object.keys(right)])].filter(
    (name) => left[name] !== right[name],
  );
}

/** Fails unless both folders hold the same database, byte for byte. */
export async function assertSameDatabase(expected: string, actual: string): Promise<void> {
  assert.deepEqual(
    await differingFiles(await digestDatabase(expected), actual),
    [],
    `${actual} is not ${expected}`,
  );
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return hash.digest('hex');
}
