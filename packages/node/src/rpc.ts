/**
 * What presync asks a node over JSON-RPC, by the providers of @polkadot/api, which have a package of their own. The metadata, which `ApiPromise` would load and
 * decode first, is not needed for any of it.
 */
export interface NodeRpc {
  /** The URL without credentials, for people. */
  readonly location: string;
  health(): Promise<NodeHealth>;
  syncState(): Promise<SyncState>;
  /** The best block that the node reports; parts of it may be in its memory only. */
  best(): Promise<BlockRef>;
  finalized(): Promise<BlockRef>;
  /** The hash of the block with that number on the best chain; undefined when the node has no such block. */
  blockHash(number: number): Promise<string | undefined>;
  genesisHash(): Promise<string>;
  /** The chain's display name. It is not the chain spec id. */
  chainName(): Promise<string>;
  /** `Development`, `Local`, `Live` or a chain's own word; undefined when the node does not tell. */
  chainType(): Promise<string | undefined>;
  /** `Full`, `Authority`…; none when the node does not tell. */
  roles(): Promise<string[]>;
  implementation(): Promise<{ name: string; version: string }>;
  /** Gives back the connection. May be called twice; later calls of other methods reject. */
  close(): Promise<void>;
}

export interface NodeHealth {
  peers: number;
  /** The node is catching up with the chain ("major sync"). */
  isSyncing: boolean;
  /** False on development chains. */
  shouldHavePeers: boolean;
}

/** Block numbers. */
export interface SyncState {
  startingBlock: number;
  currentBlock: number;
  highestBlock: number;
}

export interface BlockRef {
  number: number;
  /** 0x and 64 hexadecimal digits. */
  hash: string;
}

export interface ConnectOptions {
  /** Ends the connection and every call under way. */
  signal: AbortSignal;
  /** For connecting, and for each call. Milliseconds; default 10,000. */
  timeoutMs?: number | undefined;
}

export { connectNode } from './lib/connect-node.ts';
