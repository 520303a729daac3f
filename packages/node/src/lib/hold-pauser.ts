import { randomUUID } from 'node:crypto';
import { isPresyncError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Paused, Pauser } from '../pause.ts';
import { type Deadman, startDeadman } from './deadman.ts';
import type { Hold, OnOutput } from './hold.ts';
import { currentBootId, listIntents, removeIntent, writeIntent } from './intent.ts';
import { describeTarget, isSameTarget } from './pause-target.ts';
import { ownProcess } from './proc.ts';
import { isOwned, settleIntent } from './settle-intent.ts';

export interface HoldPauserOptions {
  stateDir: string;
  budgetMs: number;
  shell: readonly string[];
  onOutput: OnOutput | undefined;
  /** Finds the node anew for each pause. The id is the pause's own. */
  find(options: { id: string; signal: AbortSignal }): Promise<Hold>;
}

/** What every strategy has in common: first the intent on disk, then the deadman, then the hold; and whatever happens, the node comes back. */
export function createHoldPauser(options: HoldPauserOptions): Pauser {
  const { budgetMs, stateDir } = options;
  return {
    budgetMs,
    pause: async ({ signal }) => {
      throwIfAborted(signal);
      const id = randomUUID();
      const hold = await options.find({ id, signal });
      await settleEarlierPauses(stateDir, hold, options.onOutput);
      await hold.assertFree({ signal });
      const owner = ownProcess();
      const intentPath = await writeIntent(stateDir, { id, target: hold.target, owner, budgetMs });
      let deadman: Deadman | undefined;
      let begun = false;
      try {
        throwIfAborted(signal);
        deadman = await startDeadman({
          id,
          intentPath,
          emergency: hold.emergency,
          owner,
          budgetMs,
          // A copy is read for hours, during which the node runs.
          endless: hold.copy !== undefined,
          shell: options.shell,
          signal,
        });
        const start = performance.now();
        begun = true;
        await hold.hold({ timeoutMs: budgetMs, signal });
        await deadman.held();
        return createPaused({ hold, intentPath, deadman, start, budgetMs });
      } catch (error) {
        // The node first; what fails after that is of less weight than the node's life.
        if (begun) await bringBack(hold, error);
        await removeIntent(intentPath);
        await deadman?.stop();
        await hold.cleanUp?.();
        throw error;
      }
    },
  };
}

/** After a failure. When this fails too, the intent and the deadman stay, and both failures are told. */
async function bringBack(hold: Hold, failure: unknown): Promise<void> {
  try {
    await hold.release();
  } catch (error) {
    throw new PresyncError(
      'NODE_RESUME_FAILED',
      `the pause failed (${messageOf(failure)}), and then ${describeTarget(hold.target)} was not brought back: ${messageOf(error)}`,
      {
        cause: failure,
        hint: isPresyncError(error) ? error.hint : 'start the node by hand',
      },
    );
  }
}

function createPaused(pause: {
  hold: Hold;
  intentPath: string;
  deadman: Deadman;
  start: number;
  budgetMs: number;
}): Paused {
  const { hold, intentPath, deadman, start, budgetMs } = pause;
  const heldAt = performance.now();
  const letGo = once(async () => {
    // Judged before the release: a node that runs again by now was resumed by somebody else.
    const stillHeld = await hold.isHeld().catch(() => false);
    const outcome = await hold.release();
    const seconds = (performance.now() - start) / 1000;
    const byDeadman = await removeIntent(intentPath);
    await deadman.stop();
    await hold.cleanUp?.();
    if (outcome === 'gone') {
      throw new PresyncError(
        'NODE_RESUME_FAILED',
        `${describeTarget(hold.target)} ended while it was paused`,
        {
          hint: 'look at the node’s log and start it again',
        },
      );
    }
    return { seconds, inTime: stillHeld && outcome === 'resumed' && !byDeadman };
  });
  if (hold.copy === undefined) {
    return {
      copy: undefined,
      budgetEnds: start + budgetMs,
      resume: letGo,
      release: async () => {},
    };
  }
  return {
    copy: hold.copy,
    budgetEnds: undefined,
    resume: async () => ({ seconds: (heldAt - start) / 1000, inTime: true }),
    release: async () => {
      const { inTime } = await letGo();
      if (inTime) return;
      throw new PresyncError(
        'NODE_CHANGED',
        `the frozen copy at ${hold.copy} was taken away while it was read`,
        {
          hint: 'look in the log for who ran the after hook; the snapshot is taken anew by the next run',
          retryable: true,
        },
      );
    },
  };
}

/** A node that an earlier presync holds is let go first; one that a living presync holds is left alone. */
async function settleEarlierPauses(
  stateDir: string,
  { target }: Hold,
  onOutput: OnOutput | undefined,
): Promise<void> {
  const bootId = await currentBootId();
  for (const { path, intent } of await listIntents(stateDir)) {
    if (intent === undefined || !isSameTarget(intent.target, target)) continue;
    if (isOwned(intent, bootId)) {
      throw new PresyncError(
        'LOCKED',
        `${describeTarget(target)} is being paused by process ${intent.owner.pid}, another presync`,
        { hint: 'wait until it has finished', retryable: true },
      );
    }
    await settleIntent({ path, intent }, bootId, { onOutput });
  }
}

function once<T>(work: () => Promise<T>): () => Promise<T> {
  let result: Promise<T> | undefined;
  return () => {
    result ??= work();
    return result;
  };
}
