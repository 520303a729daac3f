import * as http from 'node:http';
import * as https from 'node:https';
import { errnoOf, PresyncError } from '@presync/runtime/errors';

/** A client certificate and its private key, in PEM: both or none. */
export interface ClientIdentity {
  cert?: string | undefined;
  key?: string | undefined;
}

/** What every adapter over HTTP lets its caller say of connections. */
export interface ConnectionOptions {
  /** Sockets at a time; further calls wait. Default 256: one answer gives some 90 MB/s, so a fast link needs many. */
  maxConnections?: number | undefined;
  /** A connection that moves no byte for so many milliseconds is dead. Default 30,000, as in the AWS CRT. */
  stallMs?: number | undefined;
  /** Shown to servers that ask for a client certificate. */
  identity?: ClientIdentity | undefined;
}

export const DEFAULT_MAX_CONNECTIONS = 256;
export const DEFAULT_STALL_MS = 30_000;

/** By the protocol of a URL. */
export interface Agents {
  'http:': http.Agent;
  'https:': https.Agent;
}

/**
 * Agents that keep their sockets and honour `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.
 *
 * @throws PresyncError CONFIG_INVALID when a proxy in the environment is none.
 */
export function createAgents({ maxConnections, identity }: ConnectionOptions): Agents {
  const options = {
    keepAlive: true,
    maxSockets: maxConnections ?? DEFAULT_MAX_CONNECTIONS,
    // Node 24.5 and later: proxies from the environment.
    proxyEnv: process.env,
  };
  const { cert, key } = identity ?? {};
  const shown = cert === undefined || key === undefined ? {} : { cert, key };
  return withProxies(() => ({
    'http:': new http.Agent(options),
    'https:': new https.Agent({ ...options, ...shown }),
  }));
}

/** Node and some SDKs read the proxies of the environment, and say what is wrong with passwords in it. */
export function withProxies<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (!['ERR_INVALID_URL', 'ERR_PROXY_INVALID_CONFIG'].includes(errnoOf(error) ?? '')) throw error;
    throw new PresyncError('CONFIG_INVALID', 'a proxy in the environment is not the URL of one', {
      hint: 'write HTTPS_PROXY, HTTP_PROXY or ALL_PROXY as http://host:port',
    });
  }
}

/** Nothing moved on a connection. */
export class StallError extends Error {
  override readonly name = 'TimeoutError';

  constructor(stallMs: number) {
    super(`no byte moved for ${stallMs / 1000} s`);
  }
}
