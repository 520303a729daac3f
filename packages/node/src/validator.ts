/**
 * Whether a node is a validator (or a collator), which misses its blocks while it is paused.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, ioError } from '@presync/runtime/errors';
import type { ShutGate } from './gate.ts';
import type { DatabaseLayout } from './layout.ts';
import type { NodeRpc } from './rpc.ts';

/** A key's file in a keystore is named by its type and its public key, in hexadecimal (sdk `client/keystore/src/local.rs`). */
const KEY_FILE = /^([0-9a-f]{8})[0-9a-f]{64,}$/;

/** Types of keys that are no session keys: accounts, and those that tests make. */
const OTHER_TYPES = new Set(['acco', 'dumm']);

/** Flags with which a node authors blocks. */
const FLAGS = new Set(['--validator', '--collator', '--force-authoring']);

/** Chains on which nothing is lost when a block is missed; their keys are known to everybody. */
const TEST_CHAINS = new Set(['Development', 'Local']);

export interface ValidatorSigns {
  layout: DatabaseLayout;
  /** The node's process, where it is known. */
  pid: number | undefined;
  rpc: NodeRpc | undefined;
}

/** Looks for every sign that there is; one is enough. A development or local chain has no validators that count. */
export async function findValidator({ layout, pid, rpc }: ValidatorSigns): Promise<ShutGate | undefined> {
  if (rpc !== undefined && TEST_CHAINS.has((await rpc.chainType()) ?? '')) return undefined;
  const signs = [
    ...((await rpc?.roles()) ?? []).filter((role) => role === 'Authority').map(() => 'its role is Authority'),
    ...(await authoringFlags(pid)).map((flag) => `it was started with ${flag}`),
    ...(await sessionKeys(layout)),
  ];
  if (signs.length === 0) return undefined;
  return { gate: 'validator', reason: `the node is a validator: ${signs.join(', ')}` };
}

async function authoringFlags(pid: number | undefined): Promise<string[]> {
  if (pid === undefined) return [];
  try {
    const args = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0');
    return args.filter((arg) => FLAGS.has(arg));
  } catch {
    // Another user's process, or another system: the other signs have to do.
    return [];
  }
}

async function sessionKeys({ basePath, chainId }: DatabaseLayout): Promise<string[]> {
  const dir = join(basePath, 'chains', chainId, 'keystore');
  let names: string[];
  try {
    names = await readdir(dir);
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return [];
    // A folder of secrets may well be closed to others; role and flags then have to do.
    if (code === 'EACCES' || code === 'EPERM') return [];
    throw ioError(error, 'list', dir);
  }
  const types = new Set<string>();
  for (const name of names) {
    const hex = KEY_FILE.exec(name)?.[1];
    if (hex === undefined) continue;
    const type = Buffer.from(hex, 'hex').toString('latin1');
    if (!OTHER_TYPES.has(type)) types.add(type.replaceAll(/[^\w-]/g, '?'));
  }
  return types.size === 0 ? [] : [`its keystore holds session keys (${[...types].sort().join(', ')})`];
}
