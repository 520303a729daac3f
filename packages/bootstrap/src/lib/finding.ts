import type { ErrorCode } from '@presync/runtime/errors';

/**
 * Every check, in the order in which what they find is told, with what it looks at. The ids are stable: reports carry them, and
 * `--preflight-ignore` takes them.
 */
export const CHECKS = {
  running: 'No process has the database open.',
  sibling: 'No other database lies where the node may open it in place of the restored one.',
  layout:
    'No database of an old layout lies in the folder above, which the node would move over the restored one.',
  existing: 'What is to become of a database that is there already has been said, and can be done.',
  arguments: "The node's own arguments can be read, from its unit or its command.",
  genesis:
    'The chain has the genesis block that is demanded, or that the chain of that name is known to have.',
  chain: 'The node runs the chain that the snapshot is of.',
  backend: 'The node opens a database of that backend.',
  pruning: 'The node asks for the pruning mode that the database was made with.',
  version: "The node's version reads databases of that version.",
  paths: 'The node looks for its databases where they are restored, the relay chain’s too.',
  owner: 'The node may write what is restored.',
  room: 'The disk has room for the database, and for the node to go on.',
  disk: 'The disk is of a kind that a node can work on.',
  files: 'The node may have as many files open as it needs.',
  clock: "This machine's clock agrees with that of the store.",
} as const;

export type CheckId = keyof typeof CHECKS;

/** What a check has found. A check may have several findings, one for each database. */
export interface Finding {
  check: CheckId;
  /** A refusal stands against the restore; of a warning somebody should know. */
  verdict: 'pass' | 'warning' | 'refusal';
  /** What is, as a phrase that names files, flags and values. */
  message: string;
  /** What to change; null when nothing has to be. */
  hint: string | null;
  /** Of a refusal, also of one that was overruled. */
  code: ErrorCode | null;
  /** A refusal that the user has overruled, and that is a warning now. */
  overruled: boolean;
}

export function pass(check: CheckId, message: string): Finding {
  return { check, verdict: 'pass', message, hint: null, code: null, overruled: false };
}

export function warning(check: CheckId, message: string, hint: string | null): Finding {
  return { check, verdict: 'warning', message, hint, code: null, overruled: false };
}

export function refusal(check: CheckId, code: ErrorCode, message: string, hint: string): Finding {
  return { check, verdict: 'refusal', message, hint, code, overruled: false };
}
