import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { measureCeilings } from './lib/ceiling.ts';
import {
  type Arrangement,
  COMPETITORS,
  type Competitor,
  environmentOf,
  type Place,
} from './lib/competitors.ts';
import { cpuSecondsOf, machineBusySeconds, measure, run } from './lib/measure.ts';
import { type Cell, type Results, type Sample, STEPS, type Step, type TreeFacts } from './lib/results.ts';
import { findVersitygw, S3_BUCKET, type S3Server, startS3Server } from './lib/s3-server.ts';
import {
  assertSameTree,
  describeMachine,
  dropCaches,
  folderBytes,
  measureDisk,
  swapIn,
  watchFolder,
} from './lib/scratch.ts';
import { startThrottleProcess, type ThrottleProcess } from './lib/throttle-process.ts';
import { churnTree, generateTree, type TreeKind } from './lib/trees.ts';

export interface FirstOptions {
  root: string;
  /** An empty folder that is filled and emptied; some five times `size` must fit. */
  work: string;
  size: number;
  repeat: number;
  seed: number;
  trees: readonly TreeKind[];
  arrangements: readonly Arrangement[];
  tools: readonly string[];
  /** In the order of `STEPS`, of which each needs those before it; `snapshot` and `restore` alone will do. */
  steps: readonly Step[];
  bytesPerSecond: number;
  firstByteMs: number;
  say(line: string): void;
  /** Called after each tool, so that a run that is stopped has not been for nothing. */
  save(results: Results): Promise<void>;
  signal: AbortSignal;
}

interface Context extends FirstOptions {
  results: Results;
  server: S3Server;
  proxy: ThrottleProcess;
  home: string;
}

/** The first benchmark: snapshot, restore, churn, snapshot again, restore over; each tool, tree and arrangement. */
export async function runFirst(options: FirstOptions): Promise<Results> {
  const { work, signal } = options;
  const executable = findVersitygw(options.root);
  if (executable === undefined)
    throw new Error('this benchmark needs versitygw: set PRESYNC_VERSITYGW, or build it with go install');
  await rm(work, { recursive: true, force: true });
  const home = join(work, 'home');
  await mkdir(join(home, 'bin'), { recursive: true });
  const command = join(options.root, 'packages', 'cli', 'bin', 'presync.mjs');
  const launcher = `#!/bin/sh\nexec '${process.execPath}' '${command}' "$@"\n`;
  await writeFile(join(home, 'bin', 'presync'), launcher, { mode: 0o755 });
  const results = await emptyResults(options);
  options.say('measuring the disk');
  results.disk = await measureDisk(work, Math.min(options.size, 1024 ** 3), signal);
  const server = await startS3Server(executable, join(work, 's3'));
  const { bytesPerSecond, firstByteMs } = options;
  const proxy = await startThrottleProcess({ upstreamPort: server.port, bytesPerSecond, firstByteMs });
  try {
    const context: Context = { ...options, results, server, proxy, home };
    await recordVersions(context, executable);
    if (options.arrangements.includes('throttled')) await recordCeilings(context);
    for (const kind of options.trees) await runTree(context, kind);
  } finally {
    await proxy.close();
    await server.close();
    await rm(work, { recursive: true, force: true });
  }
  return results;
}

async function emptyResults(options: FirstOptions): Promise<Results> {
  const { size, repeat, seed, bytesPerSecond, firstByteMs } = options;
  return {
    name: 'first',
    date: new Date().toISOString().slice(0, 10),
    options: { size, repeat, seed, bytesPerSecond, firstByteMs },
    machine: await describeMachine(options.work),
    versions: {},
    trees: [],
    ceilings: [],
    disk: { writeBytesPerSecond: 0, readBytesPerSecond: 0 },
    cells: [],
    remarks: [
      'Client, proxy and server share the cores, so that what the proxy and the server use is missing to the client; a single stream suffers least from that.',
      'The stored objects are on the same disk as the source and the target.',
    ],
  };
}

async function recordVersions(context: Context, executable: string): Promise<void> {
  const { results, signal } = context;
  const env = environmentOf(placeOf(context, 'file', 'none', 'none'), 'none', context.home);
  for (const tool of COMPETITORS.filter((candidate) => context.tools.includes(candidate.name)))
    results.versions[tool.name] = (await run('bash', ['-c', tool.version], signal, env)).trim();
  const version = await run(executable, ['--version'], signal);
  results.versions['S3 server'] =
    `versitygw ${/Version\s*:\s*(\S+)/.exec(version)?.[1] ?? ''}, posix backend, keep-alive on`;
}

async function recordCeilings(context: Context): Promise<void> {
  const { results, work, signal } = context;
  context.say('measuring the proxy');
  const file = join(work, 'ceiling');
  const fileBytes = Math.min(context.size, 256 * 1024 * 1024);
  await run('bash', ['-c', 'head -c "$1" /dev/urandom > "$2"', 'bash', String(fileBytes), file], signal);
  const { server, bytesPerSecond, firstByteMs } = context;
  results.ceilings = await measureCeilings({ server, file, fileBytes, bytesPerSecond, firstByteMs, signal });
  await rm(file);
  await rm(join(work, 's3', S3_BUCKET, 'ceiling'), { force: true });
}

async function runTree(context: Context, kind: TreeKind): Promise<void> {
  const { work, results, signal } = context;
  const first = join(work, 'trees', 'first');
  const second = join(work, 'trees', 'second');
  context.say(`${kind}: writing the tree`);
  await generateTree({ basePath: first, kind, size: context.size, seed: context.seed, signal });
  const changed = await churnTree({ from: first, to: second, kind, seed: context.seed, signal });
  const { bytes, allocated, files } = await folderBytes(first);
  const env = { PATH: process.env.PATH ?? '', TREE: first };
  const packed = Number(
    await run('bash', ['-c', 'tar -C "$TREE" -cSf - chains | zstd -3 -T0 -q | wc -c'], signal, env),
  );
  const { changedBytes, changedFiles } = changed;
  const facts: TreeFacts = {
    kind,
    files,
    bytes,
    allocatedBytes: allocated,
    ratio: packed / allocated,
    changedBytes,
    changedFiles,
  };
  results.trees.push(facts);

  const tools = COMPETITORS.filter((tool) => context.tools.includes(tool.name));
  for (let repetition = 0; repetition < context.repeat; repetition += 1)
    for (const arrangement of context.arrangements) {
      const turn = repetition % tools.length;
      for (const tool of [...tools.slice(turn), ...tools.slice(0, turn)]) {
        await runTool(context, tool, kind, arrangement, repetition, { first, second });
        await context.save(results);
      }
    }
  await rm(join(work, 'trees'), { recursive: true, force: true });
}

/** All steps of one tool, from an empty store to a restored second generation; what it wrote is removed after it. */
async function runTool(
  context: Context,
  tool: Competitor,
  kind: TreeKind,
  arrangement: Arrangement,
  repetition: number,
  trees: { first: string; second: string },
): Promise<void> {
  const prefix = `${kind}-${arrangement}-${repetition}-${COMPETITORS.indexOf(tool)}`;
  const place = placeOf(context, arrangement, prefix, tool.name);
  const env = environmentOf(place, kind, context.home);
  for (const folder of [place.target, place.store, place.state]) await mkdir(folder, { recursive: true });
  const stored = arrangement === 'file' ? place.store : join(context.work, 's3', S3_BUCKET);
  try {
    const prepare = tool.prepare?.(arrangement);
    if (prepare !== undefined) await run('bash', ['-ec', prepare], context.signal, env);
    for (const step of STEPS.filter((candidate) => context.steps.includes(candidate))) {
      const generation = step === 'snapshot' || step === 'restore' ? trees.first : trees.second;
      const script = scriptOf(tool, step, arrangement);
      const isRestore = step === 'restore' || step === 'restore over';
      const putBack = isRestore ? undefined : await swapIn(generation, place.source);
      try {
        const newBytes = await watchFolder(stored);
        const sample = await measureStep(context, script, env, isRestore ? place.target : stored);
        sample.storedBytes = await newBytes();
        cellOf(context.results, { tree: kind, arrangement, tool: tool.name, step, script }).samples.push(
          sample,
        );
        const seconds = (sample.wallSeconds + sample.syncSeconds).toFixed(1);
        context.say(
          `${kind}, ${arrangement}, ${tool.name}: ${step} ${seconds} s, ${(sample.peakRssBytes / 1024 ** 2).toFixed(0)} MiB`,
        );
      } finally {
        await putBack?.();
      }
      if (isRestore)
        await assertSameTree(join(generation, 'chains'), join(place.target, 'chains'), context.signal);
    }
  } catch (error) {
    if (context.signal.aborted) throw error;
    const message = error instanceof Error ? error.message : String(error);
    context.say(`${kind}, ${arrangement}, ${tool.name} FAILED: ${message}`);
    const remark = message
      .replaceAll(context.work, '<work>')
      .replaceAll(context.root, '<repository>')
      .split('\n')
      .join(' ');
    context.results.remarks.push(`${kind}, ${arrangement}, ${tool.name} failed: ${remark.slice(0, 400)}`);
  } finally {
    for (const folder of [place.target, place.store, place.state])
      await rm(folder, { recursive: true, force: true });
    await rm(join(context.work, 's3', S3_BUCKET), { recursive: true, force: true });
    await mkdir(join(context.work, 's3', S3_BUCKET), { recursive: true });
  }
}

async function measureStep(
  context: Context,
  script: string,
  env: Record<string, string>,
  syncPath: string,
): Promise<Sample> {
  const { server, proxy, signal, work } = context;
  const cold = await dropCaches(work, signal);
  context.results.machine['page cache'] = cold ? 'dropped before each step' : 'warm: only root can drop it';
  const counters = await proxy.counters();
  const serverSeconds = cpuSecondsOf(server.pid);
  const proxySeconds = cpuSecondsOf(proxy.pid);
  const busy = machineBusySeconds() ?? 0;
  const measurement = await measure(script, { env, cwd: work, syncPath, signal });
  const usedByAll = (machineBusySeconds() ?? 0) - busy;
  const after = await proxy.counters();
  const serverUsed = cpuSecondsOf(server.pid) - serverSeconds;
  const proxyUsed = cpuSecondsOf(proxy.pid) - proxySeconds;
  const own = measurement.userSeconds + measurement.systemSeconds + serverUsed + proxyUsed;
  return {
    ...measurement,
    sentBytes: after.sent - counters.sent,
    receivedBytes: after.received - counters.received,
    connections: after.connections - counters.connections,
    serverSeconds: serverUsed,
    proxySeconds: proxyUsed,
    otherSeconds: Math.max(0, usedByAll - own),
    storedBytes: 0,
  };
}

function scriptOf(tool: Competitor, step: Step, arrangement: Arrangement): string {
  if (step === 'restore') return tool.restore(arrangement);
  return step === 'restore over' ? tool.update(arrangement) : tool.snapshot(arrangement);
}

function cellOf(results: Results, wanted: Omit<Cell, 'samples'>): Cell {
  const found = results.cells.find(
    (cell) =>
      cell.tree === wanted.tree &&
      cell.arrangement === wanted.arrangement &&
      cell.tool === wanted.tool &&
      cell.step === wanted.step,
  );
  if (found !== undefined) return found;
  const cell = { ...wanted, samples: [] };
  results.cells.push(cell);
  return cell;
}

function placeOf(context: Context, arrangement: Arrangement, prefix: string, tool: string): Place {
  const own = join(context.work, tool.replaceAll(/[^a-z]+/g, '-'));
  return {
    arrangement,
    source: join(context.work, 'source'),
    target: join(own, 'target'),
    store: join(own, 'store'),
    state: join(own, 'state'),
    endpoint: `http://127.0.0.1:${arrangement === 'throttled' ? context.proxy.port : context.server.port}`,
    prefix,
  };
}
