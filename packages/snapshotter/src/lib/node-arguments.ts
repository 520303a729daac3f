import { readFile } from 'node:fs/promises';

/** The pruning modes that a running node was given on its command line; null where it was not, or cannot be read. */
export interface NodePruning {
  statePruning: string | null;
  blocksPruning: string | null;
}

/** Reads `--state-pruning` and `--blocks-pruning` (and the older `--pruning`) from a process's arguments, on Linux. */
export async function nodePruning(pid: number | undefined): Promise<NodePruning> {
  if (pid === undefined) return { statePruning: null, blocksPruning: null };
  let text: string;
  try {
    text = await readFile(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    // Another user's process, or another system: the manifest then says that it is not known.
    return { statePruning: null, blocksPruning: null };
  }
  return parsePruning(text.split('\0'));
}

export function parsePruning(args: readonly string[]): NodePruning {
  const flagValue = (...flags: string[]): string | null => {
    for (const [index, arg] of args.entries()) {
      for (const flag of flags) {
        if (arg === flag) return args[index + 1]?.slice(0, 255) ?? null;
        if (arg.startsWith(`${flag}=`)) return arg.slice(flag.length + 1, flag.length + 256);
      }
    }
    return null;
  };
  return {
    statePruning: flagValue('--state-pruning', '--pruning'),
    blocksPruning: flagValue('--blocks-pruning'),
  };
}
