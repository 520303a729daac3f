/**
 * Holding a node still for a moment, with the promise that it always comes back.
 */
import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { createSignalPauser } from './lib/signal-pauser.ts';

export type PauserOptions = { strategy: 'none' } | SignalPauserOptions;

export interface SignalPauserOptions {
  strategy: 'signal';
  /** The node's process; or `pidFile`; or neither, when `expectedHolderPid` is known. */
  pid?: number | undefined;
  /** A file that holds the pid as decimal text. Read anew for each pause. */
  pidFile?: string | undefined;
  /** The process that holds the database's lock, see `databaseHolder`. Any other pid is refused. */
  expectedHolderPid?: number | undefined;
  /** Where the intents are kept, on a disk that survives presync. Created with mode 0700. */
  stateDir: string;
  /** The node is resumed after this many milliseconds at the latest, by an independent process. */
  budgetMs: number;
  /** The shell that runs the deadman; default `['sh']`. */
  shell?: readonly string[] | undefined;
}

export interface Pauser {
  /** Undefined for strategy `none`. Milliseconds. */
  readonly budgetMs: number | undefined;
  /**
   * Holds the node still. When it rejects, the node runs (or ran before and ended).
   *
   * @throws NODE_NOT_RUNNING, NODE_PAUSE_FAILED, LOCKED (another presync has paused it), CONFIG_INVALID, ABORTED
   */
  pause(options: { signal: AbortSignal }): Promise<Paused>;
}

export interface Paused {
  /** The paused process, where there is one. */
  readonly pid: number | undefined;
  /**
   * Lets the node run again and resolves when it does. May be called twice; the second call gives the first one's answer.
   * It takes no signal: resuming is never given up.
   *
   * @returns how long the node stood still, by the monotonic clock; `inTime` is false when somebody (the deadman) had
   * resumed the node already, so that what was read of its database may be inconsistent
   * @throws NODE_RESUME_FAILED
   */
  resume(): Promise<{ seconds: number; inTime: boolean }>;
}

/** @throws CONFIG_INVALID */
export function createPauser(options: PauserOptions): Pauser {
  if (options.strategy === 'signal') return createSignalPauser(options);
  return {
    budgetMs: undefined,
    pause: async ({ signal }) => {
      throwIfAborted(signal);
      const start = performance.now();
      let seconds: number | undefined;
      return {
        pid: undefined,
        resume: async () => {
          seconds ??= (performance.now() - start) / 1000;
          return { seconds, inTime: true };
        },
      };
    },
  };
}

/**
 * Does the work while the node stands still, and resumes the node whatever happens. The work's signal fires when the
 * given one does or when the budget is over.
 *
 * @throws NODE_PAUSE_BUDGET when the node ran again before the work was done: its result is thrown away
 * @throws whatever the work throws, NODE_RESUME_FAILED, and what `pause` throws
 */
export async function withPause<T>(
  pauser: Pauser,
  options: { signal: AbortSignal },
  work: (options: { signal: AbortSignal }) => Promise<T>,
): Promise<{ result: T; seconds: number }> {
  const paused = await pauser.pause(options);
  const budget = new AbortController();
  const { budgetMs } = pauser;
  const timer =
    budgetMs === undefined ? undefined : setTimeout(() => budget.abort(overBudget(budgetMs)), budgetMs);
  let outcome: { result: T } | { error: unknown };
  try {
    outcome = { result: await work({ signal: AbortSignal.any([options.signal, budget.signal]) }) };
  } catch (error) {
    outcome = { error };
  } finally {
    clearTimeout(timer);
  }
  const { seconds, inTime } = await paused.resume();
  if ('error' in outcome) throw outcome.error;
  if (!inTime || budget.signal.aborted) throw overBudget(budgetMs ?? 0);
  return { result: outcome.result, seconds };
}

function overBudget(budgetMs: number): PresyncError {
  return new PresyncError(
    'NODE_PAUSE_BUDGET',
    `the view was not frozen within ${budgetMs} ms; the node runs again`,
    {
      hint: 'allow a longer pause, or put the database on a file system with reflinks (xfs, btrfs)',
      retryable: true,
    },
  );
}

export { type RecoveredPause, recoverPauses } from './lib/recover-pauses.ts';
export { type WatchBlocksOptions, watchBlocksAdvance } from './lib/watch-blocks.ts';
