import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const LAUNCHER = join(import.meta.dirname, '../bin/presync.mjs');

export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** The environment of the tests, without what would configure presync. */
function cleanEnvironment(more: Record<string, string> = {}): Record<string, string> {
  const kept = Object.entries(process.env).filter(
    (entry): entry is [string, string] => entry[1] !== undefined && !entry[0].startsWith('PRESYNC_'),
  );
  return { ...Object.fromEntries(kept), ...more };
}

/** Starts the command that people run. Its standard error goes to a pipe, or to an open file. */
export function spawnPresync(
  args: readonly string[],
  env: Record<string, string> = {},
  stderr: 'pipe' | number = 'pipe',
): ChildProcess {
  return spawn(process.execPath, [LAUNCHER, ...args], {
    stdio: ['ignore', 'pipe', stderr],
    env: cleanEnvironment(env),
  });
}

/** Its output and exit code, when it has ended. */
export async function outcomeOf(child: ChildProcess): Promise<Outcome> {
  let [stdout, stderr] = ['', ''];
  child.stdout?.on('data', (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr?.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const [code]: (number | null)[] = await once(child, 'close');
  return { code: code ?? null, stdout, stderr };
}

export function presync(args: readonly string[], env: Record<string, string> = {}): Promise<Outcome> {
  return outcomeOf(spawnPresync(args, env));
}

/** A scratch folder that goes when the test ends. */
export async function scratch(t: { after(fn: () => Promise<void>): void }): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'presync-cli-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}
