import type { Logger } from '@presync/runtime/log';
import type { RetryOptions } from './lib/retried.ts';
import type { StoreNotice } from './object-store.ts';

/** Writes what stores find out to a log. */
export function logNotices(log: Pick<Logger, 'info' | 'warn'>): (notice: StoreNotice) => void {
  return ({ kind, message }) => log[kind === 'leftover' ? 'warn' : 'info'](`store.${kind}`, message);
}

/** Dozens of calls fail at once when a store does. */
const TELL_EVERY_MS = 10_000;

/** Writes to a log that calls are made again: the first of each cause, and then one in ten seconds. */
export function logRetries(log: Pick<Logger, 'warn'>): NonNullable<RetryOptions['onRetry']> {
  const told = new Map<string, number>();
  return ({ operation, attempt, delayMs, error }) => {
    const now = performance.now();
    if (now - (told.get(error.code) ?? Number.NEGATIVE_INFINITY) < TELL_EVERY_MS) return;
    told.set(error.code, now);
    log.warn('store.retried', `${operation} is tried again: ${error.message}`, {
      code: error.code,
      attempt,
      delaySeconds: Number((delayMs / 1000).toFixed(1)),
    });
  };
}
