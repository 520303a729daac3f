import type { Logger } from '@presync/runtime/log';
import type { CurrentRun } from './runner.ts';

export interface WatchdogOptions {
  /** How often systemd wants to be fed; undefined for a watch without one. */
  feedMs: number | undefined;
  /** How long a run may stand still. */
  stallMs: () => number;
  current: () => CurrentRun | undefined;
  /** Milliseconds of the monotonic clock at which the run last moved. */
  movedAt: () => number;
  feed: () => void;
  onStalled: (stalled: boolean) => void;
  log: Logger;
}

export interface Watchdog {
  readonly stalled: boolean;
  stop(): void;
}

/** Often enough to see a stall soon, seldom enough to cost nothing. */
const LOOK_EVERY_MS = 5000;

/**
 * Feeds the watchdog of systemd as long as the event loop turns, and, while a run is under way, as long as that moves: so a process that hangs is
 * ended and started anew by systemd, and the node, if it is paused, is resumed.
 */
export function startWatchdog(options: WatchdogOptions): Watchdog {
  const { feedMs, log } = options;
  let stalled = false;
  let fed = Number.NEGATIVE_INFINITY;
  const look = (): void => {
    const run = options.current();
    const still = performance.now() - options.movedAt();
    const now = run !== undefined && still > options.stallMs();
    if (now !== stalled) {
      stalled = now;
      options.onStalled(now);
      const fields = { run: run?.id, phase: run?.phase, seconds: Math.round(still / 1000) };
      if (now) log.error('run.stalled', 'the run makes no progress', fields);
      else log.info('run.moved', 'the run makes progress again, or has ended', fields);
    }
    // Twice as often as systemd demands, so that a late timer does no harm.
    if (feedMs === undefined || stalled || performance.now() - fed < feedMs / 2 - every) return;
    fed = performance.now();
    options.feed();
  };
  const every = Math.min(LOOK_EVERY_MS, (feedMs ?? Number.POSITIVE_INFINITY) / 4);
  const timer = setInterval(look, every);
  look();
  return {
    get stalled() {
      return stalled;
    },
    stop: () => clearInterval(timer),
  };
}
