/**
 * Holding a node still for a moment, with the promise that it always comes back.
 */
import { isPresyncError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Backend } from './layout.ts';
import { createHoldPauser } from './lib/hold-pauser.ts';
import { DEFAULT_HOOK_TIMEOUT_MS, finderOf } from './lib/strategies.ts';
import type { DatabaseHolder } from './locks.ts';

/**
 * - `none`: for a node that does not run.
 * - `signal`: SIGSTOP and SIGCONT to its process.
 * - `freeze`: its cgroup, by systemd or by the kernel's own files.
 * - `stop`: its systemd unit, which is started again.
 * - `docker`: its container, paused, or stopped and started.
 * - `hooks`: the user's own commands before and after.
 */
export type PauseStrategy = 'none' | 'signal' | 'freeze' | 'stop' | 'docker' | 'hooks';

/** What the configuration says of the pause. Each strategy reads what it needs of it. */
export interface PauseSettings {
  strategy: PauseStrategy;
  /** `signal`, `freeze`: the node's process; or `pidFile`; or neither, when `holder` is known. */
  pid?: number | undefined;
  /** A file that holds the pid as decimal text. Read anew for each pause. */
  pidFile?: string | undefined;
  /** `freeze`, `stop`: the node's systemd unit. */
  unit?: string | undefined;
  /** `docker`: name or id. */
  container?: string | undefined;
  /** Default `/var/run/docker.sock`. */
  dockerSocket?: string | undefined;
  /** Default `pause`. */
  dockerAction?: 'pause' | 'stop' | undefined;
  /** `hooks`: for `sh -c`. */
  hookBefore?: string | undefined;
  /** Always runs when the other one was begun, also when that failed. */
  hookAfter?: string | undefined;
  /** Where the before hook leaves a frozen copy of the base path; the node must run again when that hook ends. */
  hookView?: string | undefined;
  /** That long each hook may take; default two minutes. */
  hookTimeoutMs?: number | undefined;
  /** The node is brought back after this many milliseconds at the latest, by an independent process. Default by strategy. */
  budgetMs?: number | undefined;
}

/** A database that the node has open. */
export interface DatabaseRef {
  dir: string;
  backend: Backend;
}

export interface PauserOptions extends PauseSettings {
  /** Who holds the database's lock, see `databaseHolder`. Any other process is refused. */
  holder?: DatabaseHolder | undefined;
  databases: readonly DatabaseRef[];
  /** Where the intents are kept, on a disk that survives presync. Created with mode 0700. */
  stateDir: string;
  /** The shell that runs the deadman; default `['sh']`. */
  shell?: readonly string[] | undefined;
  /** What hooks say, line by line. */
  onOutput?: ((line: string) => void) | undefined;
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
  /** The frozen copy of the base path that hooks have left: the node runs, and the copy stays until `release`. */
  readonly copy: string | undefined;
  /** When the budget is over, by `performance.now()`; undefined when nobody stands still. */
  readonly budgetEnds: number | undefined;
  /**
   * Lets the node run again and resolves when it does. May be called twice; the second call gives the first one's answer.
   * It takes no signal: resuming is never given up.
   *
   * @returns how long the node stood still, by the monotonic clock; `inTime` is false when somebody (the deadman) had
   * resumed the node already, so that what was read of its database may be inconsistent
   * @throws NODE_RESUME_FAILED
   */
  resume(): Promise<{ seconds: number; inTime: boolean }>;
  /**
   * Gives the copy back, where there is one. May be called twice.
   *
   * @throws NODE_RESUME_FAILED, NODE_CHANGED when the copy was taken away while it was read
   */
  release(): Promise<void>;
}

/** A node that is stopped and started needs longer than one that stands still, and so do commands that make a volume's snapshot. */
const BUDGETS_MS: Record<PauseStrategy, number> = {
  none: 0,
  signal: 10_000,
  freeze: 10_000,
  docker: 10_000,
  stop: 120_000,
  hooks: 120_000,
};

/** @throws CONFIG_INVALID */
export function createPauser(options: PauserOptions): Pauser {
  if (options.strategy === 'none') return createNonePauser();
  const find = finderOf(options);
  const { stateDir, shell = ['sh'], onOutput } = options;
  return createHoldPauser({ stateDir, budgetMs: budgetOf(options), shell, onOutput, find });
}

function budgetOf(options: PauserOptions): number {
  const { strategy, dockerAction, hookView, hookTimeoutMs = DEFAULT_HOOK_TIMEOUT_MS } = options;
  // While a copy is made, the node stands still for as long as the hook lets it, if at all.
  if (strategy === 'hooks' && hookView !== undefined) return hookTimeoutMs;
  const stops = strategy === 'docker' && dockerAction === 'stop';
  const budgetMs = options.budgetMs ?? BUDGETS_MS[stops ? 'stop' : strategy];
  if (Number.isFinite(budgetMs) && budgetMs >= 10 && budgetMs <= 3_600_000) return budgetMs;
  throw new PresyncError(
    'CONFIG_INVALID',
    `the pause budget is ${budgetMs} ms, not between 10 ms and one hour`,
    { hint: 'a second or two is usual' },
  );
}

function createNonePauser(): Pauser {
  return {
    budgetMs: undefined,
    pause: async ({ signal }) => {
      throwIfAborted(signal);
      const start = performance.now();
      let seconds: number | undefined;
      return {
        copy: undefined,
        budgetEnds: undefined,
        resume: async () => {
          seconds ??= (performance.now() - start) / 1000;
          return { seconds, inTime: true };
        },
        release: async () => {},
      };
    },
  };
}

/**
 * Does the work while the node stands still, and resumes the node whatever happens. The work's signal fires when the
 * given one does or when the budget is over. `release` gives the copy back that the work was about, when it is not read any more.
 *
 * @throws NODE_PAUSE_BUDGET when the node ran again before the work was done: its result is thrown away
 * @throws whatever the work throws, NODE_RESUME_FAILED, and what `pause` throws
 */
export async function withPause<T>(
  pauser: Pauser,
  options: { signal: AbortSignal },
  work: (options: { copy: string | undefined; signal: AbortSignal }) => Promise<T>,
): Promise<{ result: T; seconds: number; release: () => Promise<void> }> {
  const paused = await pauser.pause(options);
  const { copy, budgetEnds } = paused;
  const budgetMs = pauser.budgetMs ?? 0;
  const budget = new AbortController();
  const timer =
    budgetEnds === undefined
      ? undefined
      : setTimeout(() => budget.abort(overBudget(budgetMs)), Math.max(0, budgetEnds - performance.now()));
  let outcome: { result: T } | { error: unknown };
  try {
    outcome = { result: await work({ copy, signal: AbortSignal.any([options.signal, budget.signal]) }) };
  } catch (error) {
    outcome = { error };
  } finally {
    clearTimeout(timer);
  }
  const { seconds, inTime } = await telling(outcome, paused.resume);
  if (!('error' in outcome) && inTime && !budget.signal.aborted)
    return { result: outcome.result, seconds, release: paused.release };
  await telling(outcome, paused.release);
  if ('error' in outcome) throw outcome.error;
  throw overBudget(budgetMs);
}

/** What fails after the work has failed must not hide why that was. */
async function telling<R>(
  outcome: { result: unknown } | { error: unknown },
  work: () => Promise<R>,
): Promise<R> {
  try {
    return await work();
  } catch (error) {
    if (!('error' in outcome)) throw error;
    const { code, hint } = isPresyncError(error) ? error : { code: 'INTERNAL' as const, hint: undefined };
    throw new PresyncError(code, `${messageOf(error)}; before that: ${messageOf(outcome.error)}`, {
      cause: outcome.error,
      hint,
    });
  }
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

export { type PauseAbility, pauseAbilities } from './lib/pause-abilities.ts';
export { type RecoveredPause, recoverPauses } from './lib/recover-pauses.ts';
export { type WatchBlocksOptions, watchBlocksAdvance } from './lib/watch-blocks.ts';
