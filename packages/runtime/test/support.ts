import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const NEVER: AbortSignal = new AbortController().signal;

/** A scratch folder that goes when the test ends. */
export async function scratch(t: { after(fn: () => Promise<void>): void }): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'presync-runtime-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

/** A program of `test/programs`, in a process of its own. */
export interface Program {
  child: ChildProcess;
  /** Both so far. */
  readonly stdout: string;
  readonly stderr: string;
  /** Resolves when stdout holds the text. */
  says(text: string): Promise<void>;
  ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

export function start(
  name: string,
  args: readonly string[] = [],
  options: { ipc?: boolean; env?: Record<string, string> } = {},
): Program {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'programs', name), ...args], {
    stdio: ['ignore', 'pipe', 'pipe', ...(options.ipc === true ? (['ipc'] as const) : [])],
    env: { ...process.env, ...options.env },
  });
  let [stdout, stderr] = ['', ''];
  child.stdout?.on('data', (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr?.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  // After a disconnect Node emits no "close", so the parts of it are waited for one by one.
  const finished = [child.stdout, child.stderr].map((stream) => stream && once(stream, 'close'));
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.on('exit', (code, signal) => {
      void Promise.all(finished).then(() => resolve({ code, signal }));
    });
  });
  return {
    child,
    get stdout() {
      return stdout;
    },
    get stderr() {
      return stderr;
    },
    async says(text) {
      while (!stdout.includes(text)) {
        if (child.exitCode !== null || child.stdout === null) {
          throw new Error(`it ended without saying ${text}: ${stdout}${stderr}`);
        }
        await Promise.race([once(child.stdout, 'data'), ended]);
      }
    },
    ended,
  };
}
