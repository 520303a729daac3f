/**
 * Random interleavings of writers, readers and collectors, with clocks that are wrong and processes that crash: what they leave is judged after each step.
 * `test/support/interleavings/world.ts` says what a world is.
 */
import { spawn } from 'node:child_process';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { findS3Server, startS3Server } from '../support/s3-server.ts';

const SCRIPT = resolve(import.meta.dirname, '../support/interleavings/run-worlds.ts');

export const INTERLEAVING_STORES = ['memory', 's3'] as const;

export interface InterleavingsReport {
  store: (typeof INTERLEAVING_STORES)[number];
  worlds: number;
  steps: number;
  snapshots: number;
  reads: number;
  crashes: number;
  removedChunks: number;
  /** Milliseconds that a world took in the median and at most. */
  worldMs: { median: number; most: number };
  violations: string[];
}

export interface InterleavingsOptions {
  store: (typeof INTERLEAVING_STORES)[number];
  count: number;
  seed: number;
  /** Processes side by side. */
  processes: number;
  log: (line: string) => void;
}

interface WorldLine {
  seed: number;
  profile: string;
  steps: number;
  snapshots: number;
  reads: number;
  crashes: number;
  removedChunks: number;
  ms: number;
  violations: string[];
}

export async function interleavingsCampaign(options: InterleavingsOptions): Promise<InterleavingsReport> {
  const { store, count, seed, processes, log } = options;
  if (store === 's3' && findS3Server() === undefined) throw new Error('versitygw is not to be found');
  const server = store === 's3' ? await startS3Server() : undefined;
  const report: InterleavingsReport = {
    store,
    worlds: 0,
    steps: 0,
    snapshots: 0,
    reads: 0,
    crashes: 0,
    removedChunks: 0,
    worldMs: { median: 0, most: 0 },
    violations: [],
  };
  const times: number[] = [];
  const onWorld = (world: WorldLine): void => {
    report.worlds += 1;
    for (const field of ['steps', 'snapshots', 'reads', 'crashes', 'removedChunks'] as const)
      report[field] += world[field];
    times.push(world.ms);
    for (const violation of world.violations)
      report.violations.push(`world ${world.seed} (${world.profile}): ${violation}`);
    if (report.worlds % 100 === 0) log(`${report.worlds} worlds, ${report.violations.length} violations`);
  };
  try {
    const share = Math.ceil(count / processes);
    await Promise.all(
      Array.from({ length: processes }, (_, n) =>
        runWorlds({ from: seed + n * share, count: Math.min(share, count - n * share), server, onWorld }),
      ),
    );
  } finally {
    await server?.stop();
  }
  times.sort((a, b) => a - b);
  report.worldMs = { median: times[Math.floor(times.length / 2)] ?? 0, most: times.at(-1) ?? 0 };
  return report;
}

interface RunOptions {
  from: number;
  count: number;
  server: { url: string; env: Record<string, string> } | undefined;
  onWorld: (world: WorldLine) => void;
}

/** In a process of its own: the scheduler needs a thread pool of one thread, which is set before a process starts. */
async function runWorlds({ from, count, server, onWorld }: RunOptions): Promise<void> {
  if (count <= 0) return;
  const args = ['--from', String(from), '--count', String(count)];
  if (server !== undefined) args.push('--store', server.url);
  const child = spawn(process.execPath, [SCRIPT, ...args], {
    env: { ...process.env, ...server?.env, UV_THREADPOOL_SIZE: '1' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  createInterface({ input: child.stdout }).on('line', (line) => onWorld(JSON.parse(line)));
  const code = await new Promise<number | null>((done, reject) => {
    child.once('error', reject);
    child.once('close', done);
  });
  if (code !== 0) throw new Error(`worlds from ${from} on ended with ${code}`);
}
