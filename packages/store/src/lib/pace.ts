import { sleep } from './sleep.ts';

/** Keeps the bytes of many calls below a rate. */
export interface Pace {
  /**
   * Waits until there is room for `bytes`, in the order of the calls. The function that it gives is told how many bytes were
   * moved in the end, and gives the difference back.
   */
  take(bytes: number, signal: AbortSignal): Promise<(moved: number) => void>;
}

/** Milliseconds in which an idle line gathers credit, so that a short pause is not lost for good. */
const CREDIT_MS = 250;

/**
 * At most `bytesPerSecond` on average. A call that was let through moves at full speed, so over less than a few objects' time the
 * rate may be higher.
 */
export function createPace(bytesPerSecond: number, now: () => number = () => performance.now()): Pace {
  const cost = (bytes: number): number => (bytes / bytesPerSecond) * 1000;
  /** When everything that was let through so far is paid for. */
  let paidAt = now();
  return {
    async take(bytes, signal) {
      const start = Math.max(paidAt, now() - CREDIT_MS);
      paidAt = start + cost(bytes);
      const refund = (moved: number): void => {
        paidAt -= cost(bytes - moved);
      };
      try {
        for (let wait = start - now(); wait > 0; wait = start - now()) await sleep(wait, signal);
      } catch (error) {
        refund(0);
        throw error;
      }
      return refund;
    },
  };
}
