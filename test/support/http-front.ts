import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  request,
  type ServerResponse,
} from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { collect } from './collect.ts';

/**
 * What happens to a request: it is passed on; passed on with its last byte changed; passed on, but for its last byte, which comes some time later, whether
 * the client still waits or not; passed on, and its answer lost on the way back; or answered here, once its body has come.
 */
export type Fate =
  | 'pass'
  | 'damage'
  | { late: number; onBody: () => void }
  | 'lose the answer'
  | ((incoming: IncomingMessage, outgoing: ServerResponse) => void);

export interface HttpFront {
  endpoint: string;
  /** `GET /path?query` of each request, whatever became of it. */
  requests: string[];
  stop(): Promise<void>;
}

/** An HTTP front of a real server. The `Host` goes through as it came, so that signatures hold; `rewrite` gives other headers. */
export async function startHttpFront(
  upstream: string,
  fateOf: (line: string, incoming: IncomingMessage) => Fate | Promise<Fate>,
  rewrite: (incoming: IncomingMessage) => IncomingHttpHeaders = ({ headers }) => headers,
): Promise<HttpFront> {
  const { hostname, port } = new URL(upstream);
  const server = createServer(async (incoming, outgoing) => {
    const { method = 'GET', url = '/' } = incoming;
    const line = `${method} ${url}`;
    front.requests.push(line);
    incoming.on('error', () => undefined);
    const fate = await fateOf(line, incoming);
    const held = typeof fate === 'object' ? Buffer.concat(await collect<Buffer>(incoming)) : undefined;
    if (typeof fate === 'function') {
      incoming.resume().on('end', () => fate(incoming, outgoing));
      return;
    }
    const headers = rewrite(incoming);
    const sent = request({ host: hostname, port, method, path: url, headers, agent: false }, (answer) => {
      if (fate === 'lose the answer') {
        answer.resume().on('end', () => incoming.socket.resetAndDestroy());
        return;
      }
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(outgoing);
    });
    sent.on('error', () => {
      // A server may answer before it has taken all of the body, and close.
      if (!outgoing.headersSent) outgoing.destroy();
    });
    if (typeof fate === 'object' && held !== undefined) {
      sent.write(held.subarray(0, -1));
      fate.onBody();
      await delay(fate.late);
      sent.end(held.subarray(-1));
      return;
    }
    incoming.on('error', () => sent.destroy());
    if (fate === 'damage') sent.end(damaged(await collect<Buffer>(incoming)));
    else incoming.pipe(sent);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const front: HttpFront = {
    endpoint: `http://127.0.0.1:${address.port}`,
    requests: [],
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return front;
}

function damaged(pieces: readonly Buffer[]): Buffer {
  const body = Buffer.concat(pieces);
  const last = body.at(-1);
  if (last !== undefined) body[body.length - 1] = last ^ 1;
  return body;
}
