import { setTimeout as sleep } from 'node:timers/promises';
import type { Manifest } from '@presync/format/manifest';
import { connectNode, type NodeRpc } from '@presync/node/rpc';
import { isPresyncError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';

export interface WaitReadyOptions {
  rpcUrl: string;
  manifest: Manifest;
  /** Milliseconds until the node must be ready. */
  timeoutMs: number;
  minPeers: number;
  /** Blocks between the head here and the highest that peers tell of. */
  maxHeadLag: number;
  /** Blocks between head and finalized block. */
  maxFinalityLag: number;
  log: Logger;
  signal: AbortSignal;
}

export interface ReadyReport {
  /** Seconds from the call until the node was ready. */
  seconds: number;
  head: { number: number; hash: string };
  finalized: { number: number; hash: string };
  peers: number;
}

const POLL_MS = 1000;
const RPC_TIMEOUT_MS = 10_000;

/**
 * Waits until the node answers, holds the snapshot's anchor block, and has caught up. A node on another chain, or without the
 * anchor although it is past it, will never be right and ends the wait at once (NODE_WRONG_CHAIN); time ends it with NODE_NOT_READY.
 */
export async function waitReady(options: WaitReadyOptions): Promise<ReadyReport> {
  const { signal, timeoutMs } = options;
  const started = performance.now();
  const timeout = AbortSignal.timeout(timeoutMs);
  const either = AbortSignal.any([signal, timeout]);
  let reason = 'it was not asked yet';
  let rpc: NodeRpc | undefined;
  try {
    for (;;) {
      try {
        rpc ??= await connectNode(options.rpcUrl, { timeoutMs: RPC_TIMEOUT_MS, signal: either });
        const answer = await look(rpc, options);
        if (typeof answer !== 'string') return { ...answer, seconds: (performance.now() - started) / 1000 };
        reason = answer;
      } catch (error) {
        throwIfAborted(signal);
        if (!isPresyncError(error, 'NODE_RPC_FAILED') && !timeout.aborted) throw error;
        reason = messageOf(error);
        await rpc?.close();
        rpc = undefined;
      }
      if (timeout.aborted) {
        throw new PresyncError(
          'NODE_NOT_READY',
          `the node was not ready within ${Math.round(timeoutMs / 1000)} s: ${reason}`,
          {
            hint: 'look at the log of the node; a longer wait is --ready-timeout',
          },
        );
      }
      options.log.debug('node.not_ready', 'the node is not ready yet', { reason });
      await sleep(POLL_MS, undefined, { signal: either }).catch(() => {});
      throwIfAborted(signal);
    }
  } finally {
    await rpc?.close();
  }
}

/** One look: the report when the node is ready, otherwise why it is not. */
async function look(
  rpc: NodeRpc,
  { manifest, minPeers, maxHeadLag, maxFinalityLag }: WaitReadyOptions,
): Promise<Omit<ReadyReport, 'seconds'> | string> {
  const genesis = await rpc.genesisHash();
  if (genesis !== manifest.chain.genesisHash) {
    throw new PresyncError(
      'NODE_WRONG_CHAIN',
      `the node is on the chain with genesis ${genesis}, the snapshot on ${manifest.chain.genesisHash}`,
      {
        hint: 'check the --chain and --rpc of the node',
      },
    );
  }
  const head = await rpc.best();
  const { anchor } = manifest.chain;
  if (anchor !== null) {
    const hash = await rpc.blockHash(anchor.number);
    if (hash !== undefined && hash !== anchor.hash) {
      throw new PresyncError(
        'NODE_WRONG_CHAIN',
        `block ${anchor.number} is ${hash} on the node, and ${anchor.hash} in the snapshot`,
        {
          hint: 'the node did not open the restored database, or the snapshot is of a fork; check the base path of the node',
        },
      );
    }
    if (hash === undefined)
      return `it has no block ${anchor.number} yet, which the snapshot holds: it may not have opened the restored database`;
  }
  const { isSyncing, peers, shouldHavePeers } = await rpc.health();
  if (shouldHavePeers && peers < minPeers) return `it has ${peers} peers of ${minPeers}`;
  if (isSyncing) return 'it is syncing';
  const { highestBlock } = await rpc.syncState();
  if (highestBlock - head.number > maxHeadLag)
    return `it is ${highestBlock - head.number} blocks behind its peers`;
  const finalized = await rpc.finalized();
  if (head.number - finalized.number > maxFinalityLag)
    return `its finality is ${head.number - finalized.number} blocks behind`;
  return { head, finalized, peers };
}
