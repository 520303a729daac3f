import { throwIfAborted } from '@presync/runtime/errors';
import pLimit from 'p-limit';
import { unlessAborted } from './abort.ts';

/** Runs at most so many calls at a time. */
export type Limiter = ReturnType<typeof pLimit>;

/** A limiter of `concurrency` calls at a time; the others wait in the order in which they came. */
export function newLimiter(concurrency: number): Limiter {
  return pLimit(concurrency);
}

/**
 * Runs `work` when there is room. A call whose signal fires while it waits rejects at once and never runs; one that
 * runs ends by itself, and keeps its place until then.
 */
export function limited<T>(limiter: Limiter, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    // The wait for the turn is cut short by the signal, the work is not: it ends by itself.
    const turn = Promise.withResolvers<void>();
    const ended = limiter(async () => {
      turn.resolve();
      throwIfAborted(signal);
      return work();
    });
    unlessAborted(turn.promise, signal).then(() => ended.then(resolve, reject), reject);
    ended.catch(reject);
  });
}
