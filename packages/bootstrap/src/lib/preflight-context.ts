import type { Backend } from '@presync/node/layout';
import type { ChainArguments, ConfiguredNode } from '@presync/node/node-arguments';
import type { ClockSkew } from '@presync/store/server-time';

/** A database that is, or would be, restored. */
export interface SubjectPart {
  role: string;
  backend: Backend;
  /** The base path that it lies below, and its folder relative to that. */
  basePath: string;
  path: string;
  /** As in a manifest; undefined when it is not known. */
  databaseVersion?: string | undefined;
}

/** What is known of the databases that a node is to open. What is not known is left out, and not compared. */
export interface PreflightSubject {
  /** What to call it: `snapshot polkadot/paritydb-archive#12`. */
  name: string;
  /** Chain spec id. */
  specId: string;
  genesisHash?: string | undefined;
  /** The genesis hash was demanded, and compared already. */
  genesisDemanded?: boolean | undefined;
  implementation?: string | undefined;
  version?: string | undefined;
  statePruning?: string | undefined;
  blocksPruning?: string | undefined;
  /** Bytes that have to be written at the most. */
  bytes?: number | undefined;
  files?: number | undefined;
  /** The main one first. */
  parts: readonly SubjectPart[];
}

export interface PreflightContext {
  subject: PreflightSubject;
  basePath: string;
  relayBasePath: string | undefined;
  /** Something will be written; otherwise a database that is there is looked at. */
  restores: boolean;
  existing: 'refuse' | 'keep' | 'reuse' | 'replace';
  freeRoom?: boolean | undefined;
  owner: { uid: number; gid: number } | undefined;
  /** Undefined when no unit and no command is known. */
  node: ConfiguredNode | undefined;
  /** Bytes that stay free for the node. */
  reserve: number;
  /** Undefined where there is nothing to compare with. */
  clock: ClockSkew | undefined;
  signal: AbortSignal;
}

/** The part's own chain in the node's arguments: the node's, or that of the relay chain in it. Undefined when they are not known. */
export function argumentsOf(
  node: ConfiguredNode | undefined,
  { role }: Pick<SubjectPart, 'role'>,
): ChainArguments | undefined {
  const own = node?.arguments;
  if (own === undefined || !role.startsWith('relay')) return own;
  return own.relay ?? NO_ARGUMENTS;
}

/** A relay chain's node that is given nothing has its defaults. */
const NO_ARGUMENTS: ChainArguments = {
  basePath: undefined,
  chain: undefined,
  database: undefined,
  statePruning: undefined,
  blocksPruning: undefined,
  sync: undefined,
  rpcPort: undefined,
  dev: false,
  tmp: false,
  authors: false,
};

/** The databases of chains; what is kept of parachains follows that of its chain. */
export function chainParts({ parts }: PreflightSubject): SubjectPart[] {
  return parts.filter(({ role }) => role === 'main' || role === 'relay');
}

/** `--database paritydb`, and where it belongs for a relay chain's node. */
export function flagFor(part: Pick<SubjectPart, 'role'>, flag: string): string {
  return part.role === 'relay' ? `${flag} after --` : flag;
}
