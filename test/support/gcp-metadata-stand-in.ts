/**
 * Google's metadata server, as its documentation describes it: the `Metadata-Flavor` header both ways, keys as text, ETags, and questions
 * that are held until a value changes.
 *
 * https://cloud.google.com/compute/docs/metadata/querying-metadata
 */
import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';

export interface GcpMetadata {
  base: string;
  /** Sets the value of a key below `instance/`, and answers whoever waits for it; undefined takes it away. */
  set(key: string, value: string | undefined): void;
  /** What the answers say they are. */
  flavor: string | undefined;
  /** Status of all answers until it is undefined again. */
  failing: number | undefined;
  /** Whether questions are held, as the server does. */
  holding: boolean;
  /** URLs of all questions. */
  asked: string[];
  stop(): Promise<void>;
}

export async function startGcpMetadata(): Promise<GcpMetadata> {
  const values = new Map<string, { text: string; etag: string }>();
  const waiting = new Map<() => void, string>();

  function reply(response: ServerResponse, status: number, text: string, etag?: string): void {
    response.writeHead(status, {
      'content-type': status === 200 ? 'application/text' : 'text/html; charset=UTF-8',
      server: 'Metadata Server for VM',
      ...(standIn.flavor === undefined ? {} : { 'metadata-flavor': standIn.flavor }),
      ...(etag === undefined ? {} : { etag }),
    });
    response.end(text);
  }

  function refusalOf(request: IncomingMessage): [number, string] | undefined {
    if (request.headers['metadata-flavor'] !== 'Google')
      return [403, 'Missing Metadata-Flavor:Google header.'];
    if (request.headers['x-forwarded-for'] !== undefined) return [403, 'The request was forwarded.'];
    return standIn.failing === undefined ? undefined : [standIn.failing, 'as told'];
  }

  /** Calls back when the value changes, when the time is over, or never, when nobody listens any more. */
  function hold(key: string, seconds: number, response: ServerResponse, now: () => void): void {
    const release = (): void => {
      forget();
      now();
    };
    const forget = (): void => {
      clearTimeout(timer);
      waiting.delete(release);
    };
    const timer = setTimeout(release, seconds * 1000);
    waiting.set(release, key);
    response.on('close', forget);
  }

  function answer(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? '', 'http://metadata.google.internal');
    const key = /^\/computeMetadata\/v1\/instance\/(.+)$/.exec(url.pathname)?.[1] ?? '';
    const refusal = refusalOf(request);
    if (refusal !== undefined) {
      reply(response, ...refusal);
      return;
    }
    const now = (): void => {
      const value = values.get(key);
      if (value === undefined) reply(response, 404, 'Not Found');
      else reply(response, 200, value.text, value.etag);
    };
    const query = url.searchParams;
    const known = query.get('last_etag') ?? values.get(key)?.etag;
    if (standIn.holding && query.get('wait_for_change') === 'true' && known === values.get(key)?.etag)
      hold(key, Number(query.get('timeout_sec') ?? 3600), response, now);
    else now();
  }

  const server = createServer((request, response) => {
    standIn.asked.push(request.url ?? '');
    answer(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const standIn: GcpMetadata = {
    base: `http://127.0.0.1:${address.port}`,
    set(key, value) {
      if (value === undefined) values.delete(key);
      else values.set(key, { text: value, etag: randomBytes(8).toString('hex') });
      for (const [release, awaited] of waiting) if (awaited === key) release();
    },
    flavor: 'Google',
    failing: undefined,
    holding: true,
    asked: [],
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  for (const [key, value] of Object.entries({
    id: '4520031799277581759',
    name: 'sentries-8x2f',
    zone: 'projects/708288290784/zones/europe-west1-b',
    'attributes/created-by': 'projects/708288290784/regions/europe-west1/instanceGroupManagers/sentries',
    preempted: 'FALSE',
    'maintenance-event': 'NONE',
    'scheduling/automatic-restart': 'TRUE',
  })) {
    standIn.set(key, value);
  }
  return standIn;
}
