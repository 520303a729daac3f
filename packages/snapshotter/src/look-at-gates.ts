import { checkGate, GATE_HINTS, GATE_IDS, type GateId, type ShutGate } from '@presync/node/gate';
import { type DatabaseFile, scanDatabase } from '@presync/node/layout';
import { databaseHolder } from '@presync/node/locks';
import { connectNode, type NodeRpc } from '@presync/node/rpc';
import { isPresyncError, messageOf } from '@presync/runtime/errors';
import { lockHolder } from '@presync/runtime/lock';
import { askMachine, type GateSettings, type GateSubject, type MachineAnswer } from './lib/pass-gates.ts';
import {
  type DatabasePlace,
  locateDatabases,
  RPC_TIMEOUT_MS,
  rpcUrlOf,
  type SourceNodeOptions,
} from './lib/source-node.ts';
import { isCopied } from './lib/take-views.ts';

/** How a gate stands. */
export interface GateState {
  gate: GateId;
  state: 'open' | 'shut' | 'not asked';
  /** Why it is not open. */
  reason: string | null;
  /** What to do about one that is shut. */
  hint: string | null;
}

export type LookOptions = GateSettings &
  DatabasePlace &
  Pick<SourceNodeOptions, 'pause' | 'rpcUrl' | 'genesisHash' | 'viewDir' | 'stateDir'> & {
    /** How the node is reached. */
    connect?: typeof connectNode | undefined;
  };

/**
 * Goes through all gates, in their order, as a run would that began now. Nothing is paused, written or locked, and nobody is kept from anything.
 *
 * @throws what a run would end with before its gates: the database cannot be found or read; IO_FAILED, ABORTED
 */
export async function lookAtGates(options: LookOptions): Promise<GateState[]> {
  const { signal } = options;
  const layouts = await locateDatabases(options);
  const [layout] = layouts;
  const holder = await databaseHolder(layout, { signal });
  const files: DatabaseFile[] = [];
  for (const each of layouts) files.push(...(await scanDatabase(each, { signal })));
  const subject = { layout, files: isCopied(options.pause) ? [] : files, holder };

  const shut = await askLock(layout.dir, signal);
  const node = await askNode(options, subject);
  shut.push(...node.shut);
  return GATE_IDS.map((gate) => {
    const found = shut.find((one) => one.gate === gate);
    if (found !== undefined) return { gate, state: 'shut', reason: found.reason, hint: GATE_HINTS[gate] };
    const reason = node.passed[gate];
    if (reason !== undefined) return { gate, state: 'not asked', reason, hint: null };
    return { gate, state: 'open', reason: null, hint: null };
  });
}

async function askLock(dir: string, signal: AbortSignal): Promise<ShutGate[]> {
  const holder = await lockHolder({ name: 'snapshot', dir, signal });
  if (holder === undefined) return [];
  const who = holder.pid === undefined ? 'another presync' : `another presync (process ${holder.pid})`;
  return [{ gate: 'locked', reason: `${who} takes a snapshot of this database` }];
}

/** Gates that only the node itself can answer. */
const NODE_GATES = ['rpc', 'chain', 'syncing', 'peers', 'finality', 'gap'] as const;

/** Machine and node together, since some signs of a validator come from the node. */
async function askNode(options: LookOptions, subject: Omit<GateSubject, 'rpc'>): Promise<MachineAnswer> {
  const { connect = connectNode } = options;
  const url = rpcUrlOf(options);
  const withoutNode = async (why: string, silent: ShutGate[]): Promise<MachineAnswer> => {
    const machine = await askMachine(options, { ...subject, rpc: undefined });
    const passed = Object.fromEntries(NODE_GATES.map((gate) => [gate, why]));
    return { shut: [...machine.shut, ...silent], passed: { ...passed, ...machine.passed } };
  };
  if (url === undefined) return withoutNode('no node is asked: --pause none, and no --rpc', []);
  let rpc: NodeRpc | undefined;
  try {
    rpc = await connect(url, { timeoutMs: RPC_TIMEOUT_MS, signal: options.signal });
    const machine = await askMachine(options, { ...subject, rpc });
    const { minPeers, maxFinalityLag, genesisHash, signal } = options;
    const node = await checkGate(rpc, { minPeers, maxFinalityLag, genesisHash, signal });
    const chain = genesisHash === undefined ? { chain: 'no --genesis is given to compare with' } : {};
    return { shut: [...machine.shut, ...node.shut], passed: { ...chain, ...machine.passed } };
  } catch (error) {
    if (!isPresyncError(error, 'NODE_RPC_FAILED')) throw error;
    return withoutNode('the node does not answer', [{ gate: 'rpc', reason: messageOf(error) }]);
  } finally {
    await rpc?.close();
  }
}
