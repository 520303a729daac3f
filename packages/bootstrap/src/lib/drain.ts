import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '@presync/runtime/log';

export interface DrainOptions {
  /** How long requests get to end, and load balancers to look elsewhere, milliseconds. */
  drainMs: number;
  /** When the machine goes away. */
  deadline?: Date | undefined;
  /** The node's stop. */
  stop: () => Promise<void>;
  log: Logger;
  /** Ends the waiting, and not the stop. */
  signal: AbortSignal;
}

/** A node gets this long before the deadline to close its database. */
const STOP_MS = 20_000;

/**
 * Lets requests end and then stops the node. That nobody is sent here any more (`/readyz` is red) is to be arranged before.
 * Near a deadline the time for requests is cut, so that the database is closed in time.
 */
export async function drain({ drainMs, deadline, stop, log, signal }: DrainOptions): Promise<void> {
  const wait = waitBeforeStop(drainMs, deadline, Date.now());
  log.info('node.draining', `no new requests; the node is stopped in ${Math.round(wait / 1000)} s`, {
    seconds: wait / 1000,
  });
  await sleep(wait, undefined, { signal }).catch(() => {});
  await stop();
  log.info('node.drained', 'the node was stopped after its last requests');
}

/** How long requests get, milliseconds. */
export function waitBeforeStop(drainMs: number, deadline: Date | undefined, now: number): number {
  if (deadline === undefined) return drainMs;
  return Math.max(0, Math.min(drainMs, deadline.getTime() - now - STOP_MS));
}
