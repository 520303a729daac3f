import { setTimeout as sleep } from 'node:timers/promises';
import { isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';

export interface WatchBlocksOptions {
  /** The best block's number before the pause. */
  since: number;
  timeoutMs: number;
  signal: AbortSignal;
  /** Milliseconds between two questions; default 250. */
  intervalMs?: number | undefined;
}

/**
 * Resolves with the best block's number as soon as it is above `since`. A node that does not answer is asked again.
 *
 * @throws NODE_NOT_READY when it is not above `since` in time; the last failure of the RPC is the cause
 * @throws ABORTED
 */
export async function watchBlocksAdvance(
  rpc: { best(): Promise<{ number: number }> },
  options: WatchBlocksOptions,
): Promise<number> {
  const { since, timeoutMs, signal } = options;
  const deadline = performance.now() + timeoutMs;
  let last: number | undefined;
  let cause: unknown;
  while (performance.now() < deadline) {
    throwIfAborted(signal);
    try {
      last = (await rpc.best()).number;
      if (last > since) return last;
    } catch (error) {
      throwIfAborted(signal);
      if (!isPresyncError(error, 'NODE_RPC_FAILED')) throw error;
      cause = error;
    }
    await sleep(options.intervalMs ?? 250, undefined, { signal }).catch(() => undefined);
  }
  throwIfAborted(signal);
  const seen = last === undefined ? 'the RPC did not answer' : `the best block is ${last}`;
  throw new PresyncError('NODE_NOT_READY', `no block above ${since} within ${timeoutMs} ms: ${seen}`, {
    cause,
    hint: 'look at the node’s log and its peers',
  });
}
