import { realpath, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { errnoOf, ioError, isPresyncError, PresyncError } from '@presync/runtime/errors';
import type { Backend, DatabaseLayout } from '../layout.ts';
import { databasePath, type FindDatabaseOptions, findDatabase } from './find-database.ts';
import { type DatabaseRole, PARACHAINS_FOLDER, RELAY_FOLDER } from './roles.ts';

/**
 * Where a relay chain's node keeps its parachain data, from its own database's folder: in it with RocksDB, beside it with ParityDB
 * (polkadot-sdk `polkadot/node/service/src/lib.rs`, `open_database`).
 */
function parachainsPath(path: string, backend: Backend): string {
  return backend === 'rocksdb' ? `${path}/${PARACHAINS_FOLDER}/db` : `${dirname(path)}/${PARACHAINS_FOLDER}`;
}

export interface FindDatabasesOptions extends FindDatabaseOptions {
  /** The relay chain's base path, where it is not `polkadot/` in the node's. */
  relayBasePath?: string | undefined;
}

/**
 * Every database of a node: the chain's own first, its relay chain's, if it is a parachain's, and what is kept of parachains. The relay
 * chain's may have another backend.
 *
 * @throws NODE_LAYOUT_NOT_FOUND, NODE_LAYOUT_AMBIGUOUS, CONFIG_INVALID, IO_FAILED, ABORTED
 */
export async function findDatabases(options: FindDatabasesOptions): Promise<DatabaseLayout[]> {
  const main = await findDatabase(options);
  const relay = await findRelay(options, main);
  const found: DatabaseLayout[] = [main];
  for (const [layout, role] of [
    [main, 'parachains'],
    [relay, 'relay-parachains'],
  ] as const) {
    if (layout === undefined) continue;
    if (layout !== main) found.push(layout);
    const part = await findParachains(layout, role);
    if (part !== undefined) found.push(part);
  }
  return found;
}

async function findRelay(
  { relayBasePath, signal }: FindDatabasesOptions,
  { basePath }: DatabaseLayout,
): Promise<DatabaseLayout | undefined> {
  try {
    const relay = await findDatabase({ basePath: relayBasePath ?? join(basePath, RELAY_FOLDER), signal });
    return { ...relay, role: 'relay', archivePrefix: `${RELAY_FOLDER}/${relay.archivePrefix}` };
  } catch (error) {
    if (relayBasePath === undefined && isPresyncError(error, 'NODE_LAYOUT_NOT_FOUND')) return undefined;
    throw error;
  }
}

async function findParachains(
  layout: DatabaseLayout,
  role: DatabaseRole,
): Promise<DatabaseLayout | undefined> {
  const path = parachainsPath(layout.dir, layout.backend);
  try {
    const dir = await realpath(path);
    if (!(await stat(dir)).isDirectory()) return undefined;
    return { ...layout, role, dir, archivePrefix: parachainsPath(layout.archivePrefix, layout.backend) };
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw ioError(error, 'look at', path);
  }
}

/** A part of a snapshot, as a manifest tells of it. */
interface Part {
  role: string;
  backend: Backend;
  path: string;
}

/** True when a node of that chain looks for a database of this role at this very path. */
export function isPartPath(part: Part, specId: string, parts: readonly Part[]): boolean {
  const { role, backend, path } = part;
  if (parts.some((other) => other !== part && other.role === role)) return false;
  if (role === 'main') return path === databasePath(specId, backend);
  if (role === 'relay') {
    const [folder, , chainId = ''] = path.split('/');
    return folder === RELAY_FOLDER && path === `${RELAY_FOLDER}/${validPath(chainId, backend)}`;
  }
  const owner = role === 'parachains' ? 'main' : role === 'relay-parachains' ? 'relay' : undefined;
  const own = parts.find((other) => other.role === owner);
  return own !== undefined && backend === own.backend && path === parachainsPath(own.path, own.backend);
}

function validPath(chainId: string, backend: Backend): string | undefined {
  try {
    return databasePath(chainId, backend);
  } catch (error) {
    if (error instanceof PresyncError) return undefined;
    throw error;
  }
}
