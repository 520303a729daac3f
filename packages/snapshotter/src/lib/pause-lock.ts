import { isPresyncError } from '@presync/runtime/errors';
import { acquireLock, type Lock } from '@presync/runtime/lock';
import type { Logger } from '@presync/runtime/log';
import { delay } from './delay.ts';

/** A pause lasts a second or so; one that takes longer than this is somebody else's trouble, and is told. */
const PATIENCE_MS = 60_000;
const LOOK_EVERY_MS = 100;

/**
 * Waits until no other presync has this database's node paused, and keeps others from pausing it. Two that pause at once would resume each other's
 * node: each would find that out and throw its view away, but both would have stopped the node for nothing.
 *
 * @throws LOCKED when the other takes too long
 */
export async function lockPause(
  { dir }: { dir: string },
  { log, signal }: { log: Logger; signal: AbortSignal },
): Promise<Lock> {
  const deadline = performance.now() + PATIENCE_MS;
  for (let waited = false; ; waited = true) {
    try {
      return await acquireLock({ name: 'pause', dir, signal });
    } catch (error) {
      if (!isPresyncError(error, 'LOCKED') || performance.now() > deadline) throw error;
      if (!waited) log.info('pause.awaited', `waiting for another presync: ${error.message}`);
    }
    await delay(LOOK_EVERY_MS, signal);
  }
}
