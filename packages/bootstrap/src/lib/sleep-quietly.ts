import { setTimeout as sleep } from 'node:timers/promises';

/** Waits so many milliseconds, or until the signal fires, which is no error here. */
export async function sleepQuietly(ms: number, signal: AbortSignal): Promise<void> {
  // Of a signal that lives long, only a derived one: listeners on it would pile up.
  await sleep(ms, undefined, { signal: AbortSignal.any([signal]) }).catch(() => {});
}
