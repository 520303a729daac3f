/** Archives of databases as people publish them, made by the tools that they use. */
import { execFile, spawn } from 'node:child_process';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { type Header, pack } from 'tar-stream';

const run = promisify(execFile);

/** How an archive is compressed; `several` of frames or members, as parallel compressors write them. */
export type Packing = 'tar' | 'zst' | 'zst-several' | 'lz4' | 'lz4-several' | 'gz' | 'gz-several';

const COMPRESSORS: Readonly<Record<Packing, readonly string[]>> = {
  tar: ['cat'],
  zst: ['zstd', '-q', '-1', '-c'],
  'zst-several': ['zstd', '-q', '-1', '-c'],
  lz4: ['lz4', '-q', '-z', '-c'],
  'lz4-several': ['lz4', '-q', '-z', '-c'],
  gz: ['gzip', '-1', '-c'],
  'gz-several': ['gzip', '-1', '-c'],
};

/** Packs what lies in a folder with GNU tar. `members` are what is named on its command line, as `.` or `chains`. */
export async function packFolder(
  dir: string,
  out: string,
  { members, packing = 'tar' }: { members: readonly string[]; packing?: Packing },
): Promise<string> {
  const plain = packing === 'tar' ? out : `${out}.plain`;
  await run('tar', ['--format=gnu', '-cf', plain, '-C', dir, ...members]);
  if (packing === 'tar') return out;
  const { size } = await stat(plain);
  // Cut anywhere: frames know nothing of the files in them.
  const cuts = packing.endsWith('several')
    ? [0, 1000, Math.floor(size / 3), Math.floor(size / 2), size]
    : [0, size];
  for (const [index, from] of cuts.slice(0, -1).entries()) {
    const to = cuts[index + 1] ?? size;
    await compress(COMPRESSORS[packing], plain, out, { from, to, append: index > 0 });
  }
  return out;
}

async function compress(
  [program = 'cat', ...args]: readonly string[],
  from: string,
  out: string,
  range: { from: number; to: number; append: boolean },
): Promise<void> {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  await Promise.all([
    pipeline(createReadStream(from, { start: range.from, end: range.to - 1 }), child.stdin),
    pipeline(child.stdout, createWriteStream(out, { flags: range.append ? 'a' : 'w' })),
  ]);
}

/** An entry that is made up: what GNU tar would not pack. */
export type Entry = Partial<Header> & Pick<Header, 'name'> & { content?: Buffer | undefined };

/** Packs entries as they are given, without looking at them. */
export async function packEntries(entries: readonly Entry[], out: string): Promise<string> {
  const archive = pack();
  for (const { content, ...header } of entries) {
    if (content === undefined) archive.entry(header);
    else archive.entry(header, content);
  }
  archive.finalize();
  await pipeline(Readable.from(archive), createWriteStream(out));
  return out;
}

/** The layout of paritytech's helm chart `node`: `files.txt`, and the files, below the database's kind. Returns the paths in the list. */
export async function publishFileList(
  databaseFolder: string,
  target: string,
  more: readonly string[] = [],
): Promise<string[]> {
  await mkdir(join(target, 'full'), { recursive: true });
  await run('cp', ['-r', '--sparse=always', `${databaseFolder}/.`, join(target, 'full')]);
  const paths = [...(await readdir(databaseFolder)).map((name) => `full/${name}`), ...more];
  await pipeline(Readable.from([`${paths.join('\n')}\n`]), createWriteStream(join(target, 'files.txt')));
  return paths;
}
