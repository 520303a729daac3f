import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf, ioError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { currentBootId, listIntents } from './intent.ts';
import { isAlive, type ProcessId, threadStates } from './proc.ts';

/** A pause that an earlier presync left behind. */
export interface RecoveredPause {
  /** Name of the intent file that was removed. */
  intentPath: string;
  /** The node's process at that time; undefined when the intent was unreadable. */
  pid: number | undefined;
  /**
   * - `resumed`: the node was found stopped and runs again.
   * - `running`: it runs already (the deadman, or somebody else, had resumed it).
   * - `gone`: the process has ended, or the machine was started anew since.
   * - `unreadable`: the file was no intent; nothing could be done but remove it.
   */
  outcome: 'resumed' | 'running' | 'gone' | 'unreadable';
  byDeadman: boolean;
}

/**
 * Resumes every node that was paused by a presync that has ended, and removes the intents. Intents of a presync that is
 * alive are left alone. To be called at each start and stop of the service; may be called at any time.
 *
 * @throws NODE_RESUME_FAILED when a node stays stopped; its intent is kept
 * @throws IO_FAILED, ABORTED
 */
export async function recoverPauses(options: {
  stateDir: string;
  signal: AbortSignal;
}): Promise<RecoveredPause[]> {
  const recovered: RecoveredPause[] = [];
  const bootId = await currentBootId();
  const failures: unknown[] = [];
  for (const { path, intent, byDeadman } of await listIntents(options.stateDir)) {
    throwIfAborted(options.signal);
    if (intent !== undefined && intent.bootId === bootId && isAlive(intent.owner)) continue;
    let outcome: RecoveredPause['outcome'] = 'unreadable';
    try {
      if (intent !== undefined)
        outcome = intent.bootId === bootId ? await resumeProcess(intent.node) : 'gone';
    } catch (error) {
      // The other nodes must come back as well.
      failures.push(error);
      continue;
    }
    await rm(path, { force: true }).catch((error: unknown) => {
      throw ioError(error, 'remove', path);
    });
    recovered.push({ intentPath: path, pid: intent?.node.pid, outcome, byDeadman });
  }
  if (failures.length > 0) throw failures[0];
  return recovered;
}

/** How long a process may take to run again: it needs no more than to be scheduled. */
const RESUME_TIMEOUT_MS = 5000;

/**
 * SIGCONT, and a look whether it worked.
 *
 * @throws NODE_RESUME_FAILED
 */
export async function resumeProcess(process_: ProcessId): Promise<'resumed' | 'running' | 'gone'> {
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
