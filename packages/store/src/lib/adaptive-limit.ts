import { throwIfAborted } from '@presync/runtime/errors';
import { unlessAborted } from './abort.ts';

export interface AdaptiveLimitOptions {
  /** Never more places than this. */
  max: number;
  /** Places at first. Default 8, or `max` when that is less. */
  initial?: number | undefined;
  /** Milliseconds; for tests. */
  now?: (() => number) | undefined;
}

/** A limit on calls under way that finds out by itself how many the road carries. */
export interface AdaptiveLimit {
  /** Waits for a place. The function that it gives returns it, and is told how many bytes came. */
  acquire(signal: AbortSignal): Promise<(bytes: number) => void>;
  /** To be called when the store is overloaded: fewer places from now on. */
  backOff(): void;
  /** Places now. */
  readonly places: number;
}

const INITIAL = 8;
/** Long enough that a burst of answers does not count as throughput. */
const WINDOW_MS = 1000;
/** So much more throughput than before shows that a rise was worth it. */
const GAIN = 1.05;
const RISE = 1.5;
const BACK_OFF = 0.7;
/** Windows without a rise after one that gained nothing, or after an overload. */
const PATIENCE = 8;

/**
 * Places grow while throughput grows, window by window; a rise that gains nothing is taken back, and tried again after a while. Places
 * shrink when the store says that it has too much to do, at most once a window, since one overload fails many calls.
 */
export function createAdaptiveLimit(options: AdaptiveLimitOptions): AdaptiveLimit {
  const { max, now = () => performance.now() } = options;
  let places = Math.max(1, Math.min(options.initial ?? INITIAL, max));
  /** Places before the rise that this window puts to the test. */
  let raisedFrom: number | undefined;
  let used = 0;
  const queue: (() => void)[] = [];

  let windowStart = now();
  let windowBytes = 0;
  /** True when somebody had to wait in this window. */
  let saturated = false;
  let lastRate = 0;
  let rest = 0;
  let lastBackOff = Number.NEGATIVE_INFINITY;

  function admit(): void {
    while (used < places) {
      const next = queue.shift();
      if (next === undefined) return;
      used += 1;
      next();
    }
  }

  function raise(): void {
    if (places >= max) return;
    raisedFrom = places;
    places = Math.min(max, Math.max(places + 1, Math.floor(places * RISE)));
  }

  /** Only a window in which somebody had to wait tells anything of the limit. */
  function judge(rate: number): void {
    if (raisedFrom !== undefined && rate <= lastRate * GAIN) {
      places = raisedFrom;
      raisedFrom = undefined;
      rest = PATIENCE;
      return;
    }
    lastRate = rate;
    raisedFrom = undefined;
    if (rest > 0) rest -= 1;
    else raise();
  }

  function endWindow(time: number): void {
    if (saturated) judge(windowBytes / (time - windowStart));
    windowStart = time;
    windowBytes = 0;
    saturated = queue.length > 0;
    admit();
  }

  return {
    get places() {
      return places;
    },
    async acquire(signal) {
      throwIfAborted(signal);
      if (used < places && queue.length === 0) {
        used += 1;
      } else {
        saturated = true;
        const turn = Promise.withResolvers<void>();
        queue.push(turn.resolve);
        try {
          await unlessAborted(turn.promise, signal);
        } catch (error) {
          const at = queue.indexOf(turn.resolve);
          if (at !== -1) queue.splice(at, 1);
          else used -= 1;
          admit();
          throw error;
        }
      }
      let held = true;
      return (bytes) => {
        if (!held) return;
        held = false;
        used -= 1;
        windowBytes += bytes;
        const time = now();
        if (time - windowStart >= WINDOW_MS) endWindow(time);
        admit();
      };
    },
    backOff() {
      const time = now();
      if (time - lastBackOff < WINDOW_MS) return;
      lastBackOff = time;
      places = Math.max(1, Math.floor(places * BACK_OFF));
      raisedFrom = undefined;
      rest = PATIENCE;
    },
  };
}
