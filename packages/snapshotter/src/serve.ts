import { isContentKey } from '@presync/format/paths';
import { errnoOf, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { Metrics } from '@presync/runtime/metrics';
import type { ObjectStore } from '@presync/store/object-store';
import { openRanges } from '@presync/store/open-object';
import { createPace } from '@presync/store/with-bandwidth';
import type { MadeStore } from '@presync/store/with-made-objects';
import { openRepository } from '@presync/transfer/repository';
import type { FastifyInstance } from 'fastify';
import { readSmall, readToken } from './lib/bearer.ts';
import { addObjectRoutes } from './lib/object-server.ts';

export interface ServeOptions {
  /** Holds the repository that is offered. The caller closes it. */
  store: ObjectStore | MadeStore;
  listen: { host: string; port: number };
  /** File with the bearer token that clients must send. */
  tokenFile?: string | undefined;
  /** PEM files. With `clientCa`, only clients with a certificate of such an authority are let in. */
  tls?: { cert: string; key: string; clientCa?: string | undefined } | undefined;
  /** Answers at a time. */
  maxAnswers: number;
  /** Bytes a second that are sent at most. */
  bandwidth?: number | undefined;
  metrics?: Metrics | undefined;
  log: Logger;
  /** Called once, with the URL for --source, when the server listens. */
  onListening?: ((url: string) => void) | undefined;
  signal: AbortSignal;
}

/** A connection that asks nothing is closed after this long. */
const KEEP_ALIVE_MS = 60_000;
/** An answer that moves no byte for this long is given up: its client is gone or stuck. */
const STALL_MS = 60_000;

/**
 * Offers a repository to other machines' presync over HTTP, until the signal fires. Read only. What is offered is what clients
 * verify: signatures and digests, as from every other store.
 */
export async function serve(options: ServeOptions): Promise<void> {
  const { store, listen, log, signal } = options;
  const repository = await openRepository(store, { signal });
  const app = await createApp(options);
  try {
    try {
      await app.listen({ host: listen.host, port: listen.port });
    } catch (error) {
      throw new PresyncError(
        'IO_FAILED',
        `cannot listen on ${listen.host}:${listen.port}: ${messageOf(error)}`,
        {
          cause: error,
          hint:
            errnoOf(error) === 'EADDRINUSE'
              ? 'end what listens there, or choose another --listen'
              : 'choose another --listen',
        },
      );
    }
    const address = app.server.address();
    const port = typeof address === 'object' && address !== null ? address.port : listen.port;
    const host = listen.host.includes(':') ? `[${listen.host}]` : listen.host;
    const url = `peer+${options.tls === undefined ? 'http' : 'https'}://${host}:${port}`;
    log.info('serve.started', 'the repository is offered', { url, repository: repository.id });
    if (options.tokenFile === undefined && options.tls?.clientCa === undefined && !isLoopback(listen.host))
      log.warn(
        'serve.open',
        'anybody who reaches this address may read the repository; --serve-token restricts it',
      );
    options.onListening?.(url);
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      else signal.addEventListener('abort', () => resolve(), { once: true });
    });
  } finally {
    await app.close();
  }
}

async function createApp({
  store,
  tokenFile,
  tls,
  maxAnswers,
  bandwidth,
  metrics,
  signal,
}: ServeOptions): Promise<FastifyInstance> {
  const { fastify } = await import('fastify');
  const token = tokenFile === undefined ? undefined : await readToken(tokenFile);
  const https =
    tls === undefined
      ? null
      : {
          cert: await readSmall(tls.cert),
          key: await readSmall(tls.key),
          ...(tls.clientCa === undefined
            ? {}
            : { ca: await readSmall(tls.clientCa), requestCert: true, rejectUnauthorized: true }),
        };
  throwIfAborted(signal);
  const app: FastifyInstance = fastify({
    logger: false,
    forceCloseConnections: true,
    keepAliveTimeout: KEEP_ALIVE_MS,
    bodyLimit: 1024,
    ...(https === null ? {} : { https }),
  });
  // Those past the limit are told to come again; past twice the limit not even that is worth a socket.
  app.server.maxConnections = 2 * maxAnswers;
  app.server.setTimeout(STALL_MS);
  addObjectRoutes(app, {
    store,
    open: async (info, call) => ('open' in store ? store.open(info, call) : openRanges(store, info, call)),
    isImmutable: isContentKey,
    token,
    maxAnswers,
    pace: bandwidth === undefined ? undefined : createPace(bandwidth),
    onAnswer: ({ status, bytes, seconds }) => {
      metrics?.serve.seconds.observe({ status: String(status) }, seconds);
      if (status < 300) metrics?.serve.bytes.inc(bytes);
    },
    signal,
  });
  return app;
}

function isLoopback(host: string): boolean {
  return /^(127\.|::1$|localhost$)/.test(host);
}
