import type { PauseTarget } from './pause-target.ts';

/**
 * Holding one node still in one way: all that differs between the strategies. Intent, deadman, budget and timing are the pauser's, see
 * `hold-pauser.ts`.
 */
export interface Hold {
  readonly target: PauseTarget;
  /** Where the hold leaves a frozen copy of the base path, while the node itself runs. */
  readonly copy?: string | undefined;
  /** What the deadman does in place of `release`. */
  readonly emergency: Emergency;
  /**
   * Looks that the node is there and that nobody else holds it.
   *
   * @throws NODE_NOT_RUNNING, NODE_PAUSE_FAILED
   */
  assertFree(options: { signal: AbortSignal }): Promise<void>;
  /**
   * Resolves when the node stands still. When it rejects the node may be in any state, and `release` must follow.
   *
   * @throws NODE_NOT_RUNNING, NODE_PAUSE_FAILED, ABORTED
   */
  hold(options: { timeoutMs: number; signal: AbortSignal }): Promise<void>;
  /** False when somebody has let the node go. */
  isHeld(): Promise<boolean>;
  /**
   * Brings the node back, also one that is held by halves or not at all. May be called at any time and twice, and is never given up: it takes no
   * signal.
   *
   * @returns `running` when it ran already, `gone` when there is no node any more that could run
   * @throws NODE_RESUME_FAILED
   */
  release(): Promise<ReleaseOutcome>;
  /** Removes what the hold keeps on disk. To be called after the intent is gone. */
  cleanUp?(): Promise<void>;
}

export type ReleaseOutcome = 'resumed' | 'running' | 'gone';

/** Shell code that brings the node back and succeeds when it has; it may run at any time and twice. Its arguments are never part of the code. */
export interface Emergency {
  /** POSIX shell: the body of a function. */
  script: string;
  args: readonly string[];
  /** The whole of it; default: the PATH alone. */
  environment?: Readonly<Record<string, string>> | undefined;
  /** Another body, which succeeds when there is nothing left that could come back. */
  gone?: string | undefined;
}

/** A line of what a command of the user's has said. */
export type OnOutput = (line: string) => void;
