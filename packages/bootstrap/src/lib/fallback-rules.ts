import type { NodeArguments } from '@presync/node/node-arguments';
import { PresyncError } from '@presync/runtime/errors';
import type { Fallback } from '../choose-snapshot.ts';

/**
 * Refuses a chain of fall-backs that cannot be meant, before anything is downloaded: CONFIG_INVALID. `node` is what the node is started with, where
 * that is known.
 */
export function assertFallbacks(
  fallback: readonly Fallback[],
  node: Pick<NodeArguments, 'sync'> | undefined,
): void {
  const twice = fallback.find((step, index) => fallback.indexOf(step) !== index);
  if (twice !== undefined) {
    throw new PresyncError('CONFIG_INVALID', `--fallback names ${twice} twice`, {
      hint: 'name each step once, in the order in which they are to be tried',
    });
  }
  const last = fallback.findIndex((step) => step === 'warp' || step === 'fail');
  const never = last < 0 ? undefined : fallback[last + 1];
  if (never !== undefined && !(fallback[last] === 'warp' && never === 'fail')) {
    throw new PresyncError(
      'CONFIG_INVALID',
      `--fallback ${never} stands after ${fallback[last]}, which ends the chain, and would never be tried`,
      { hint: 'put warp or fail last, as in --fallback older --fallback peer --fallback warp' },
    );
  }
  // `full` is the node's own default (polkadot-sdk `substrate/client/cli/src/params/network_params.rs`).
  const sync = node === undefined ? undefined : (node.sync ?? 'full');
  if (fallback.includes('warp') && sync !== undefined && sync !== 'warp') {
    throw new PresyncError(
      'CONFIG_INVALID',
      `--fallback warp leaves the node with an empty database, and its arguments say --sync ${sync}: it would sync every block`,
      { hint: 'add --sync warp to the arguments of the node, or leave warp out of --fallback' },
    );
  }
}
