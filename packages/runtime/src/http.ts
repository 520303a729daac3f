import { type AddressInfo, isIP } from 'node:net';
import { hostname } from 'node:os';
import type { FastifyInstance } from 'fastify';
import type { Registry } from 'prom-client';
import { errnoOf, messageOf, PresyncError, throwIfAborted } from './errors.ts';

export interface Condition {
  ok: boolean;
  /** What a person wants to know when it is not. */
  detail?: Readonly<Record<string, unknown>> | undefined;
}

/** A check that gets this long; then the answer is no. */
export type Check = (signal: AbortSignal) => Condition | Promise<Condition>;

export interface AdminServerOptions {
  listen: { host: string; port: number };
  /** `/healthz`: should the process be left running? */
  health: Check;
  /** `/readyz`: should load balancers send requests to the node beside it? */
  ready: Check;
  /** `/metrics` */
  metrics: Registry;
  /** Adds what a program shows beside them. Its answers go to hosts that `isOwnHost` knows only. */
  routes?: ((app: FastifyInstance) => void) | undefined;
  /** Closes the server when it fires. */
  signal: AbortSignal;
}

export interface AdminServer {
  /** `http://127.0.0.1:9616` */
  readonly url: string;
  /** Ends open connections. May be called twice. */
  close(): Promise<void>;
}

/** Load balancers give up after about this long. */
const CHECK_TIMEOUT_MS = 4000;

/** The endpoints take no bodies. */
const BODY_LIMIT_BYTES = 1024;

/**
 * `/healthz`, `/readyz` (200 or 503, with JSON) and `/metrics`. There is no authentication: listen on loopback, or
 * where only monitoring and load balancers reach.
 *
 * @throws PresyncError IO_FAILED when the address cannot be had
 */
export async function startAdminServer(options: AdminServerOptions): Promise<AdminServer> {
  const { listen, signal } = options;
  throwIfAborted(signal);
  const { fastify } = await import('fastify');
  const app = fastify({
    logger: false,
    forceCloseConnections: true,
    bodyLimit: BODY_LIMIT_BYTES,
    requestTimeout: 10_000,
  });
  const loopback = isLoopback(listen.host);
  app.addHook('onRequest', async (request, reply) => {
    // A name that a web page has pointed at this machine ("DNS rebinding") is none that anybody here goes by. Where others
    // than this machine may ask, monitoring uses names of its own for what it reads.
    const plain = OPEN_PATHS.has(request.url.split('?')[0] ?? '');
    if ((loopback || !plain) && !isOwnHost(request.headers.host, listen.host)) {
      return reply.code(421).send({ error: 'this server does not go by that name: use its address' });
    }
  });
  for (const [path, check, more] of [
    ['/healthz', options.health, () => ({})],
    ['/readyz', options.ready, azureState],
  ] as const) {
    app.get(path, async (_request, reply) => {
      const condition = await ask(check, signal);
      return reply
        .code(condition.ok ? 200 : 503)
        .header('cache-control', 'no-store')
        .send({ ok: condition.ok, ...condition.detail, ...more(condition) });
    });
  }
  app.get('/metrics', async (_request, reply) => {
    const text = await options.metrics.metrics();
    return reply.header('content-type', options.metrics.contentType).send(text);
  });

  options.routes?.(app);

  try {
    await app.listen({ host: listen.host, port: listen.port });
  } catch (error) {
    await app.close();
    throw new PresyncError(
      'IO_FAILED',
      `cannot listen on ${listen.host}:${listen.port}: ${messageOf(error)}`,
      {
        cause: error,
        hint:
          errnoOf(error) === 'EADDRINUSE'
            ? 'end what listens there, or choose another --admin-listen'
            : 'choose another --admin-listen',
      },
    );
  }
  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => {
    signal.removeEventListener('abort', onAbort);
    closing ??= app.close();
    return closing;
  };
  const onAbort = (): void => void close();
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) {
    await close();
    throwIfAborted(signal);
  }
  return { url: urlOf(app.server.address(), listen), close };
}

/**
 * What Azure's application health extension reads of a probe with rich states, and others pass over
 * (https://learn.microsoft.com/azure/virtual-machine-scale-sets/virtual-machine-scale-sets-health-extension). With a 503 it reads no body, and takes the
 * state as Unknown: a VM that has not been healthy yet stays Initializing until the extension's grace period ends, where an Unhealthy with
 * 200 would have it repaired in the midst of its restore.
 */
function azureState({ ok }: Condition): { ApplicationHealthState: 'Healthy' | 'Unhealthy' } {
  return { ApplicationHealthState: ok ? 'Healthy' : 'Unhealthy' };
}

const OPEN_PATHS = new Set(['/healthz', '/readyz', '/metrics']);

function isLoopback(host: string): boolean {
  return /^(?:127\.|::1$|localhost$)/.test(host);
}

/** True for addresses, `localhost`, the name of this machine, and what the server was told to listen on. */
function isOwnHost(header: string | undefined, listenHost: string): boolean {
  const host = (header ?? '')
    .replace(/:\d{1,5}$/, '')
    .replaceAll(/^\[|\]$/g, '')
    .toLowerCase();
  return (
    isIP(host) !== 0 || [listenHost, 'localhost', hostname()].some((name) => name.toLowerCase() === host)
  );
}

function urlOf(address: AddressInfo | string | null, listen: { host: string; port: number }): string {
  const { host, port } =
    typeof address === 'object' && address !== null ? { host: address.address, port: address.port } : listen;
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** The answer of a check; one that throws or hangs is a no that says so. */
async function ask(check: Check, stop: AbortSignal): Promise<Condition> {
  const signal = AbortSignal.any([stop, AbortSignal.timeout(CHECK_TIMEOUT_MS)]);
  let onAbort: (() => void) | undefined;
  const late = new Promise<Condition>((resolve) => {
    onAbort = () => resolve({ ok: false, detail: { reason: 'the check did not answer in time' } });
    signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([(async () => check(signal))(), late]);
  } catch (error) {
    return { ok: false, detail: { reason: messageOf(error) } };
  } finally {
    if (onAbort !== undefined) signal.removeEventListener('abort', onAbort);
  }
}
