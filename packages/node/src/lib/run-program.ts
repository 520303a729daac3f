import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf } from '@presync/runtime/errors';
import type { OnOutput } from './hold.ts';

export interface RunOptions {
  timeoutMs: number;
  /** Ends it as the time limit does. */
  signal?: AbortSignal | undefined;
  /** Default: the process's own. */
  environment?: Readonly<Record<string, string>> | undefined;
  onOutput?: OnOutput | undefined;
}

export type RunOutcome =
  | { ok: true; stdout: string }
  /** `why` says how it ended, with the last line that it wrote. */
  | { ok: false; why: string; code: number | undefined; stdout: string; missing: boolean };

/** Between SIGTERM and SIGKILL to a program that has taken too long. */
const GRACE_MS = 5000;
/** After its end that long is waited for the last of its output. */
const LAST_WORDS_MS = 1000;
/** Of what a program says that much is kept. */
const KEEP = 64 * 1024;

/** Runs a program in a process group of its own, so that a signal to presync does not reach it, until it ends or its time is over. */
export async function runProgram(argv: readonly string[], options: RunOptions): Promise<RunOutcome> {
  const [command = '', ...args] = argv;
  if (options.signal?.aborted === true) return failed('was not started any more', '');
  const child = spawn(command, args, {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: '/',
    env: options.environment ?? process.env,
  });
  const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
  let stdout = '';
  let lastLine = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    if (stdout.length < KEEP) stdout += text.slice(0, KEEP - stdout.length);
  });
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', (line) => {
      if (line.trim() === '') return;
      lastLine = line.slice(0, 500);
      options.onOutput?.(lastLine);
    });
  }
  let endedBy: string | undefined;
  let gone: Promise<void> | undefined;
  const end = (why: string): void => {
    if (endedBy !== undefined) return;
    endedBy = why;
    gone = endGroup(child.pid);
  };
  const timer = setTimeout(() => end(`did not end within ${options.timeoutMs} ms`), options.timeoutMs);
  const onAbort = (): void => end('was stopped');
  options.signal?.addEventListener('abort', onAbort, { once: true });
  try {
    const outcome = await new Promise<{ code: number | null; name: string | null } | { error: Error }>(
      (resolve) => {
        child.once('error', (error) => resolve({ error }));
        child.once('exit', (code, name) => resolve({ code, name }));
      },
    );
    if ('error' in outcome)
      return failed(
        `could not be started: ${outcome.error.message}`,
        stdout,
        errnoOf(outcome.error) === 'ENOENT',
      );
    await gone;
    // What it has left in the background may keep its output open for ever.
    await Promise.race([closed, sleep(LAST_WORDS_MS, undefined, { ref: false })]);
    if (outcome.code === 0 && endedBy === undefined) return { ok: true, stdout };
    const how =
      endedBy ??
      (outcome.code === null ? `was ended by ${outcome.name}` : `ended with exit code ${outcome.code}`);
    return {
      ...failed(lastLine === '' ? how : `${how}: ${lastLine}`, stdout),
      code: outcome.code ?? undefined,
    };
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener('abort', onAbort);
    child.stdout.destroy();
    child.stderr.destroy();
  }
}

/** Ends all that the program has started: an orderly end first, and SIGKILL to what is left after a while. */
async function endGroup(pid: number | undefined): Promise<void> {
  if (pid === undefined) return;
  const deadline = performance.now() + GRACE_MS;
  signalGroup(pid, 'SIGTERM');
  while (signalGroup(pid, 0)) {
    if (performance.now() > deadline) signalGroup(pid, 'SIGKILL');
    // A group that is left with zombies, which nobody reaps, is as good as gone.
    if (performance.now() > deadline + GRACE_MS) return;
    await sleep(20);
  }
}

/** False when the group has nobody any more. */
function signalGroup(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    process.kill(-pid, signal);
    return true;
  } catch {
    return false;
  }
}

function failed(why: string, stdout: string, missing = false): RunOutcome & { ok: false } {
  return { ok: false, why, code: undefined, stdout, missing };
}
