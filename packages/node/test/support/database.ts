import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Backend, type DatabaseLayout, databasePath, findDatabase } from '../../src/layout.ts';

/** The end of a finished block-based SST. */
const SST_END = Buffer.from('f7cff485b741e288', 'hex');

export function finishedSst(size: number, fill: number): Buffer {
  return Buffer.concat([Buffer.alloc(size - SST_END.length, fill), SST_END]);
}

/** A database folder with the given files. */
export async function makeDatabase(
  basePath: string,
  backend: Backend,
  files: Record<string, Buffer | string>,
): Promise<DatabaseLayout> {
  const dir = join(basePath, databasePath('dev', backend));
  mkdirSync(dir, { recursive: true });
  for (const [name, content] of Object.entries(files)) writeFileSync(join(dir, name), content);
  return findDatabase({ basePath, backend, signal: new AbortController().signal });
}

/** Name to SHA-256 of every file of a folder. */
export function digests(dir: string, names: readonly string[] = readdirSync(dir)): Record<string, string> {
  return Object.fromEntries(
    [...names].sort().map((name) => [
      name,
      createHash('sha256')
        .update(readFileSync(join(dir, name)))
        .digest('hex'),
    ]),
  );
}
