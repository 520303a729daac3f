/**
 * How long a node stands still, over the number and size of its files: presync's own pause (signal, frozen view) against `cp` of a node that
 * is held still meanwhile, which is what people's scripts do. On file systems that are made for the occasion.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type DatabaseLayout, findDatabase } from '@presync/node/layout';
import { createPauser, withPause } from '@presync/node/pause';
import { prepareView } from '@presync/node/view';
import { isPresyncError } from '@presync/runtime/errors';
import { run } from './lib/measure.ts';
import { makePauseTree, type PauseTree } from './lib/pause-tree.ts';
import { type Spread, spread } from './lib/results.ts';
import { describeMachine } from './lib/scratch.ts';

export type FileSystem = 'ext4' | 'xfs' | 'btrfs';
export const FILE_SYSTEMS: readonly FileSystem[] = ['ext4', 'xfs', 'btrfs'];

export interface PauseOptions {
  /** Scratch folder. */
  work: string;
  fileSystems: readonly FileSystem[];
  trees: readonly PauseTree[];
  repeat: number;
  say: (line: string) => void;
  save: (results: PauseResults) => Promise<void>;
  signal: AbortSignal;
}

export interface PauseCell {
  fileSystem: FileSystem;
  tree: PauseTree;
  /** Seconds that the process stood still. Null when the budget was over before the view was frozen. */
  presync: Spread | null;
  /** Seconds before the pause in which the view is made ready and the node runs. */
  prepare: Spread;
  /** Bytes read again in the longest pause, because they had changed or could not be proved unchanged. */
  bytesReadInPause: number;
  /** Seconds that the process stood still for `cp`. */
  cp: Spread;
}

export interface PauseResults {
  name: string;
  date: string;
  machine: Record<string, string | number>;
  options: { repeat: number; budgetMs: number };
  cells: PauseCell[];
  remarks: string[];
}

/** Of each image; it is sparse. */
const IMAGE_BYTES = 64 * 1024 ** 3;
const MAKE: Record<FileSystem, string[]> = {
  // An inode for each 16 KiB is the default; lazy tables would be written while the benchmark runs.
  ext4: ['mkfs.ext4', '-q', '-E', 'lazy_itable_init=0,lazy_journal_init=0'],
  xfs: ['mkfs.xfs', '-q', '-m', 'reflink=1'],
  btrfs: ['mkfs.btrfs', '-q'],
};
const SETTLE_MS = 3000;
/** Longer than any node should stand still: what takes longer is told as such. */
const BUDGET_MS = 120_000;

export async function runPause(options: PauseOptions): Promise<PauseResults> {
  const { work, fileSystems, trees, repeat, say, save, signal } = options;
  await rm(work, { recursive: true, force: true });
  await mkdir(work, { recursive: true });
  const { 'file system': _, ...machine } = await describeMachine(work);
  const results: PauseResults = {
    name: 'pause',
    date: new Date().toISOString().slice(0, 10),
    machine: { ...machine, cp: (await run('cp', ['--version'], signal)).split('\n')[0] ?? '' },
    options: { repeat, budgetMs: BUDGET_MS },
    cells: [],
    remarks: [],
  };
  for (const fileSystem of fileSystems) {
    const place = join(work, fileSystem);
    const unmount = await mountImage(fileSystem, place, signal);
    try {
      for (const tree of trees.map((wanted) => fitting(wanted, fileSystem))) {
        const base = join(place, 'node');
        await makePauseTree(base, tree, signal);
        // A file that was written to just now counts as changed, whatever its times say; most of a node's have rested for long.
        await sleep(SETTLE_MS, undefined, { signal });
        const layout = await findDatabase({ basePath: base, signal });
        results.cells.push(await measureCell(options, fileSystem, tree, layout, place));
        say(`${fileSystem} ${tree.backend} ${tree.files} files: ${JSON.stringify(results.cells.at(-1))}`);
        await rm(base, { recursive: true });
        await save(results);
      }
    } finally {
      await unmount();
    }
  }
  results.remarks.push(
    `${repeat} rounds each, in turns; the process that stands for the node writes 4 KiB to each of its hot files, over and over, until it is held.`,
  );
  return results;
}

/** Without reflinks a ParityDB is copied, and holes are read as zeros: a tenth of a terabyte shows it as well. */
function fitting(tree: PauseTree, fileSystem: FileSystem): PauseTree {
  const copied = fileSystem === 'ext4' && tree.backend === 'paritydb' && tree.filledBytes < tree.fileBytes;
  return copied ? { ...tree, fileBytes: Math.ceil(tree.fileBytes / 10) } : tree;
}

async function mountImage(
  fileSystem: FileSystem,
  place: string,
  signal: AbortSignal,
): Promise<() => Promise<void>> {
  const image = `${place}.img`;
  await using file = await open(image, 'w');
  await file.truncate(IMAGE_BYTES);
  const [program = '', ...args] = MAKE[fileSystem];
  await run(program, [...args, image], signal);
  await mkdir(place, { recursive: true });
  await run('mount', ['-o', 'loop', image, place], signal);
  return async () => {
    // Not with the signal: what was mounted is unmounted.
    await run('umount', [place], AbortSignal.timeout(120_000));
    await rm(image);
  };
}

async function measureCell(
  { repeat, signal }: PauseOptions,
  fileSystem: FileSystem,
  tree: PauseTree,
  layout: DatabaseLayout,
  place: string,
): Promise<PauseCell> {
  const pauses: number[] = [];
  const prepares: number[] = [];
  const copies: number[] = [];
  let bytesReadInPause = 0;
  let overBudget = false;
  for (let round = 0; round < repeat; round++) {
    await run('sync', ['-f', place], signal);
    await withWriter(layout.dir, async (writer) => {
      const pid = writer.pid ?? 0;
      const began = performance.now();
      const prepared = await prepareView({ layout, signal });
      prepares.push((performance.now() - began) / 1000);
      try {
        const pauser = createPauser({
          strategy: 'signal',
          pid,
          databases: [layout],
          stateDir: join(place, 'state'),
          budgetMs: BUDGET_MS,
        });
        const { result, seconds } = await withPause(pauser, { signal }, (budget) => prepared.freeze(budget));
        pauses.push(seconds);
        bytesReadInPause = Math.max(bytesReadInPause, result.bytesReadInPause);
      } catch (error) {
        if (!isPresyncError(error, 'NODE_PAUSE_BUDGET')) throw error;
        overBudget = true;
      } finally {
        await prepared.discard();
      }
    });
    await run('sync', ['-f', place], signal);
    await withWriter(layout.dir, async (writer) => {
      copies.push(await copyHeld(writer, layout, join(place, 'copy'), signal));
    });
    await rm(join(place, 'copy'), { recursive: true });
  }
  return {
    fileSystem,
    tree,
    presync: overBudget ? null : spread(pauses),
    prepare: spread(prepares),
    bytesReadInPause,
    cp: spread(copies),
  };
}

/** What a careful script does: hold the node, link what never changes, copy the rest, let go. */
async function copyHeld(
  writer: ChildProcess,
  layout: DatabaseLayout,
  target: string,
  signal: AbortSignal,
): Promise<number> {
  const script =
    layout.backend === 'rocksdb'
      ? 'mkdir "$2" && cp -al "$1"/*.sst "$2" && find "$1" -maxdepth 1 -type f ! -name "*.sst" -exec cp -a --reflink=auto -t "$2" {} +'
      : 'cp -a --reflink=auto --sparse=auto "$1" "$2"';
  const began = performance.now();
  writer.kill('SIGSTOP');
  try {
    await run('sh', ['-c', script, 'sh', layout.dir, target], signal);
  } finally {
    writer.kill('SIGCONT');
  }
  return (performance.now() - began) / 1000;
}

/** Runs the work beside a process that writes to the hot files of a database, as a node does. */
async function withWriter(dir: string, work: (writer: ChildProcess) => Promise<void>): Promise<void> {
  const program = join(import.meta.dirname, 'lib', 'pause-writer.ts');
  const writer = spawn(process.execPath, [program, dir], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(writer, 'close');
  try {
    await once(writer.stdout, 'data');
    await work(writer);
  } finally {
    writer.kill('SIGKILL');
    await ended;
  }
}

/** The report for people. */
export function renderPause({ date, machine, options, cells, remarks }: PauseResults): string {
  const show = ({ median, min, max }: Spread): string =>
    `${median.toFixed(3)} [${min.toFixed(3)}, ${max.toFixed(3)}]`;
  const lines = [
    '# Benchmark `pause`',
    '',
    `${date}. Seconds that a process stands still: medians of ${options.repeat} rounds, with the smallest and the largest in brackets. "read again" is what presync had to read while the process stood still.`,
    '',
    '| what | value |',
    '| --- | --- |',
    ...Object.entries(machine).map(([key, value]) => `| ${key} | ${value} |`),
    '',
    '| file system | database | files | apparent GiB | presync: pause | before it, running | read again, MiB | cp while held | cp ÷ presync |',
    '| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
    ...cells.map(({ fileSystem, tree, presync, prepare, bytesReadInPause, cp }) =>
      [
        '',
        fileSystem,
        tree.backend,
        tree.files,
        ((tree.files * tree.fileBytes) / 1024 ** 3).toFixed(1),
        presync === null ? `over ${options.budgetMs / 1000}` : show(presync),
        show(prepare),
        (bytesReadInPause / 1024 ** 2).toFixed(1),
        show(cp),
        presync === null ? '' : (cp.median / presync.median).toFixed(2),
        '',
      ]
        .join(' | ')
        .trim(),
    ),
    '',
    ...remarks.map((remark) => `- ${remark}`),
  ];
  return `${lines.join('\n')}\n`;
}
