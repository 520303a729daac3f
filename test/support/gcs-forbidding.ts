/**
 * An HTTP proxy in front of fake-gcs-server, which knows no permissions: it refuses what takes one of them, with the document with which
 * Cloud Storage refuses it.
 */
import { createServer, type IncomingMessage, request } from 'node:http';
import type { GcsServer } from './gcs-server.ts';

export type GcsPermission =
  | 'storage.objects.get'
  | 'storage.objects.create'
  | 'storage.objects.delete'
  | 'storage.objects.list';

export interface ForbiddingProxy {
  /** As the server's, through the proxy. */
  url: string;
  stop(): Promise<void>;
}

export async function startForbiddingProxy(
  server: GcsServer,
  denied: readonly GcsPermission[],
): Promise<ForbiddingProxy> {
  const upstream = new URL(server.endpoint);
  const proxy = createServer((incoming, outgoing) => {
    const missing = neededFor(incoming).find((permission) => denied.includes(permission));
    if (missing !== undefined) {
      incoming.resume();
      // https://github.com/google-github-actions/upload-cloud-storage/issues/388
      const message = `Caller does not have ${missing} access to the Google Cloud Storage object. Permission '${missing}' denied on resource (or it may not exist).`;
      const error = { code: 403, message, errors: [{ message, domain: 'global', reason: 'forbidden' }] };
      incoming.on('end', () => {
        outgoing.writeHead(403, { 'content-type': 'application/json; charset=UTF-8' });
        outgoing.end(JSON.stringify({ error }));
      });
      return;
    }
    const forwarded = request(
      {
        host: upstream.hostname,
        port: upstream.port,
        method: incoming.method,
        path: incoming.url,
        headers: { ...incoming.headers, host: upstream.host },
        agent: false,
      },
      (answer) => {
        outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(outgoing);
      },
    );
    forwarded.on('error', () => outgoing.destroy());
    incoming.pipe(forwarded);
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  const address = proxy.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const endpoint = `http://127.0.0.1:${address.port}`;
  return {
    url: server.url.replace(encodeURIComponent(server.endpoint), encodeURIComponent(endpoint)),
    stop: async () => {
      proxy.closeAllConnections();
      await new Promise((resolve) => proxy.close(resolve));
    },
  };
}

/** https://cloud.google.com/storage/docs/access-control/iam-json */
function neededFor({ method, url = '/' }: IncomingMessage): GcsPermission[] {
  const { pathname, searchParams } = new URL(url, 'http://server');
  if (method === 'DELETE') return ['storage.objects.delete'];
  if (method === 'POST') {
    // An insert that may only create never needs the right to delete what it replaces.
    const creates = searchParams.get('ifGenerationMatch') === '0';
    return ['storage.objects.create', ...(creates ? [] : (['storage.objects.delete'] as const))];
  }
  if (/\/o\/?$/.test(pathname)) return ['storage.objects.list'];
  return /\/o\/.+/.test(pathname) ? ['storage.objects.get'] : [];
}
