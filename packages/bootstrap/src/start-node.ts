import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { messageOf, PresyncError } from '@presync/runtime/errors';

/** A node that was started. */
export interface StartedNode {
  /** The process, where presync is its parent. */
  readonly pid: number | undefined;
  /** Rejects with NODE_START_FAILED when the node ends; never resolves while it runs. For a unit it never settles. */
  readonly ended: Promise<never>;
  /** Waits for the node to end by itself, and gives its exit code. For a unit it resolves at once, with 0. */
  wait(): Promise<number>;
  /** Stops a node that presync started as its child: SIGTERM, and SIGKILL after a while. A unit is left to systemd. */
  stop(): Promise<void>;
}

/** How long a node may take to close its database after SIGTERM, milliseconds. */
const STOP_TIMEOUT_MS = 60_000;

/**
 * Starts the node's command as a child that shares this process's standard error (and its standard output too, which is moved
 * there: standard output is for results). NODE_START_FAILED when it cannot be started.
 */
export async function startCommand(command: readonly string[]): Promise<StartedNode> {
  const [program, ...args] = command;
  if (program === undefined)
    throw new PresyncError('CONFIG_INVALID', 'the node command is empty', {
      hint: 'give it after --, as: presync bootstrap … -- polkadot --base-path …',
    });
  const child = spawn(program, args, { stdio: ['ignore', 2, 2] });
  const exit = exitOf(child);
  try {
    await once(child, 'spawn');
  } catch (error) {
    throw new PresyncError('NODE_START_FAILED', `${program} cannot be started: ${messageOf(error)}`, {
      cause: error,
      hint: 'check the path of the node executable',
    });
  }
  const ended = exit.then((code): never => {
    throw new PresyncError('NODE_START_FAILED', `${program} ended with code ${code} before it was ready`, {
      hint: 'read its output above',
    });
  });
  // Whoever waits for readiness races against it; without a waiter it must not count as unhandled.
  ended.catch(() => {});
  return {
    pid: child.pid,
    ended,
    wait: () => exit,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill('SIGTERM');
      const patience = new AbortController();
      const forced = sleep(STOP_TIMEOUT_MS, undefined, { signal: patience.signal }).then(
        () => child.kill('SIGKILL'),
        () => false,
      );
      await exit;
      patience.abort();
      await forced;
    },
  };
}

async function exitOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve) => {
    child.once('exit', (code, signal) => resolve(code ?? (signal === null ? 1 : 128)));
    child.once('error', () => resolve(127));
  });
}

/** Starts a systemd unit. */
export async function startUnit(unit: string, { signal }: { signal: AbortSignal }): Promise<StartedNode> {
  try {
    await promisify(execFile)('systemctl', ['start', '--', unit], { signal });
  } catch (error) {
    throw new PresyncError('NODE_START_FAILED', `systemd did not start ${unit}: ${messageOf(error)}`, {
      cause: error,
      hint: `see "systemctl status ${unit}"`,
    });
  }
  return { pid: undefined, ended: new Promise(() => {}), wait: async () => 0, stop: async () => {} };
}
