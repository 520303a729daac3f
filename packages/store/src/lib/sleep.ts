import { setTimeout as delay } from 'node:timers/promises';
import { throwIfAborted } from '@presync/runtime/errors';

/** Waits `ms` milliseconds; rejects as `throwIfAborted` does when the signal fires. */
export async function sleep(ms: number, signal: AbortSignal): Promise<void> {
  throwIfAborted(signal);
  try {
    await delay(ms, undefined, { signal: AbortSignal.any([signal]) });
  } catch (error) {
    throwIfAborted(signal);
    throw error;
  }
}
