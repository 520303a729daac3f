import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

export function hasCommand(name: string, ...args: string[]): boolean {
  return spawnSync(name, args, { stdio: 'ignore' }).error === undefined;
}

/** The state letters of all threads, as the kernel tells them. */
export function states(pid: number): string {
  return readdirSync(`/proc/${pid}/task`)
    .map((thread) =>
      readFileSync(`/proc/${pid}/task/${thread}/stat`, 'latin1').replace(/^.*\) (\w).*$/s, '$1'),
    )
    .join('');
}

export function isStopped(pid: number): boolean {
  return /^T+$/.test(states(pid));
}

/** Waits generously until something is so. */
export async function until(what: string, check: () => boolean, timeoutMs = 30_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!check()) {
    if (performance.now() > deadline) throw new Error(`not so within ${timeoutMs} ms: ${what}`);
    await sleep(5);
  }
}

/** Pids of running deadmen whose intent lies in that folder. */
export function deadmenOf(stateDir: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const command = readFileSync(`/proc/${pid}/cmdline`, 'latin1');
        // What it forks for each `sleep` shows the same command line for a moment, but leads no process group.
        const leads =
          Number(
            readFileSync(`/proc/${pid}/stat`, 'latin1')
              .replace(/^.*\) /s, '')
              .split(' ')[2],
          ) === pid;
        return leads && command.includes('presync-deadman') && command.includes(stateDir);
      } catch {
        return false;
      }
    });
}

/** Waits until the child has said something; fails when it ends before. */
export async function untilItSpeaks(child: ChildProcess): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    child.stdout?.once('data', () => resolve());
    child.once('exit', (code) =>
      reject(new Error(`it ended with exit code ${code} before it said anything`)),
    );
  });
}

/** Children that are killed, also when stopped, by `killAll`. */
export function createNursery(): {
  start(command: string, args: readonly string[]): ChildProcess & { pid: number };
  /** Resolves when it has ended. */
  kill(child: ChildProcess): Promise<void>;
  killAll(): Promise<void>;
} {
  const children: ChildProcess[] = [];
  const kill = async (child: ChildProcess): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await gone;
  };
  return {
    start: (command, args) => {
      const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
      children.push(child);
      const { pid } = child;
      if (pid === undefined) throw new Error(`cannot start ${command}`);
      return Object.assign(child, { pid });
    },
    kill,
    killAll: async () => {
      for (const child of children.splice(0)) await kill(child);
    },
  };
}
