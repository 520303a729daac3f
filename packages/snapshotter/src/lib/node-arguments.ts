import { readFile } from 'node:fs/promises';
import { parseNodeArguments } from '@presync/node/node-arguments';

/** The pruning modes that a running node was given on its command line; null where it was not, or cannot be read. */
export interface NodePruning {
  statePruning: string | null;
  blocksPruning: string | null;
}

/** Reads the pruning modes of the node's own chain from a process's arguments, on Linux. */
export async function nodePruning(pid: number | undefined): Promise<NodePruning> {
  if (pid === undefined) return { statePruning: null, blocksPruning: null };
  let text: string;
  try {
    text = await readFile(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    // Another user's process, or another system: the manifest then says that it is not known.
    return { statePruning: null, blocksPruning: null };
  }
  const { statePruning, blocksPruning } = parseNodeArguments(text.split('\0').slice(1));
  return {
    statePruning: statePruning?.slice(0, 255) ?? null,
    blocksPruning: blocksPruning?.slice(0, 255) ?? null,
  };
}
