import { checkGate, type GateId, GateShutError, type ShutGate } from '@presync/node/gate';
import type { DatabaseFile, DatabaseLayout } from '@presync/node/layout';
import type { DatabaseHolder } from '@presync/node/locks';
import { findMigration, findTightDisk } from '@presync/node/machine-gate';
import type { NodeRpc } from '@presync/node/rpc';
import { findValidator } from '@presync/node/validator';
import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import { quietHoursAt } from '@presync/runtime/quiet-hours';
import type { SourceNodeOptions } from './source-node.ts';

/** When a snapshot may be begun, beside what the node says. */
export interface GateSettings {
  minPeers: number;
  /** Blocks between head and finalized block. */
  maxFinalityLag: number;
  /** Bytes that must stay free on the database's disk while the node runs. Default 0. */
  diskReserve?: number | undefined;
  /** Default false. */
  allowValidator?: boolean | undefined;
  /** `HH:MM-HH:MM`, in the time zone. */
  quietHours?: readonly string[] | undefined;
  /** Default UTC. */
  timezone?: string | undefined;
}

/** What a node that has passed the gates says of its chain. */
export interface ChainFacts {
  genesisHash: string;
  chainName: string | null;
  anchor: { number: number; hash: string } | null;
  implementation: { name: string; version: string } | undefined;
}

export interface GateSubject {
  layout: DatabaseLayout;
  files: readonly DatabaseFile[];
  holder: DatabaseHolder | undefined;
  rpc: NodeRpc | undefined;
}

/**
 * Asks machine and node whether a good snapshot can be taken now. Nothing is paused or written.
 *
 * @throws GateShutError that names every gate that is shut
 * @throws NODE_WRONG_CHAIN, CONFIG_INVALID, NODE_RPC_FAILED
 */
export async function passGates(options: SourceNodeOptions, subject: GateSubject): Promise<ChainFacts> {
  const { rpc } = subject;
  const { shut } = await askMachine(options, subject);
  if (rpc === undefined) {
    if (options.genesisHash === undefined) {
      throw new PresyncError('CONFIG_INVALID', 'without an RPC the genesis hash of the chain is not known', {
        hint: 'give it with --genesis 0x…, or let the node answer at --rpc URL',
      });
    }
    if (shut.length > 0) throw new GateShutError(shut);
    return { genesisHash: options.genesisHash, chainName: null, anchor: null, implementation: undefined };
  }
  const genesisHash = await rpc.genesisHash();
  if (options.genesisHash !== undefined && options.genesisHash !== genesisHash) {
    throw new PresyncError(
      'NODE_WRONG_CHAIN',
      `the node is on the chain with genesis ${genesisHash}, not ${options.genesisHash}`,
      {
        hint: 'check --rpc and --genesis',
      },
    );
  }
  const node = await checkGate(rpc, {
    minPeers: options.minPeers,
    maxFinalityLag: options.maxFinalityLag,
    signal: options.signal,
  });
  shut.push(...node.shut);
  if (shut.length > 0) throw new GateShutError(shut);
  return {
    genesisHash,
    chainName: await rpc.chainName(),
    anchor: node.finalized,
    implementation: await rpc.implementation(),
  };
}

/** What the machine's gates say. */
export interface MachineAnswer {
  shut: ShutGate[];
  /** Gates that are not asked here, and why. */
  passed: Partial<Record<GateId, string>>;
}

export type MachineOptions = Omit<GateSettings, 'minPeers' | 'maxFinalityLag'> &
  Pick<SourceNodeOptions, 'pause' | 'viewDir' | 'stateDir'>;

/** Asks the gates that do not need the node's RPC. */
export async function askMachine(
  options: MachineOptions,
  { layout, files, holder, rpc }: GateSubject,
): Promise<MachineAnswer> {
  const quiet = quietHoursAt(options.quietHours ?? [], options.timezone ?? 'UTC', new Date());
  // A database that nobody has open belongs to no running node, which could run out of room or miss a block.
  const runs = options.pause.strategy !== 'none' || holder !== undefined;
  const asksValidator = runs && options.allowValidator !== true;
  const checks = [
    quiet === undefined
      ? undefined
      : ({ gate: 'quiet-hours', reason: `it is between the quiet hours ${quiet}` } as const),
    await findMigration(layout),
    asksValidator ? await findValidator({ layout, pid: holder?.pid ?? options.pause.pid, rpc }) : undefined,
    await findTightDisk({
      layout,
      files,
      viewDir: options.viewDir,
      stateDir: options.stateDir,
      reserve: runs ? (options.diskReserve ?? 0) : 0,
      scratch: scratchBytes(files),
    }),
  ];
  return {
    shut: checks.filter((gate) => gate !== undefined),
    passed: asksValidator
      ? {}
      : { validator: runs ? '--allow-validator is said' : 'no node has the database open' },
  };
}

/** The last index and the new one, each with some hundred bytes a file and a chunk, of which the smallest count as whole ones. */
function scratchBytes(files: readonly DatabaseFile[]): number {
  const chunks = files.reduce((sum, { size }) => sum + Math.ceil(size / 2 ** 22), 0);
  return 2 * 256 * (files.length + chunks);
}

/** The gates for which an error stands, when it means that nothing was begun; undefined for a failure. */
export function gatesOf(error: unknown): readonly ShutGate[] | undefined {
  if (error instanceof GateShutError) return error.gates;
  const gate: GateId | undefined = isPresyncError(error, 'LOCKED')
    ? 'locked'
    : isPresyncError(error, 'NODE_RPC_FAILED')
      ? 'rpc'
      : undefined;
  if (gate === undefined || !(error instanceof PresyncError)) return undefined;
  return [{ gate, reason: error.message }];
}
