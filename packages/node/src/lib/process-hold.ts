import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Hold, ReleaseOutcome } from './hold.ts';
import { hasEnded, isAlive, type ProcessId, processStatus, threadStates } from './proc.ts';

/** A thread in a system call that cannot be interrupted stops only when the call returns: a slow disk can take seconds. */
const MAX_STOP_MS = 10_000;

/** How long a process may take to run again: it needs no more than to be scheduled. */
const RESUME_TIMEOUT_MS = 5000;

/** SIGSTOP and SIGCONT, on Linux. */
export function createProcessHold(node: ProcessId): Hold {
  return {
    target: { kind: 'process', node },
    emergency: {
      script: 'if alive "$1" "$2"; then kill -s CONT "$1"; fi',
      gone: '! alive "$1" "$2"',
      args: [String(node.pid), node.startTime],
    },
    assertFree: async () => {
      if (threadStates(node.pid).includes('T')) {
        throw new PresyncError(
          'NODE_PAUSE_FAILED',
          `process ${node.pid} is stopped already, and not by presync`,
          {
            hint: `find out who stopped it; kill -CONT ${node.pid} lets it run`,
          },
        );
      }
    },
    hold: async ({ timeoutMs, signal }) => {
      stop(node);
      await untilStopped(node, { timeoutMs: Math.min(timeoutMs, MAX_STOP_MS), signal });
    },
    isHeld: async () => isStopped(node),
    release: () => resumeProcess(node),
  };
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

/**
 * SIGCONT, and a look whether it worked.
 *
 * @throws NODE_RESUME_FAILED
 */
async function resumeProcess(process_: ProcessId): Promise<ReleaseOutcome> {
  const deadline = performance.now() + RESUME_TIMEOUT_MS;
  let outcome: 'resumed' | 'running' = 'running';
  for (let attempt = 0; ; attempt++) {
    if (!isAlive(process_)) return 'gone';
    if (threadStates(process_.pid).includes('T')) outcome = 'resumed';
    else if (attempt > 0) return outcome;
    if (performance.now() > deadline) {
      throw new PresyncError(
        'NODE_RESUME_FAILED',
        `process ${process_.pid} stays stopped although SIGCONT was sent`,
        {
          hint: `run kill -CONT ${process_.pid} as root, or restart the node`,
        },
      );
    }
    // Sent also to one that seems to run: a SIGSTOP takes effect some time after it was sent, and SIGCONT takes it back.
    sendContinue(process_.pid);
    if (attempt > 0) await sleep(attempt < 5 ? 1 : 20);
  }
}

function sendContinue(pid: number): void {
  try {
    process.kill(pid, 'SIGCONT');
  } catch (error) {
    if (errnoOf(error) === 'ESRCH') return;
    throw new PresyncError('NODE_RESUME_FAILED', `SIGCONT cannot be sent to process ${pid}`, {
      cause: error,
      hint: `run kill -CONT ${pid} as root, or restart the node`,
    });
  }
}
