/**
 * What a database of a node is for:
 *
 * - `main`: the chain's own; of a parachain's node, the parachain's.
 * - `relay`: the relay chain's, in a parachain's node.
 * - `parachains`, `relay-parachains`: what the one or the other keeps of parachains (availability, approvals), where it is a relay chain.
 */
export const DATABASE_ROLES = ['main', 'parachains', 'relay', 'relay-parachains'] as const;
export type DatabaseRole = (typeof DATABASE_ROLES)[number];

/** Where a parachain's node keeps its relay chain's data, below its base path. */
export const RELAY_FOLDER = 'polkadot';

/** The folder of the database of parachain data. */
export const PARACHAINS_FOLDER = 'parachains';
