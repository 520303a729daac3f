/**
 * Whether a node is in a state from which a good snapshot can be taken.
 */
import { throwIfAborted } from '@presync/runtime/errors';
import { findGap } from './lib/find-gap.ts';
import type { BlockRef, NodeRpc } from './rpc.ts';

export interface GateOptions {
  /** Least number of peers; not asked of a chain whose nodes need none. */
  minPeers: number;
  /** Most blocks that the finalized head may be behind the best one. */
  maxFinalityLag: number;
  /** Let a node pass that is still catching up. Default false. */
  allowSyncing?: boolean | undefined;
  /** Let a node pass that lacks old blocks (the back-fill after warp sync is not done). Default false. */
  allowGap?: boolean | undefined;
  /** The genesis hash that the node must have. */
  genesisHash?: string | undefined;
  signal: AbortSignal;
}

export interface GateResult {
  open: boolean;
  /** Why it is shut, a phrase each; empty when it is open. */
  reasons: string[];
  head: BlockRef;
  finalized: BlockRef;
}

/**
 * Asks the node and judges. A shut gate is a result, not an error.
 *
 * @throws NODE_RPC_FAILED, ABORTED
 */
export async function checkGate(rpc: NodeRpc, options: GateOptions): Promise<GateResult> {
  const { signal } = options;
  throwIfAborted(signal);
  const reasons: string[] = [];
  const genesis = await rpc.genesisHash();
  if (options.genesisHash !== undefined && genesis !== options.genesisHash) {
    reasons.push(`the node is on the chain with genesis ${genesis}, not ${options.genesisHash}`);
  }
  const { peers, isSyncing, shouldHavePeers } = await rpc.health();
  throwIfAborted(signal);
  if (isSyncing && options.allowSyncing !== true) {
    const { currentBlock, highestBlock } = await rpc.syncState();
    reasons.push(`the node is catching up: at block ${currentBlock} of ${highestBlock}`);
  }
  if (shouldHavePeers && peers < options.minPeers)
    reasons.push(`${peers} peers, fewer than ${options.minPeers}`);
  // Finalized first: asked the other way round, it could be above the head.
  const finalized = await rpc.finalized();
  const head = await rpc.best();
  throwIfAborted(signal);
  const lag = head.number - finalized.number;
  if (lag > options.maxFinalityLag)
    reasons.push(`finality is ${lag} blocks behind the head, more than ${options.maxFinalityLag}`);
  if (options.allowGap !== true) {
    const missing = await findGap(rpc, { upTo: finalized.number, signal });
    if (missing !== undefined)
      reasons.push(`block ${missing} is missing: the back-fill after warp sync is not done`);
  }
  return { open: reasons.length === 0, reasons, head, finalized };
}
