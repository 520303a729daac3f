import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf, ioError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Paused, Pauser, SignalPauserOptions } from '../pause.ts';
import { type Deadman, startDeadman } from './deadman.ts';
import { currentBootId, listIntents, removeIntent, writeIntent } from './intent.ts';
import { hasEnded, isAlive, ownProcess, type ProcessId, processStatus, threadStates } from './proc.ts';
import { resumeProcess } from './recover-pauses.ts';

/** A thread in a system call that cannot be interrupted stops only when the call returns: a slow disk can take seconds. */
const MAX_STOP_MS = 10_000;

/** SIGSTOP and SIGCONT by pid, on Linux. */
export function createSignalPauser(options: SignalPauserOptions): Pauser {
  const { budgetMs, stateDir } = options;
  if (!Number.isFinite(budgetMs) || budgetMs < 10 || budgetMs > 3_600_000) {
    throw new PresyncError(
      'CONFIG_INVALID',
      `the pause budget is ${budgetMs} ms, not between 10 ms and one hour`,
      { hint: 'a second or two is usual' },
    );
  }
  if (options.pid === undefined && options.pidFile === undefined && options.expectedHolderPid === undefined) {
    throw new PresyncError('CONFIG_INVALID', 'the pause strategy "signal" has no process to pause', {
      hint: 'give --pid-file',
    });
  }

  return {
    budgetMs,
    pause: async ({ signal }) => {
      throwIfAborted(signal);
      const node = identify(await findPid(options), options.expectedHolderPid);
      await settleEarlierPauses(stateDir, node);
      const owner = ownProcess();
      const { path: intentPath } = await writeIntent(stateDir, { node, owner, budgetMs });
      let deadman: Deadman | undefined;
      try {
        throwIfAborted(signal);
        deadman = await startDeadman({
          intentPath,
          node,
          owner,
          budgetMs,
          shell: options.shell ?? ['sh'],
          signal,
        });
        const start = performance.now();
        stop(node);
        await untilStopped(node, { timeoutMs: Math.min(budgetMs, MAX_STOP_MS), signal });
        return createPaused({ node, intentPath, deadman, start });
      } catch (error) {
        // The node first; what fails after that is of less weight than the node's life.
        await resumeProcess(node);
        await removeIntent(intentPath);
        await deadman?.stop();
        throw error;
      }
    },
  };
}

function createPaused(pause: {
  node: ProcessId;
  intentPath: string;
  deadman: Deadman;
  start: number;
}): Paused {
  const { node, intentPath, deadman, start } = pause;
  let resumed: Promise<{ seconds: number; inTime: boolean }> | undefined;
  const resume = async () => {
    // Judged before the SIGCONT: a node that runs again by now was resumed by somebody else.
    const stillStopped = isStopped(node);
    const outcome = await resumeProcess(node);
    const seconds = (performance.now() - start) / 1000;
    const byDeadman = await removeIntent(intentPath);
    await deadman.stop();
    if (outcome === 'gone') {
      throw new PresyncError('NODE_RESUME_FAILED', `process ${node.pid} ended while it was paused`, {
        hint: 'look at the node’s log and start it again',
      });
    }
    return { seconds, inTime: stillStopped && !byDeadman };
  };
  return {
    pid: node.pid,
    resume: () => {
      resumed ??= resume();
      return resumed;
    },
  };
}

async function findPid(options: SignalPauserOptions): Promise<number> {
  if (options.pid !== undefined) return options.pid;
  if (options.pidFile === undefined) return options.expectedHolderPid ?? Number.NaN;
  let text: string;
  try {
    text = await readFile(options.pidFile, 'utf8');
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw ioError(error, 'read', options.pidFile);
    throw new PresyncError('NODE_NOT_RUNNING', `there is no pid file ${options.pidFile}`, {
      cause: error,
      hint: 'start the node, or check --pid-file',
    });
  }
  if (!/^\s*[1-9]\d{0,9}\s*$/.test(text)) {
    throw new PresyncError('NODE_PAUSE_FAILED', `the pid file ${options.pidFile} does not hold a pid`, {
      hint: 'check --pid-file',
    });
  }
  return Number(text);
}

/** Refuses everything that can be seen not to be the node. */
function identify(pid: number, expected: number | undefined): ProcessId {
  if (!Number.isSafeInteger(pid) || pid < 1)
    throw new PresyncError('CONFIG_INVALID', `${pid} is not a pid`, { hint: 'check --pid-file' });
  if (pid === 1) throw refused(pid, 'it is the system’s first process');
  if (ancestors().has(pid)) throw refused(pid, 'it is presync itself, or started presync');
  if (expected !== undefined && expected !== pid)
    throw refused(pid, `the database is held open by process ${expected}, not by this one`);
  const status = processStatus(pid);
  if (status === undefined || hasEnded(status.state)) {
    throw new PresyncError('NODE_NOT_RUNNING', `there is no process ${pid}`, {
      hint: 'start the node, or check --pid-file',
    });
  }
  return { pid, startTime: status.startTime };
}

/** This process and all that it descends from. */
function ancestors(): Set<number> {
  const pids = new Set<number>();
  for (let pid = process.pid; pid > 0 && !pids.has(pid); pid = processStatus(pid)?.parent ?? 0) pids.add(pid);
  return pids;
}

/** A node that stands still already: by an earlier presync it is resumed, by anybody else it is left as it is. */
async function settleEarlierPauses(stateDir: string, node: ProcessId): Promise<void> {
  const bootId = await currentBootId();
  for (const { path, intent } of await listIntents(stateDir)) {
    if (intent === undefined || intent.bootId !== bootId) continue;
    if (intent.node.pid !== node.pid || intent.node.startTime !== node.startTime) continue;
    if (isAlive(intent.owner)) {
      throw new PresyncError(
        'LOCKED',
        `process ${node.pid} is being paused by process ${intent.owner.pid}, another presync`,
        {
          hint: 'wait until it has finished',
          retryable: true,
        },
      );
    }
    await resumeProcess(node);
    await removeIntent(path);
  }
  if (threadStates(node.pid).includes('T')) {
    throw new PresyncError(
      'NODE_PAUSE_FAILED',
      `process ${node.pid} is stopped already, and not by presync`,
      {
        hint: `find out who stopped it; kill -CONT ${node.pid} lets it run`,
      },
    );
  }
}

function stop(node: ProcessId): void {
  if (!isAlive(node))
    throw new PresyncError('NODE_NOT_RUNNING', `process ${node.pid} has just ended`, {
      hint: 'start the node',
    });
  try {
    process.kill(node.pid, 'SIGSTOP');
  } catch (error) {
    if (errnoOf(error) === 'ESRCH')
      throw new PresyncError('NODE_NOT_RUNNING', `process ${node.pid} has just ended`, {
        cause: error,
        hint: 'start the node',
      });
    throw new PresyncError('NODE_PAUSE_FAILED', `SIGSTOP cannot be sent to process ${node.pid}`, {
      cause: error,
      hint: 'run presync as the node’s user, or as root',
    });
  }
}

function isStopped(node: ProcessId): boolean {
  const status = processStatus(node.pid);
  if (status === undefined || status.startTime !== node.startTime) return false;
  const states = threadStates(node.pid).filter((state) => !hasEnded(state));
  return states.length > 0 && states.every((state) => state === 'T');
}

/** A SIGSTOP is only a request: the process stands still when each of its threads does. */
async function untilStopped(
  node: ProcessId,
  options: { timeoutMs: number; signal: AbortSignal },
): Promise<void> {
  const deadline = performance.now() + options.timeoutMs;
  while (!isStopped(node)) {
    throwIfAborted(options.signal);
    if (!isAlive(node))
      throw new PresyncError('NODE_NOT_RUNNING', `process ${node.pid} ended while it was being paused`, {
        hint: 'look at the node’s log',
      });
    if (performance.now() > deadline) {
      throw new PresyncError(
        'NODE_PAUSE_FAILED',
        `the threads of process ${node.pid} did not all stop within ${options.timeoutMs} ms`,
        {
          hint: 'look whether the disk is overloaded, or whether a debugger is attached to the node',
          retryable: true,
        },
      );
    }
    await sleep(1);
  }
}

function refused(pid: number, why: string): PresyncError {
  return new PresyncError('NODE_PAUSE_FAILED', `process ${pid} is not paused: ${why}`, {
    hint: 'give the pid of the node, by --pid-file',
  });
}
