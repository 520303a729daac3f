import { setTimeout as sleep } from 'node:timers/promises';
import { PresyncError } from '@presync/runtime/errors';

/** Waits, and stops waiting when the signal fires (ABORTED). Zero and negative times pass at once. */
export async function delay(milliseconds: number, signal: AbortSignal): Promise<void> {
  if (milliseconds <= 0) return;
  try {
    await sleep(milliseconds, undefined, { signal });
  } catch (error) {
    throw new PresyncError('ABORTED', 'stopped while waiting', { cause: error });
  }
}
