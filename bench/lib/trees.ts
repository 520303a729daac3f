import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { copyFile, link, mkdir, open, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type BlockKind, createBlockStream } from './blocks.ts';
import { type Choices, createByteStream, createChoices } from './random.ts';
import {
  DATABASE_FOLDERS,
  MIB,
  PAGE,
  type PlannedFile,
  planTree,
  sstName,
  TABLE_STEP,
  type TreeKind,
} from './tree-plan.ts';

export { DATABASE_FOLDERS, type TreeKind } from './tree-plan.ts';

export interface TreeOptions {
  /** The node's base path; the database goes below it. */
  basePath: string;
  kind: TreeKind;
  /** Bytes of the whole tree, about. */
  size: number;
  seed: number;
  signal: AbortSignal;
}

export interface TreeSummary {
  files: number;
  /** Apparent bytes. */
  bytes: number;
}

export interface ChurnOptions {
  /** Base path of the generation before; it is not changed. */
  from: string;
  /** Base path of the next one. What has not changed is hard-linked from `from`. */
  to: string;
  kind: TreeKind;
  seed: number;
  signal: AbortSignal;
}

export interface ChurnSummary extends TreeSummary {
  /** Bytes of new files, of writes in place and of growth. */
  changedBytes: number;
  changedFiles: number;
}

/** Bytes of one write to disk. A multiple of every record size is not needed: streams go on where they stopped. */
const STRETCH = 4 * MIB;

/** Between two snapshots: one write in place for so many bytes of ParityDB tables. */
const BYTES_PER_WRITE = 32 * MIB;

/** Writes a tree that resembles a node's database. The same options give the same bytes. */
export async function generateTree(options: TreeOptions): Promise<TreeSummary> {
  const folder = join(options.basePath, DATABASE_FOLDERS[options.kind]);
  await mkdir(folder, { recursive: true });
  const files = planTree(options.kind, options.size, options.seed);
  for (const file of files) await writePlanned(folder, file, options.seed, options.signal);
  return { files: files.length, bytes: files.reduce((sum, file) => sum + file.size, 0) };
}

/**
 * The next generation of a tree: RocksDB drops 2 % of its SSTs, gets as many new ones and another log and manifest;
 * ParityDB gets writes of 4 to 16 KiB in place, scattered over its tables, and its largest tables grow a little.
 */
export async function churnTree(options: ChurnOptions): Promise<ChurnSummary> {
  const from = join(options.from, DATABASE_FOLDERS[options.kind]);
  const to = join(options.to, DATABASE_FOLDERS[options.kind]);
  await mkdir(to, { recursive: true });
  const names = (await readdir(from)).sort();
  const changed =
    options.kind === 'rocksdb'
      ? await churnRocksDb(from, to, names, options)
      : await churnParityDb(from, to, names, options);
  let files = 0;
  let bytes = 0;
  for (const name of await readdir(to)) {
    files += 1;
    bytes += (await stat(join(to, name))).size;
  }
  return { files, bytes, ...changed };
}

async function churnRocksDb(from: string, to: string, names: string[], options: ChurnOptions) {
  const choices = createChoices(options.seed, 'churn/rocksdb');
  const tables = names.filter((name) => name.endsWith('.sst'));
  const dropped = new Set<string>();
  while (dropped.size < Math.max(1, Math.round(tables.length * 0.02)))
    dropped.add(tables[choices.between(0, tables.length - 1)] ?? '');
  const planned: PlannedFile[] = [];
  let number = Number.parseInt(names.filter((name) => name.endsWith('.log')).at(-1) ?? '', 10) + 1;
  for (const name of names) {
    if (dropped.has(name)) {
      planned.push({ name: sstName(number), size: (await stat(join(from, name))).size, kind: 'sst' });
      number += 1;
    } else if (name.endsWith('.log')) {
      planned.push({
        name: `${String(number + 1).padStart(6, '0')}.log`,
        size: (await stat(join(from, name))).size >> 1,
        kind: 'wal',
      });
    } else if (name.startsWith('MANIFEST-')) {
      await copyFile(join(from, name), join(to, name));
      await appendTo(join(to, name), createBlockStream('slots', options.seed, 'churn/manifest')(2048));
    } else await link(join(from, name), join(to, name));
  }
  for (const file of planned) await writePlanned(to, file, options.seed + 1, options.signal);
  return {
    changedBytes: planned.reduce((sum, file) => sum + file.size, 2048),
    changedFiles: planned.length + 1,
  };
}

async function churnParityDb(from: string, to: string, names: string[], options: ChurnOptions) {
  const choices = createChoices(options.seed, 'churn/paritydb');
  const bytes = createByteStream(options.seed, 'churn/paritydb');
  let changedBytes = 0;
  let changedFiles = 0;
  for (const name of names) {
    options.signal.throwIfAborted();
    const source = join(from, name);
    const target = join(to, name);
    const { size } = await stat(source);
    const isData = name.startsWith('table_') || name.startsWith('index_');
    // Large files are always touched, small ones now and then.
    const writes = isData ? Math.floor(size / BYTES_PER_WRITE + choices.unit()) : 0;
    if (writes === 0 && !name.startsWith('log')) {
      await link(source, target);
      continue;
    }
    await copyFile(source, target, constants.COPYFILE_FICLONE);
    changedFiles += 1;
    const handle = await open(target, 'r+');
    try {
      if (name.startsWith('log')) {
        const log = createBlockStream('wal', options.seed + 1, name)(size);
        await handle.write(log, 0, log.length, 0);
        changedBytes += size;
        continue;
      }
      for (let done = 0; done < writes; done += 1) {
        const length = choices.between(1, 4) * PAGE;
        const offset = choices.between(0, Math.max(0, Math.floor((size - length) / PAGE))) * PAGE;
        await handle.write(bytes(length), 0, length, offset);
        changedBytes += length;
      }
      if (name.startsWith('table_') && writes > 8) {
        await handle.write(bytes(TABLE_STEP), 0, TABLE_STEP, size);
        changedBytes += TABLE_STEP;
      }
    } finally {
      await handle.close();
    }
  }
  return { changedBytes, changedFiles };
}

async function writePlanned(
  folder: string,
  file: PlannedFile,
  seed: number,
  signal: AbortSignal,
): Promise<void> {
  const path = join(folder, file.name);
  if (file.kind === 'text') {
    await writeFile(path, file.text ?? '');
    return;
  }
  const handle = await open(path, 'wx');
  try {
    await handle.truncate(file.size);
    if ((file.filled ?? 1) < 1) await writePatches(handle, file, file.kind, seed, signal);
    else {
      const stream = createBlockStream(file.kind, seed, file.name);
      for (let offset = 0; offset < file.size; offset += STRETCH) {
        signal.throwIfAborted();
        const length = Math.min(STRETCH, file.size - offset);
        await handle.write(stream(length), 0, length, offset);
      }
    }
  } finally {
    await handle.close();
  }
}

/** Writes data in some pages and leaves the others as holes: free slots at the end, and gaps in between. */
async function writePatches(
  handle: Awaited<ReturnType<typeof open>>,
  file: PlannedFile,
  kind: BlockKind,
  seed: number,
  signal: AbortSignal,
): Promise<void> {
  const choices: Choices = createChoices(seed, `patches/${file.name}`);
  const stream = createBlockStream(kind, seed, file.name);
  const filled = file.filled ?? 1;
  const isIndex = kind === 'index';
  // An index is used here and there, page by page; a table from its beginning to where its last slot is.
  const end = isIndex ? file.size : Math.floor((file.size * filled) / PAGE) * PAGE;
  const most = isIndex ? PAGE : STRETCH;
  for (let offset = 0; offset < end; ) {
    signal.throwIfAborted();
    const length = Math.min(most, end - offset);
    if (!isIndex) await handle.write(stream(length), 0, length, offset);
    else if (choices.unit() < filled) await handle.write(stream(length), 0, length, offset);
    offset += length;
  }
}

async function appendTo(path: string, bytes: Buffer): Promise<void> {
  const handle = await open(path, 'a');
  try {
    await handle.write(bytes);
  } finally {
    await handle.close();
  }
}

/** SHA-256 over names, sizes and contents of a tree's files, in name order: equal for equal trees. */
export async function treeDigest(basePath: string, kind: TreeKind): Promise<string> {
  const folder = join(basePath, DATABASE_FOLDERS[kind]);
  const hash = createHash('sha256');
  for (const name of (await readdir(folder)).sort()) {
    const content = createHash('sha256').update(await readFile(join(folder, name)));
    hash.update(`${name}\n${content.digest('hex')}\n`);
  }
  return hash.digest('hex');
}
