import { composeFind } from '@presync/bootstrap/compose';
import { findSnapshot } from '@presync/bootstrap/find-snapshot';
import { type Finding, type PreflightSubject, preflight, subjectOf } from '@presync/bootstrap/preflight';
import { findDatabases } from '@presync/node/layout';
import { isPresyncError } from '@presync/runtime/errors';
import { placeOf } from '@presync/transfer/part-targets';
import type { CommandContext } from '../command.ts';

/**
 * Compares the node's own arguments with the databases that are there, or, where there are none, with the snapshot that would be restored. Nothing where no unit and no
 * command of a node is configured.
 */
export async function examineArguments(context: CommandContext<'doctor'>): Promise<Finding[]> {
  const { config, signal } = context;
  const { basePath, unit, nodeCommand, relayBasePath, owner } = config;
  const node =
    nodeCommand !== undefined ? { command: nodeCommand } : unit !== undefined ? { unit } : undefined;
  if (basePath === undefined || node === undefined) return [];
  const places = { basePath, relayBasePath, genesisHash: config.genesis };
  const here = await databasesHere(context, places);
  const subject = here ?? (await snapshotFor(context, places));
  return preflight({
    node,
    ignore: [],
    reserve: config.diskReserve,
    basePath,
    relayBasePath,
    existing: 'keep',
    restores: here === undefined && subject !== undefined,
    owner,
    subject: subject ?? { name: 'what would be restored', specId: config.chain ?? '', parts: [] },
    signal,
  });
}

type Places = Parameters<typeof subjectOf>[1];

async function databasesHere(
  { config, signal }: CommandContext<'doctor'>,
  places: Places,
): Promise<PreflightSubject | undefined> {
  try {
    const { chain, backend } = config;
    const layouts = await findDatabases({ ...places, chainId: chain, backend, signal });
    return {
      name: `the database in ${places.basePath}`,
      specId: layouts[0]?.chainId ?? '',
      parts: layouts.map(({ role = 'main', backend: found, archivePrefix }) => ({
        role,
        backend: found,
        ...placeOf({ path: archivePrefix }, places),
      })),
    };
  } catch (error) {
    // What is wrong with them, the check of the database says.
    if (isPresyncError(error, 'NODE_LAYOUT_NOT_FOUND') || isPresyncError(error, 'NODE_LAYOUT_AMBIGUOUS'))
      return undefined;
    throw error;
  }
}

async function snapshotFor(
  { config, log, signal }: CommandContext<'doctor'>,
  places: Places,
): Promise<PreflightSubject | undefined> {
  const { store, trust, insecureNoVerify } = config;
  if (store === undefined || (trust.length === 0 && !insecureNoVerify)) return undefined;
  const options = await composeFind(
    {
      ...config,
      store,
      source: [],
      concurrency: undefined,
      snapshot: 'latest',
      toBlock: undefined,
      allowQuarantined: false,
    },
    { log, signal },
  );
  try {
    const { snapshot } = await findSnapshot(options);
    return subjectOf(snapshot, places);
  } catch (error) {
    // What is wrong with the store, its own check says.
    if (signal.aborted || !isPresyncError(error)) throw error;
    return undefined;
  } finally {
    await options.from.close();
  }
}
