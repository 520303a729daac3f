import { setTimeout as sleep } from 'node:timers/promises';
import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import { createNodeAsker, type NodeFacts, type ReadyRules } from './lib/ask-node.ts';

export interface WaitReadyOptions extends ReadyRules {
  /** Milliseconds until the node must be ready. */
  timeoutMs: number;
  /** Called with what is still missing, whenever that changes. */
  onReason?: ((reason: string) => void) | undefined;
  log: Logger;
  signal: AbortSignal;
}

export interface ReadyReport extends NodeFacts {
  /** Seconds from the call until the node was ready. */
  seconds: number;
}

const POLL_MS = 1000;

/**
 * Waits until the node answers, holds the snapshot's anchor block, and has caught up. A node on another chain, or without the
 * anchor although it is past it, will never be right and ends the wait at once (NODE_WRONG_CHAIN); time ends it with NODE_NOT_READY.
 */
export async function waitReady(options: WaitReadyOptions): Promise<ReadyReport> {
  const { signal, timeoutMs, log } = options;
  const started = performance.now();
  const timeout = AbortSignal.timeout(timeoutMs);
  const either = AbortSignal.any([signal, timeout]);
  const asker = createNodeAsker(options);
  let reason = 'it was not asked yet';
  try {
    while (!timeout.aborted) {
      const answer = await asker.ask(either).catch((error: unknown) => {
        throwIfAborted(signal);
        if (!timeout.aborted) throw error;
        return { ok: false as const, reason };
      });
      if (answer.ok) {
        const { head, finalized, peers } = answer;
        return { head, finalized, peers, seconds: (performance.now() - started) / 1000 };
      }
      if (answer.reason !== reason) {
        reason = answer.reason;
        options.onReason?.(reason);
        log.debug('node.not_ready', 'the node is not ready yet', { reason });
      }
      await sleep(POLL_MS, undefined, { signal: either }).catch(() => {});
      throwIfAborted(signal);
    }
  } finally {
    await asker.close();
  }
  throw new PresyncError(
    'NODE_NOT_READY',
    `the node was not ready within ${Math.round(timeoutMs / 1000)} s: ${reason}`,
    { hint: 'look at the log of the node; a longer wait is --ready-timeout' },
  );
}
