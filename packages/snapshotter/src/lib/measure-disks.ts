import { dirname } from 'node:path';
import { findDatabase } from '@presync/node/layout';
import { freeBytes } from '@presync/node/machine-gate';
import { PresyncError } from '@presync/runtime/errors';
import type { Metrics } from '@presync/runtime/metrics';
import type { TakeSnapshotOptions } from '../take-snapshot.ts';

/** Shows how much room is free where a snapshot needs some. */
export async function measureDisks(
  { basePath, chain, backend, viewDir, stateDir, signal }: TakeSnapshotOptions,
  { disk }: Metrics,
): Promise<void> {
  const measure = async (place: string, path: string): Promise<void> =>
    disk.set({ place }, await freeBytes(path));
  try {
    await measure('state', stateDir);
    const { dir } = await findDatabase({ basePath, chainId: chain, backend, signal });
    await measure('database', dir);
    await measure('view', viewDir ?? dirname(dir));
  } catch (error) {
    // Runs tell of what is wrong with these folders; a number that is not there is not made up.
    if (!(error instanceof PresyncError)) throw error;
  }
}
