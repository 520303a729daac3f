/**
 * Whether a good snapshot can be taken now: what the node says of itself. What the machine says is in `machine-gate.ts`.
 */
import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { findGap } from './lib/find-gap.ts';
import type { BlockRef, NodeRpc } from './rpc.ts';

/** Every gate, with when it is shut. The ids are stable: logs, metrics and alert rules carry them. */
export const GATES = {
  rpc: 'The node does not answer its RPC; so also while it starts or upgrades its database.',
  chain: 'The node is on another chain than expected.',
  syncing: 'The node is catching up with the chain.',
  peers: 'The node has too few peers.',
  finality: 'The finalized block is too far behind the best one.',
  gap: 'Old blocks are missing: the back-fill after warp sync is not done.',
  validator: 'The node is a validator, which would miss blocks while it is paused.',
  migration: 'The database is being moved or upgraded to another layout, or that was broken off.',
  disk: 'There is not enough disk room for the view, for scratch files, and for the node to go on.',
  locked: 'Another presync takes a snapshot of this database.',
  'quiet-hours': 'It is a time of day at which no snapshot is to be begun.',
} as const;

export type GateId = keyof typeof GATES;

export const GATE_IDS: readonly GateId[] = Object.keys(GATES).filter(isGateId);

function isGateId(text: string): text is GateId {
  return Object.hasOwn(GATES, text);
}

/** A gate that is shut, and why, as a phrase. */
export interface ShutGate {
  gate: GateId;
  reason: string;
}

/** What each gate asks of whoever runs the node. */
export const GATE_HINTS: Readonly<Record<GateId, string>> = {
  rpc: 'start the node, or wait until it has started; where it answers is --rpc',
  chain: 'check --rpc and --genesis',
  syncing: 'wait until the node has caught up',
  peers: 'the limit is --min-peers',
  finality: 'the limit is --max-finality-lag',
  gap: 'wait until the node has filled the gap, or take snapshots from one that has all blocks',
  validator: 'take snapshots from a full node, or say --allow-validator',
  migration: 'start the node and let it end the work, or remove what an old version has left',
  disk: 'free some room, or use a larger disk; what must stay free is --disk-reserve',
  locked: 'wait until the other presync has ended',
  'quiet-hours': 'wait, or change --quiet-hours',
};

/** GATE_SHUT, with the gates. */
export class GateShutError extends PresyncError {
  readonly gates: readonly ShutGate[];

  constructor(gates: readonly ShutGate[]) {
    super('GATE_SHUT', `no snapshot is taken now: ${gates.map(({ reason }) => reason).join('; ')}`, {
      hint: gates.map(({ gate }) => GATE_HINTS[gate]).join('; '),
    });
    this.gates = gates;
  }
}

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
  shut: ShutGate[];
  /** The reasons alone. */
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
  const shut: ShutGate[] = [];
  const genesis = await rpc.genesisHash();
  if (options.genesisHash !== undefined && genesis !== options.genesisHash) {
    shut.push({
      gate: 'chain',
      reason: `the node is on the chain with genesis ${genesis}, not ${options.genesisHash}`,
    });
  }
  const { peers, isSyncing, shouldHavePeers } = await rpc.health();
  throwIfAborted(signal);
  if (isSyncing && options.allowSyncing !== true) {
    const { currentBlock, highestBlock } = await rpc.syncState();
    shut.push({
      gate: 'syncing',
      reason: `the node is catching up: at block ${currentBlock} of ${highestBlock}`,
    });
  }
  if (shouldHavePeers && peers < options.minPeers)
    shut.push({ gate: 'peers', reason: `${peers} peers, fewer than ${options.minPeers}` });
  // Finalized first: asked the other way round, it could be above the head.
  const finalized = await rpc.finalized();
  const head = await rpc.best();
  throwIfAborted(signal);
  const lag = head.number - finalized.number;
  if (lag > options.maxFinalityLag) {
    shut.push({
      gate: 'finality',
      reason: `finality is ${lag} blocks behind the head, more than ${options.maxFinalityLag}`,
    });
  }
  if (options.allowGap !== true) {
    const missing = await findGap(rpc, { upTo: finalized.number, signal });
    if (missing !== undefined) {
      shut.push({
        gate: 'gap',
        reason: `block ${missing} is missing: the back-fill after warp sync is not done`,
      });
    }
  }
  return { open: shut.length === 0, shut, reasons: shut.map(({ reason }) => reason), head, finalized };
}
