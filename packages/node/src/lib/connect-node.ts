import { isPresyncError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { BlockRef, ConnectOptions, NodeRpc } from '../rpc.ts';
import { createTransport, type RpcTransport } from './rpc-transport.ts';

const DEFAULT_TIMEOUT_MS = 10_000;
const HASH = /^0x[0-9a-f]{64}$/;

/**
 * Connects to a node and asks it for its genesis hash, so that a wrong URL shows at once. A WebSocket that breaks later is
 * opened again by the next call.
 *
 * @throws CONFIG_INVALID for a URL that is not http, https, ws or wss
 * @throws NODE_RPC_FAILED when it does not answer in time or answers with an error; likewise every method of the result
 * @throws ABORTED; likewise every method of the result
 */
export async function connectNode(url: string, options: ConnectOptions): Promise<NodeRpc> {
  const parsed = parseUrl(url);
  throwIfAborted(options.signal);
  const rpc = createNodeRpc(await createTransport(parsed), { ...options, location: redact(parsed) });
  try {
    await rpc.genesisHash();
    return rpc;
  } catch (error) {
    await rpc.close();
    throw error;
  }
}

/** The calls over any transport. */
export function createNodeRpc(
  transport: RpcTransport,
  options: ConnectOptions & { location: string },
): NodeRpc {
  const { location, signal } = options;
  const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  const closed = new AbortController();
  let genesis: string | undefined;

  const call = async (method: string, ...params: unknown[]): Promise<unknown> => {
    throwIfAborted(signal);
    if (closed.signal.aborted) throw failed(location, method, 'the connection was closed by presync');
    const timeout = AbortSignal.timeout(timeoutMs);
    const any = AbortSignal.any([signal, timeout, closed.signal]);
    const given = Promise.withResolvers<never>();
    const giveUp = () => given.reject(any.reason);
    any.addEventListener('abort', giveUp, { once: true });
    try {
      // The providers cannot take a request back: an answer that comes after the time is dropped.
      return await Promise.race([transport.send(method, params, { signal: any }), given.promise]);
    } catch (error) {
      throwIfAborted(signal);
      const why = timeout.aborted ? `no answer within ${timeoutMs} ms` : firstLine(messageOf(error));
      throw failed(location, method, why, error);
    } finally {
      any.removeEventListener('abort', giveUp);
    }
  };

  /** Undefined when the node answers, but not to this: a proxy may let few methods through. */
  const optional = async (method: string): Promise<unknown> => {
    try {
      return await call(method);
    } catch (error) {
      if (!isPresyncError(error, 'NODE_RPC_FAILED')) throw error;
      await call('chain_getBlockHash', 0);
      return undefined;
    }
  };

  const expect = <T>(method: string, value: unknown, check: (value: unknown) => T | undefined): T => {
    const checked = check(value);
    if (checked === undefined)
      throw failed(location, method, `an answer of an unknown form: ${JSON.stringify(value)?.slice(0, 200)}`);
    return checked;
  };

  const blockAt = async (hash: string): Promise<BlockRef> => {
    const number = expect('chain_getHeader', await call('chain_getHeader', hash), (header) =>
      isRecord(header) ? toNumber(header.number) : undefined,
    );
    return { number, hash };
  };

  return {
    location,
    health: async () =>
      expect('system_health', await call('system_health'), (value) => {
        if (!isRecord(value)) return undefined;
        const { isSyncing, shouldHavePeers } = value;
        const peers = toNumber(value.peers);
        if (peers === undefined || typeof isSyncing !== 'boolean' || typeof shouldHavePeers !== 'boolean')
          return undefined;
        return { peers, isSyncing, shouldHavePeers };
      }),
    syncState: async () =>
      expect('system_syncState', await call('system_syncState'), (value) => {
        if (!isRecord(value)) return undefined;
        const startingBlock = toNumber(value.startingBlock);
        const currentBlock = toNumber(value.currentBlock);
        // Older nodes leave it out when they know of no higher block.
        const highestBlock = toNumber(value.highestBlock ?? value.currentBlock);
        if (startingBlock === undefined || currentBlock === undefined || highestBlock === undefined)
          return undefined;
        return { startingBlock, currentBlock, highestBlock };
      }),
    best: async () => blockAt(expect('chain_getBlockHash', await call('chain_getBlockHash'), toHash)),
    finalized: async () =>
      blockAt(expect('chain_getFinalizedHead', await call('chain_getFinalizedHead'), toHash)),
    blockHash: async (number) => {
      const answer = await call('chain_getBlockHash', number);
      return answer === null ? undefined : expect('chain_getBlockHash', answer, toHash);
    },
    genesisHash: async () => {
      genesis ??= expect('chain_getBlockHash', await call('chain_getBlockHash', 0), toHash);
      return genesis;
    },
    chainName: async () => expect('system_chain', await call('system_chain'), toText),
    chainType: async () => {
      const answer = await optional('system_chainType');
      if (typeof answer === 'string') return answer;
      return isRecord(answer) ? Object.values(answer).find((word) => typeof word === 'string') : undefined;
    },
    roles: async () => {
      const answer = await optional('system_nodeRoles');
      return Array.isArray(answer) ? answer.filter((role) => typeof role === 'string') : [];
    },
    implementation: async () => ({
      name: expect('system_name', await call('system_name'), toText),
      version: expect('system_version', await call('system_version'), toText),
    }),
    close: async () => {
      closed.abort(new Error('the connection was closed by presync'));
      await transport.close().catch((error: unknown) => {
        throw failed(location, 'close', messageOf(error), error);
      });
    },
  };
}

function parseUrl(text: string): URL {
  const url = URL.parse(text);
  if (url !== null && ['http:', 'https:', 'ws:', 'wss:'].includes(url.protocol)) return url;
  throw new PresyncError('CONFIG_INVALID', `${JSON.stringify(text)} is not the URL of a node's RPC`, {
    hint: 'give one like http://127.0.0.1:9944 or ws://127.0.0.1:9944',
  });
}

/** Keys may stand in the user part, the path or the query. */
function redact(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname === '/' && url.search === '' ? '' : '/…'}`;
}

function failed(location: string, method: string, why: string, cause?: unknown): PresyncError {
  return new PresyncError('NODE_RPC_FAILED', `${method} at ${location}: ${why}`, {
    cause,
    hint: 'check that the node runs and that the URL is its RPC; the defaults are http://127.0.0.1:9944 and ws://127.0.0.1:9944',
    retryable: true,
  });
}

function firstLine(text: string): string {
  return text.split('\n')[0] || 'it failed';
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

/** Numbers come as JSON numbers or as 0x text. */
function toNumber(value: unknown): number | undefined {
  const number = typeof value === 'string' && /^0x[0-9a-f]{1,13}$/i.test(value) ? Number(value) : value;
  return typeof number === 'number' && Number.isSafeInteger(number) && number >= 0 ? number : undefined;
}

function toHash(value: unknown): string | undefined {
  return typeof value === 'string' && HASH.test(value) ? value : undefined;
}

function toText(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}
