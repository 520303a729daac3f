// npm run bench -- NAME [options]: runs one benchmark and keeps its report under bench/results/.
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { runFirst } from './first.ts';
import { type Arrangement, COMPETITORS } from './lib/competitors.ts';
import type { PauseTree } from './lib/pause-tree.ts';
import { renderReport } from './lib/report.ts';
import { type Results, STEPS, type Step } from './lib/results.ts';
import type { TreeKind } from './lib/trees.ts';
import { FILE_SYSTEMS, type PauseResults, renderPause, runPause } from './pause.ts';

const USAGE = `usage: npm run bench -- NAME [options]

first: snapshot and restore beside other tools

  --size SIZE           bytes of each tree, such as 64MiB or 4GiB (default 4GiB)
  --repeat N            repetitions (default 3)
  --only LIST           tools: presync, tar, rclone, restic (default all)
  --trees LIST          rocksdb, paritydb (default both)
  --arrangements LIST   throttled, loopback, file (default all)
  --steps LIST          snapshot, restore, snapshot again, restore over (default all)
  --rate MB             MB/s of each connection and direction when throttled (default 90)
  --first-byte MS       milliseconds to the first byte when throttled (default 20)
  --seed N              of the generated trees (default 1)
  --work DIR            scratch folder, emptied before and after (default .cache/bench)
  --name NAME           of the report's files (default the benchmark's name)

pause: how long a node stands still, over file systems, databases, and files (as root: it mounts images)

  --file-systems LIST   ext4, xfs, btrfs (default all)
  --files LIST          numbers of SSTs, a hundredth of them of ParityDB's tables (default 1000,4000,16000)
  --trees, --repeat, --work as above
`;

const UNITS: Record<string, number> = { KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3, TiB: 1024 ** 4 };

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');

async function main(args: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      size: { type: 'string', default: '4GiB' },
      repeat: { type: 'string', default: '3' },
      only: { type: 'string', default: 'presync,tar,rclone,restic' },
      trees: { type: 'string', default: 'rocksdb,paritydb' },
      arrangements: { type: 'string', default: 'throttled,loopback,file' },
      steps: { type: 'string', default: STEPS.join(',') },
      rate: { type: 'string', default: '90' },
      'first-byte': { type: 'string', default: '20' },
      seed: { type: 'string', default: '1' },
      work: { type: 'string', default: join(root, '.cache', 'bench') },
      name: { type: 'string' },
      'file-systems': { type: 'string', default: FILE_SYSTEMS.join(',') },
      files: { type: 'string', default: '1000,4000,16000' },
      help: { type: 'boolean', default: false },
    },
  });
  const [benchmark] = positionals;
  if (values.help || benchmark === undefined) {
    (values.help ? process.stdout : process.stderr).write(USAGE);
    return values.help ? 0 : 2;
  }
  if (benchmark !== 'first' && benchmark !== 'pause')
    throw new UsageError(`there is no benchmark ${benchmark}`);
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => stop.abort(new Error(`stopped by ${signal}`)));

  const trees = parseList<TreeKind>('trees', values.trees, ['rocksdb', 'paritydb']);
  const repeat = parseCount('repeat', values.repeat);
  const say = (line: string): void => {
    process.stderr.write(`${new Date().toISOString().slice(11, 19)} ${line}\n`);
  };
  if (benchmark === 'pause') {
    const results = await runPause({
      work: join(resolve(values.work), 'pause'),
      fileSystems: parseList('file-systems', values['file-systems'], FILE_SYSTEMS),
      trees: pauseTrees(trees, values.files),
      repeat,
      say,
      save: writePause,
      signal: stop.signal,
    });
    await writePause(results);
    process.stdout.write(renderPause(results));
    return 0;
  }

  const name = values.name ?? benchmark;
  if (!/^[a-z0-9-]+$/.test(name)) throw new UsageError('--name takes small letters, digits and hyphens');
  const short: Record<string, string> = { tar: 'tar | zstd' };
  const save = (results: Results): Promise<void> => writeResults({ ...results, name });
  const results = await runFirst({
    root,
    work: join(resolve(values.work), 'first'),
    size: parseSize(values.size),
    repeat,
    seed: parseCount('seed', values.seed),
    bytesPerSecond: parseCount('rate', values.rate) * 1e6,
    firstByteMs: parseCount('first-byte', values['first-byte']),
    trees,
    arrangements: parseList<Arrangement>('arrangements', values.arrangements, [
      'throttled',
      'loopback',
      'file',
    ]),
    tools: parseList('only', values.only, ['presync', 'tar', 'rclone', 'restic']).map(
      (tool) => short[tool] ?? tool,
    ),
    steps: parseList<Step>('steps', values.steps, [...STEPS]),
    say,
    save,
    signal: stop.signal,
  });
  await save(results);
  process.stdout.write(renderReport({ ...results, name }));
  const expected = COMPETITORS.filter((tool) => results.versions[tool.name] !== undefined);
  return expected.every((tool) => results.cells.some((cell) => cell.tool === tool.name)) ? 0 : 1;
}

/** Files that are all on the disk, and, of the largest number, a terabyte of holes. ParityDB has few files, and larger ones. */
function pauseTrees(backends: readonly TreeKind[], files: string): PauseTree[] {
  const counts = files.split(',').map((count) => parseCount('files', count));
  return backends.flatMap((backend) => {
    const [share, bytes] = backend === 'rocksdb' ? [1, 64 * 1024] : [100, 8 * 1024 ** 2];
    const own = counts.map((count) => Math.ceil(count / share));
    const largest = Math.max(...own);
    return [
      ...own.map((count) => ({ backend, files: count, fileBytes: bytes, filledBytes: bytes })),
      { backend, files: largest, fileBytes: Math.ceil(1024 ** 4 / largest), filledBytes: 4096 },
    ];
  });
}

const writeResults = (results: Results): Promise<void> => writeReport(results, renderReport(results));
const writePause = (results: PauseResults): Promise<void> => writeReport(results, renderPause(results));

async function writeReport(results: { name: string }, text: string): Promise<void> {
  const folder = join(root, 'bench', 'results');
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, `${results.name}.json`), `${JSON.stringify(results, null, 2)}\n`);
  await writeFile(join(folder, `${results.name}.md`), text);
}

class UsageError extends Error {}

function parseSize(text: string): number {
  const [, number, unit] = /^(\d+(?:\.\d+)?)(KiB|MiB|GiB|TiB)$/.exec(text) ?? [];
  const bytes = Number(number) * (UNITS[unit ?? ''] ?? Number.NaN);
  if (!(bytes >= 16 * 1024 ** 2))
    throw new UsageError(`--size ${text}: give at least 16MiB, as in 64MiB or 4GiB`);
  return Math.floor(bytes);
}

function parseCount(option: string, text: string): number {
  const number = Number(text);
  if (!Number.isInteger(number) || number < 1)
    throw new UsageError(`--${option} ${text}: give a whole number from 1`);
  return number;
}

function parseList<T extends string>(option: string, text: string, known: readonly T[]): T[] {
  return text.split(',').map((word) => {
    const found = known.find((candidate) => candidate === word.trim());
    if (found === undefined) throw new UsageError(`--${option} ${word}: give some of ${known.join(', ')}`);
    return found;
  });
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (error instanceof UsageError) {
    process.stderr.write(`${error.message}\n\n${USAGE}`);
    process.exitCode = 2;
  } else {
    process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    process.exitCode = 1;
  }
}
