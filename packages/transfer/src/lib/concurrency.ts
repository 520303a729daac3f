import { PresyncError, throwIfAborted } from '@presync/runtime/errors';

/**
 * Runs `work` on each item, at most `concurrency` at a time, and yields the results in the items' order. Items are taken lazily, so
 * that at most `concurrency` are held. The first failure aborts the signal that the others were given, waits for them, and is thrown.
 */
export async function* mapOrdered<T, R>(
  items: Iterable<T> | AsyncIterable<T>,
  { concurrency, signal }: { concurrency: number; signal: AbortSignal },
  work: (item: T, signal: AbortSignal) => Promise<R>,
): AsyncGenerator<R> {
  const failed = new AbortController();
  const either = AbortSignal.any([signal, failed.signal]);
  const running: Promise<R>[] = [];
  try {
    for await (const item of items) {
      throwIfAborted(signal);
      const task = work(item, either);
      // A task that fails while it waits for its turn must stop the others now; its error is thrown when its turn comes.
      task.catch((error: unknown) => failed.abort(error));
      running.push(task);
      if (running.length >= concurrency) yield await next(running, failed.signal);
    }
    while (running.length > 0) yield await next(running, failed.signal);
  } finally {
    if (running.length > 0)
      failed.abort(new PresyncError('ABORTED', 'stopped because another part of the work failed'));
    await Promise.allSettled(running);
  }
}

async function next<R>(running: Promise<R>[], failed: AbortSignal): Promise<R> {
  const [first] = running;
  if (first === undefined) throw new PresyncError('INTERNAL', 'no task to wait for');
  try {
    const result = await first;
    void running.shift();
    if (failed.aborted) throw failed.reason;
    return result;
  } catch (error) {
    // The first to fail is the cause; the others were merely stopped.
    throw failed.aborted ? failed.reason : error;
  }
}

/** `mapOrdered` for work without results. */
export async function forEachConcurrent<T>(
  items: Iterable<T> | AsyncIterable<T>,
  options: { concurrency: number; signal: AbortSignal },
  work: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const running = new Set<Promise<void>>();
  const failed = new AbortController();
  const either = AbortSignal.any([options.signal, failed.signal]);
  try {
    for await (const item of items) {
      throwIfAborted(options.signal);
      if (failed.signal.aborted) break;
      const task = work(item, either).then(
        () => {
          running.delete(task);
        },
        (error: unknown) => {
          running.delete(task);
          failed.abort(error);
        },
      );
      running.add(task);
      if (running.size >= options.concurrency) await Promise.race(running);
    }
  } catch (error) {
    failed.abort(error);
  }
  await Promise.all(running);
  if (failed.signal.aborted) throw failed.signal.reason;
}

/**
 * How many chunks may be in flight: as asked, but never more than what keeps their buffers within the budget. Each holds up to three
 * chunk sizes (plaintext, frame, and one of the two again inside the codec or the HTTP client).
 */
export function boundedConcurrency(wanted: number, chunkSize: number): number {
  return Math.max(1, Math.min(wanted, Math.floor(BUFFER_BUDGET / (3 * chunkSize))));
}

/** Bytes of chunk buffers in flight; leaves room for the runtime within the 512 MiB that presync promises. */
const BUFFER_BUDGET = 256 * 1024 * 1024;
