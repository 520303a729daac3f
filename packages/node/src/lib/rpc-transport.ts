import { messageOf } from '@presync/runtime/errors';

/** A way to send JSON-RPC requests to one node. */
export interface RpcTransport {
  /** Connects where that is needed. Rejects when the node cannot be reached. */
  send(method: string, params: readonly unknown[], options: { signal: AbortSignal }): Promise<unknown>;
  close(): Promise<void>;
}

/** @polkadot/api's own providers: HTTP for http(s), WebSocket for ws(s). Loaded when first used: it takes some 100 ms. */
export async function createTransport(url: URL): Promise<RpcTransport> {
  const { HttpProvider, WsProvider } = await import('@polkadot/rpc-provider');
  if (url.protocol === 'http:' || url.protocol === 'https:') {
    const { href, headers } = withoutCredentials(url);
    // Capacity 0: answers are never kept.
    const provider = new HttpProvider(href, headers, 0);
    return {
      send: (method, params) => provider.send(method, [...params]),
      close: () => provider.disconnect(),
    };
  }

  type Ws = InstanceType<typeof WsProvider>;
  let provider: Ws | undefined;
  let connecting: Promise<Ws> | undefined;
  const connect = async (): Promise<Ws> => {
    await provider?.disconnect();
    // `false`: it never reconnects by itself, which it would do for ever and log about. A new one is made when it is needed.
    const fresh = new WsProvider(url.href, false);
    provider = fresh;
    await new Promise<void>((resolve, reject) => {
      fresh.on('connected', () => resolve());
      fresh.on('error', (error: unknown) => reject(new Error(describe(error))));
      fresh.on('disconnected', () => reject(new Error('the connection was closed')));
      fresh.connect().catch(reject);
    });
    return fresh;
  };
  return {
    send: async (method, params) => {
      if (connecting === undefined && provider?.isConnected !== true) {
        connecting = connect().finally(() => {
          connecting = undefined;
        });
      }
      const current = (await connecting) ?? provider;
      if (current === undefined) throw new Error('the connection was closed');
      return current.send(method, [...params]);
    },
    close: async () => {
      await provider?.disconnect();
    },
  };
}

/** fetch refuses a URL with credentials in it. */
function withoutCredentials(url: URL): { href: string; headers: Record<string, string> } {
  if (url.username === '' && url.password === '') return { href: url.href, headers: {} };
  const credentials = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
  const bare = new URL(url);
  bare.username = '';
  bare.password = '';
  return {
    href: bare.href,
    headers: { authorization: `Basic ${Buffer.from(credentials).toString('base64')}` },
  };
}

/** A WebSocket's error is an event; its `message`, where it has one, says why. */
function describe(error: unknown): string {
  if (
    typeof error === 'object' &&
    error !== null &&
    'message' in error &&
    typeof error.message === 'string' &&
    error.message !== ''
  ) {
    return error.message;
  }
  return error instanceof Error ? messageOf(error) : 'the connection failed';
}
