import type { Backend } from '../layout.ts';

/** What is given for one chain, as it was written; undefined where it was not. */
export interface ChainArguments {
  /** `--base-path`, `-d`. */
  basePath: string | undefined;
  /** `--chain`: a name that the node knows, or the path of a chain specification. */
  chain: string | undefined;
  /** `--database`, `--db`. */
  database: string | undefined;
  /** `--state-pruning`, `--pruning`. */
  statePruning: string | undefined;
  /** `--blocks-pruning`, `--keep-blocks`. */
  blocksPruning: string | undefined;
  /** `--sync`. */
  sync: string | undefined;
  /** `--rpc-port`. */
  rpcPort: string | undefined;
  dev: boolean;
  tmp: boolean;
  /** `--validator` or `--collator`. */
  authors: boolean;
}

export interface NodeArguments extends ChainArguments {
  /** Of a parachain's node: what follows `--`, for the relay chain's node in it. Undefined without a `--`. */
  relay: ChainArguments | undefined;
  /** The relay chain is asked by RPC (`--relay-chain-rpc-urls`), so that the node has no database of it. */
  relayByRpc: boolean;
}

type ValueKey = Exclude<keyof ChainArguments, 'dev' | 'tmp' | 'authors'>;

/** Flags with a value, aliases included. */
const VALUES: Readonly<Record<string, ValueKey>> = {
  '--base-path': 'basePath',
  '-d': 'basePath',
  '--chain': 'chain',
  '--database': 'database',
  '--db': 'database',
  '--state-pruning': 'statePruning',
  '--pruning': 'statePruning',
  '--blocks-pruning': 'blocksPruning',
  '--keep-blocks': 'blocksPruning',
  '--sync': 'sync',
  '--rpc-port': 'rpcPort',
};

const SWITCHES: Readonly<Record<string, 'dev' | 'tmp' | 'authors'>> = {
  '--dev': 'dev',
  '--tmp': 'tmp',
  '--validator': 'authors',
  '--collator': 'authors',
};

const RELAY_BY_RPC = /^--relay-chain-rpc-urls?(?:=|$)/;

/** Reads the arguments that follow the node's executable. Whatever else they say is passed over. */
export function parseNodeArguments(args: readonly string[]): NodeArguments {
  const end = args.indexOf('--');
  const own = end === -1 ? args : args.slice(0, end);
  return {
    ...parseChain(own),
    relay: end === -1 ? undefined : parseChain(args.slice(end + 1)),
    relayByRpc: own.some((arg) => RELAY_BY_RPC.test(arg)),
  };
}

function parseChain(args: readonly string[]): ChainArguments {
  const found: ChainArguments = {
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
  for (let at = 0; at < args.length; at++) {
    const arg = args[at] ?? '';
    const { flag, attached } = splitFlag(arg);
    const key = VALUES[flag];
    if (key !== undefined) {
      const value = attached ?? args[++at];
      if (value !== undefined) found[key] = value;
      continue;
    }
    const name = SWITCHES[arg];
    if (name !== undefined) found[name] = true;
  }
  return found;
}

/** `--flag=value`, `-d=value` and `-dvalue`, as clap takes them. */
function splitFlag(arg: string): { flag: string; attached: string | undefined } {
  const short = /^-d(?:=)?(.+)$/s.exec(arg);
  if (short !== null) return { flag: '-d', attached: short[1] };
  const equals = arg.startsWith('--') ? arg.indexOf('=') : -1;
  return equals === -1
    ? { flag: arg, attached: undefined }
    : { flag: arg.slice(0, equals), attached: arg.slice(equals + 1) };
}

/** True when there is an argument among them that only a node has. */
export function hasNodeArguments(args: readonly string[]): boolean {
  return args.some((arg) => {
    const { flag } = splitFlag(arg);
    return flag.startsWith('--') && (VALUES[flag] !== undefined || SWITCHES[flag] !== undefined);
  });
}

/**
 * The backend that a node opens. Without the flag it is RocksDB, whatever lies there (`config.rs`, `create_configuration`); `auto` takes RocksDB
 * where there is one, and ParityDB otherwise (`substrate/client/db/src/utils.rs`). Undefined for a word that no node knows.
 */
export function backendOf({ database }: Pick<ChainArguments, 'database'>): Backend | 'auto' | undefined {
  switch (database?.toLowerCase()) {
    case undefined:
    case 'rocksdb':
      return 'rocksdb';
    case 'paritydb':
    case 'paritydb-experimental':
      return 'paritydb';
    case 'auto':
      return 'auto';
    default:
      return undefined;
  }
}

/** How much is kept: all, what is final, or the last so many blocks. */
export type PruningMode = 'archive' | 'archive-canonical' | number;

/** Undefined for what no node takes. */
export function pruningMode(text: string): PruningMode | undefined {
  if (text === 'archive' || text === 'archive-canonical') return text;
  return /^\d{1,10}$/.test(text) && Number(text) < 2 ** 32 ? Number(text) : undefined;
}

/** True when the node keeps its data in a folder that it makes for itself, and that goes with it. */
export function isTemporary({ tmp, dev, basePath }: ChainArguments): boolean {
  return tmp || (dev && basePath === undefined);
}
