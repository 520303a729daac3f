/** Runs the real command, as a user would, and gives what it said. */
import { type ChildProcess, spawn } from 'node:child_process';
import { join, resolve } from 'node:path';

const ROOT = resolve(import.meta.dirname, '../..');
/** The launcher, for node. */
export const COMMAND = join(ROOT, 'packages/cli/bin/presync.mjs');

export interface PresyncOutcome {
  /** Exit code; null when a signal ended it. */
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
  /** stdout as JSON; undefined when it is not. */
  json: unknown;
  seconds: number;
}

export interface PresyncOptions {
  env?: NodeJS.ProcessEnv | undefined;
  cwd?: string | undefined;
  /** The user and group to run as; only root may give another. */
  user?: number | undefined;
}

export interface RunningPresync {
  child: ChildProcess;
  pid: number;
  done: Promise<PresyncOutcome>;
}

/** Variables of presync's own that a developer's shell may have must not steer tests. */
function environment(extra: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('PRESYNC_'));
  return { ...Object.fromEntries(inherited), NO_COLOR: '1', UV_THREADPOOL_SIZE: '16', ...extra };
}

/** Starts the command. The process is the program itself, not a launcher, so that signals reach it. */
export function startPresync(args: readonly string[], options: PresyncOptions = {}): RunningPresync {
  const started = performance.now();
  const child = spawn(process.execPath, [COMMAND, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: environment(options.env ?? {}),
    cwd: options.cwd,
    ...(options.user === undefined ? {} : { uid: options.user, gid: options.user }),
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const done = new Promise<PresyncOutcome>((resolveOutcome, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      resolveOutcome({
        code,
        signal,
        stdout,
        stderr,
        json: parse(stdout),
        seconds: (performance.now() - started) / 1000,
      });
    });
  });
  return { child, pid: child.pid ?? 0, done };
}

/** Runs the command to its end. */
export function presync(args: readonly string[], options: PresyncOptions = {}): Promise<PresyncOutcome> {
  return startPresync(args, options).done;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Runs the command and throws with its output unless it exits with 0. */
export async function presyncOk(
  args: readonly string[],
  options: PresyncOptions = {},
): Promise<PresyncOutcome> {
  const outcome = await presync(args, options);
  if (outcome.code !== 0)
    throw new Error(
      `presync ${args.join(' ')} ended with ${outcome.code ?? outcome.signal}:\n${outcome.stdout}\n${outcome.stderr}`,
    );
  return outcome;
}
