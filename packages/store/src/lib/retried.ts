import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import pRetry from 'p-retry';
import { sleep } from './sleep.ts';

export interface RetryOptions {
  /** Attempts in all, 1 or more. Default 8, which with the delays below lasts half a minute on average. */
  attempts?: number | undefined;
  /** Upper bound of the first delay in milliseconds; it doubles each time. Default 250. */
  minDelayMs?: number | undefined;
  /** Upper bound of every delay in milliseconds. Default 20,000. */
  maxDelayMs?: number | undefined;
  /** Told before each new attempt; `delayMs` is the wait before it. */
  onRetry?:
    | ((retry: { operation: string; attempt: number; delayMs: number; error: PresyncError }) => void)
    | undefined;
}

const DEFAULTS = { attempts: 8, minDelayMs: 250, maxDelayMs: 20_000 };

/** A `Retry-After` is obeyed up to this long; a store that asks for more is taken at this. */
const MAX_RETRY_AFTER_MS = 120_000;

/**
 * Does the work again after errors that are `retryable`. Delays are random between nothing and a bound that doubles
 * ("full jitter"), and never shorter than the error's `retryAfterMs`. The signal ends the waits.
 */
export function retried<T>(
  operation: string,
  signal: AbortSignal,
  work: (attempt: number) => Promise<T>,
  options: RetryOptions = {},
): Promise<T> {
  const attempts = options.attempts ?? DEFAULTS.attempts;
  const minDelayMs = options.minDelayMs ?? DEFAULTS.minDelayMs;
  const maxDelayMs = options.maxDelayMs ?? DEFAULTS.maxDelayMs;
  return pRetry(work, {
    retries: attempts - 1,
    // The delays of p-retry have half jitter and know no Retry-After, so the wait is made in onFailedAttempt.
    minTimeout: 0,
    shouldRetry: ({ error }) => error instanceof PresyncError && error.retryable,
    onFailedAttempt: async ({ error, attemptNumber, retriesLeft }) => {
      if (!(error instanceof PresyncError) || !error.retryable || retriesLeft <= 0) return;
      throwIfAborted(signal);
      const bound = Math.min(maxDelayMs, minDelayMs * 2 ** (attemptNumber - 1));
      const asked = Math.min(error.retryAfterMs ?? 0, MAX_RETRY_AFTER_MS);
      // Who obeyed the same Retry-After to the millisecond would come back as one crowd.
      const delayMs = asked + Math.random() * bound;
      options.onRetry?.({ operation, attempt: attemptNumber + 1, delayMs, error });
      await sleep(delayMs, signal);
    },
  });
}
