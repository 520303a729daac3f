import { type Lock, waitForLock } from '@presync/runtime/lock';
import type { Logger } from '@presync/runtime/log';

/** A pause lasts a second or so; one that takes longer than this is somebody else's trouble, and is told. */
const PATIENCE_MS = 60_000;

/**
 * Waits until no other presync has this database's node paused, and keeps others from pausing it. Two that pause at once would resume each other's
 * node: each would find that out and throw its view away, but both would have stopped the node for nothing.
 *
 * @throws LOCKED when the other takes too long
 */
export function lockPause(
  { dir }: { dir: string },
  { log, signal }: { log: Logger; signal: AbortSignal },
): Promise<Lock> {
  const onWait = (reason: string): void =>
    log.info('pause.awaited', `waiting for another presync: ${reason}`);
  return waitForLock({ name: 'pause', dir, patienceMs: PATIENCE_MS, onWait, signal });
}
