import { choice, text } from './option-kinds.ts';

/** Options of nodes with more than one database. */
export const PART_OPTIONS = {
  relayBasePath: {
    kind: text('DIR', 'the path of a folder'),
    description:
      "Base path of the relay chain's data in a parachain's node. Default: polkadot/ in the base path, as the node's own default.",
  },
  databases: {
    kind: choice(['main', 'all']),
    description:
      "Which databases are taken, in one pause: the chain's own, or also its relay chain's and what is kept of parachains.",
    default: 'main',
  },
} as const;
