import { throwIfAborted } from '@presync/runtime/errors';
import type { NodeRpc } from '../rpc.ts';

/** Equal steps over the whole chain, and ever smaller ones towards its end, where a back-fill ends. */
const EQUAL_STEPS = 32;

/**
 * Looks for a block that the node lacks. No RPC tells of the gap that warp sync leaves, but a block within it has no entry
 * from its number to its hash, while one whose body was pruned keeps it (sdk `substrate/client/db/src/lib.rs`: pruning
 * takes body and justifications only). The back-fill goes upwards from block 1, so that what is missing is one stretch
 * that ends below the block to which the node warped. Samples find a long stretch surely (longer than a 32nd of the chain,
 * or than its own distance to the head), a short one by chance only.
 *
 * @returns the number of a missing block, or undefined when none was found
 */
export async function findGap(
  rpc: Pick<NodeRpc, 'blockHash'>,
  options: { upTo: number; signal: AbortSignal },
): Promise<number | undefined> {
  for (const number of samples(options.upTo)) {
    throwIfAborted(options.signal);
    if ((await rpc.blockHash(number)) === undefined) return number;
  }
  return undefined;
}

/** At most 32 numbers at equal steps and one for each power of two below the head, ascending. */
export function samples(upTo: number): number[] {
  const numbers = new Set<number>();
  for (let step = 1; step <= EQUAL_STEPS; step++) numbers.add(Math.round((upTo * step) / EQUAL_STEPS));
  for (let distance = 1; distance < upTo; distance *= 2) numbers.add(upTo - distance);
  return [...numbers].filter((number) => number >= 1 && number <= upTo).sort((a, b) => a - b);
}
