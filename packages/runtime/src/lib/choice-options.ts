import type { OptionDefinition } from './option-definition.ts';
import { choice, duration, flag, integer, list, percent, snapshotReference, text } from './option-kinds.ts';

/** Which snapshot a machine takes, what it does when that one is no good, and how much of one is looked at. */
export const CHOICE_OPTIONS = {
  snapshot: {
    kind: snapshotReference(),
    description:
      'Which snapshot of the channel: the newest, the newest of the pinned ones, or one by its number.',
    default: 'latest',
  },
  toBlock: {
    kind: integer('N', 0, 2 ** 32 - 1, 'blocks'),
    description:
      'Take the newest snapshot that holds no block above this one, as for going back before a bad block.',
  },
  fallback: {
    kind: list(choice(['older', 'peer', 'warp', 'fail'])),
    description:
      'What to do, in this order, when the snapshot is not fit or turns out damaged: take an older one, take that of another source, restore nothing for a node that warp syncs, or fail. Repeatable.',
    default: ['fail'],
  },
  maxAttempts: {
    kind: integer('N', 1, 100, 'snapshots'),
    description:
      'After so many snapshots in a row have turned out damaged on this machine, none is downloaded any more.',
    default: 3,
  },
  retryFailed: {
    kind: flag(),
    description: 'Forget which snapshots have failed on this machine, and try them again.',
    default: false,
    inFile: false,
  },
  importRate: {
    kind: integer('N', 1, 100_000, 'blocks a second'),
    description:
      'Blocks that the node imports a second when it catches up, for the estimate of the time to ready.',
    default: 20,
  },
  warpSyncTime: {
    kind: duration('1m', '30d'),
    description:
      'How long a warp sync takes here, as you have measured it. A restore whose estimated time to ready is longer says so, and --fallback peer and warp are tried first.',
  },
  freeRoom: {
    kind: flag(),
    description:
      'Where the disk has no room for both, remove the old database before the new one is there. With --existing replace or reuse only.',
    default: false,
  },
  path: {
    kind: list(text('GLOB', 'a pattern such as 000123.sst, table_02_* or chains/*/db/full/*.sst')),
    description:
      'Look only at files of this name or path in the snapshot; * and ? stand for any characters. Repeatable.',
    default: [],
    inFile: false,
  },
  sample: {
    kind: percent(),
    description: 'Look only at so many of the chunks, chosen by chance anew each time.',
    inFile: false,
  },
} as const satisfies Record<string, OptionDefinition>;
