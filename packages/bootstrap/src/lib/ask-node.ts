import type { Manifest } from '@presync/format/manifest';
import { type BlockRef, connectNode, type NodeRpc } from '@presync/node/rpc';
import { isPresyncError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';

/** What a node must show to be right. */
export interface ReadyRules {
  rpcUrl: string;
  /** Of the snapshot that its database comes from; undefined for a node that began with an empty one. */
  chain: Manifest['chain'] | undefined;
  minPeers: number;
  /** Blocks between the head here and the highest that peers tell of. */
  maxHeadLag: number;
  /** Blocks between head and finalized block. */
  maxFinalityLag: number;
}

export interface NodeFacts {
  head: BlockRef;
  finalized: BlockRef;
  peers: number;
}

export type NodeAnswer = ({ ok: true } & NodeFacts) | { ok: false; reason: string };

export interface NodeAsker {
  /**
   * One look at the node, over a connection that is kept.
   *
   * @throws NODE_WRONG_CHAIN when the node will never be right; ABORTED
   */
  ask(signal: AbortSignal): Promise<NodeAnswer>;
  close(): Promise<void>;
}

const RPC_TIMEOUT_MS = 10_000;

export function createNodeAsker(rules: ReadyRules): NodeAsker {
  let rpc: NodeRpc | undefined;
  const end = new AbortController();
  const close = async (): Promise<void> => {
    const open = rpc;
    rpc = undefined;
    await open?.close();
  };
  const lookOnce = async (): Promise<NodeAnswer> => {
    // The connection outlives the look; a look may be given up without it.
    rpc ??= await connectNode(rules.rpcUrl, { timeoutMs: RPC_TIMEOUT_MS, signal: end.signal });
    return look(rpc, rules);
  };
  return {
    async ask(signal) {
      throwIfAborted(signal);
      try {
        return await orAborted(lookOnce(), signal);
      } catch (error) {
        throwIfAborted(signal);
        if (!isPresyncError(error, 'NODE_RPC_FAILED')) throw error;
        await close();
        return { ok: false, reason: messageOf(error) };
      }
    },
    async close() {
      end.abort();
      await close();
    },
  };
}

function orAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}

async function look(rpc: NodeRpc, rules: ReadyRules): Promise<NodeAnswer> {
  const no = (reason: string): NodeAnswer => ({ ok: false, reason });
  await assertChain(rpc, rules);
  const head = await rpc.best();
  const anchor = rules.chain?.anchor ?? null;
  if (anchor !== null && !(await holdsAnchor(rpc, anchor))) {
    return no(
      `it has no block ${anchor.number} yet, which the snapshot holds: it may not have opened the restored database`,
    );
  }
  const { isSyncing, peers, shouldHavePeers } = await rpc.health();
  if (shouldHavePeers && peers < rules.minPeers) return no(`it has ${peers} peers of ${rules.minPeers}`);
  if (isSyncing) return no('it is syncing');
  const { highestBlock } = await rpc.syncState();
  if (highestBlock - head.number > rules.maxHeadLag)
    return no(`it is ${highestBlock - head.number} blocks behind its peers`);
  const finalized = await rpc.finalized();
  if (head.number - finalized.number > rules.maxFinalityLag)
    return no(`its finality is ${head.number - finalized.number} blocks behind`);
  return { ok: true, head, finalized, peers };
}

async function assertChain(rpc: NodeRpc, { chain }: ReadyRules): Promise<void> {
  if (chain === undefined) return;
  const genesis = await rpc.genesisHash();
  if (genesis === chain.genesisHash) return;
  throw new PresyncError(
    'NODE_WRONG_CHAIN',
    `the node is on the chain with genesis ${genesis}, the snapshot on ${chain.genesisHash}`,
    { hint: 'check the --chain and --rpc of the node' },
  );
}

async function holdsAnchor(rpc: NodeRpc, anchor: BlockRef): Promise<boolean> {
  const hash = await rpc.blockHash(anchor.number);
  if (hash === undefined) return false;
  if (hash === anchor.hash) return true;
  throw new PresyncError(
    'NODE_WRONG_CHAIN',
    `block ${anchor.number} is ${hash} on the node, and ${anchor.hash} in the snapshot`,
    {
      hint: 'the node did not open the restored database, or the snapshot is of a fork; check the base path of the node',
    },
  );
}
