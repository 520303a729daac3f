import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { startUnit, stopUnit } from '@presync/node/units';
import { messageOf, PresyncError } from '@presync/runtime/errors';

/** The node: a command that becomes a child, or a systemd unit. */
export type StartHow = { command: readonly string[] } | { unit: string };

/** A node that was started. */
export interface StartedNode {
  /** True when it ends with presync; a unit is left to systemd. */
  readonly isChild: boolean;
  /** The process, where presync is its parent. */
  readonly pid: number | undefined;
  /** The exit code of a child, when it ends. Of a unit it never settles. */
  readonly exit: Promise<number>;
  /** Stops it and waits for its end. A child gets SIGTERM, and SIGKILL after a while. Nothing happens when it has ended. */
  stop(): Promise<void>;
}

/** How long a node may take to close its database after SIGTERM, milliseconds. */
const STOP_TIMEOUT_MS = 60_000;

/** @throws NODE_START_FAILED */
export function startNode(how: StartHow, { signal }: { signal: AbortSignal }): Promise<StartedNode> {
  return 'unit' in how ? startAsUnit(how.unit, signal) : startAsChild(how.command);
}

/** It shares this process's standard error, and its standard output is moved there too: standard output is for results. */
async function startAsChild([program, ...args]: readonly string[]): Promise<StartedNode> {
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
  return {
    isChild: true,
    pid: child.pid,
    exit,
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

function exitOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve) => {
    child.once('exit', (code, signal) => resolve(code ?? (signal === null ? 1 : 128)));
    child.once('error', () => resolve(127));
  });
}

async function startAsUnit(unit: string, signal: AbortSignal): Promise<StartedNode> {
  await startUnit(unit, { signal });
  return {
    isChild: false,
    pid: undefined,
    exit: new Promise(() => {}),
    stop: () => stopUnit(unit, { timeoutMs: STOP_TIMEOUT_MS }),
  };
}
