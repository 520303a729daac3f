import { setTimeout as timer } from 'node:timers/promises';

/** Where the algorithms that wait and expire take their time from, so that tests can give them another one. */
export interface Clock {
  /** Milliseconds since 1970, as other machines understand it. It may be wrong, and may jump. */
  now(): number;
  /** Milliseconds since some moment; never jumps. What is held for a while is measured by it. */
  elapsed(): number;
  /** Resolves after so long, or at once when the signal fires. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

/** This machine's clock, set right by `skewMs`: the store's clock minus this machine's, where it is known. */
export function createClock(skewMs = 0): Clock {
  return {
    now: () => Date.now() + skewMs,
    elapsed: () => performance.now(),
    sleep: (ms, signal) =>
      timer(ms, undefined, { signal }).then(
        () => {},
        () => {},
      ),
  };
}

/** How far two clocks may be apart: each is at most six minutes wrong. */
export const MAX_SKEW_MS = 12 * 60_000;

/**
 * How long after it was sent a call may still be carried out, by a store or on the way to it, although its caller has given it up. S3 refuses a
 * request whose signature is older.
 */
export const MAX_LANDING_MS = 15 * 60_000;
