import { PresyncError, throwIfAborted } from '@presync/runtime/errors';

/** Places for work that holds memory for as long as somebody else takes, as a client that reads an answer. */
export interface Places {
  /**
   * Waits for a place, in the order of the calls. The function that it gives returns it, and may be called twice.
   *
   * @throws STORE_FAILED, retryable, when none came free in time
   * @throws ABORTED
   */
  take(signal: AbortSignal): Promise<() => void>;
}

/** When somebody who found no place may come again, milliseconds. */
const RETRY_AFTER_MS = 1000;

export function createPlaces({ count, patienceMs }: { count: number; patienceMs: number }): Places {
  let free = count;
  const queue: (() => void)[] = [];

  function give(): void {
    const next = queue.shift();
    if (next === undefined) free += 1;
    else next();
  }

  async function wait(signal: AbortSignal): Promise<void> {
    const turn = Promise.withResolvers<void>();
    /** Only one who still waits can be sent away: a place that was given must be returned. */
    const leave = (reason: () => PresyncError): void => {
      const at = queue.indexOf(turn.resolve);
      if (at === -1) return;
      queue.splice(at, 1);
      turn.reject(reason());
    };
    const onAbort = (): void => leave(() => abortOf(signal));
    queue.push(turn.resolve);
    signal.addEventListener('abort', onAbort, { once: true });
    const timer = setTimeout(() => leave(() => busy(count)), patienceMs);
    try {
      await turn.promise;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
    }
  }

  return {
    async take(signal) {
      throwIfAborted(signal);
      if (free > 0) free -= 1;
      else await wait(signal);
      let held = true;
      return () => {
        if (held) give();
        held = false;
      };
    },
  };
}

function abortOf(signal: AbortSignal): PresyncError {
  return signal.reason instanceof PresyncError
    ? signal.reason
    : new PresyncError('ABORTED', 'stopped before it was done', { cause: signal.reason });
}

function busy(count: number): PresyncError {
  return new PresyncError('STORE_FAILED', `all ${count} places are taken`, {
    retryable: true,
    retryAfterMs: RETRY_AFTER_MS,
    hint: 'come again in a moment',
  });
}
