import { argv, choice, duration, flag, text } from './option-kinds.ts';

/** Options of how a new snapshot is proved before it becomes latest, and of what did not pass. */
export const PROOF_OPTIONS = {
  proveRestore: {
    kind: flag(),
    description: 'Restore each new snapshot whole into scratch space before it becomes latest.',
    default: false,
  },
  proveDir: {
    kind: text('DIR', 'the path of a folder'),
    description:
      'Where a new snapshot is restored to be proved; needs room for the whole database. Default: proofs/ in --state-dir.',
  },
  proveCommand: {
    kind: argv(),
    description:
      'Command of a node that opens the restored copy without a network, and must show its genesis and anchor before the snapshot becomes latest. {basePath} and {rpcPort} in it are filled in. Implies --prove-restore.',
  },
  proveTimeout: {
    kind: duration('1s', '1d'),
    description: 'How long the proof node may take until it shows the anchor.',
    default: '10m',
  },
  proveIsolation: {
    kind: choice(['namespace', 'flags']),
    description:
      'What keeps the proof node from the network: a network namespace of its own, or only flags that presync adds to its command.',
    default: 'namespace',
  },
  allowQuarantined: {
    kind: flag(),
    description: 'Use the snapshot that --snapshot names even if it has not passed its proof.',
    default: false,
  },
} as const;
