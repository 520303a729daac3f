/**
 * An HTTP/1.1 proxy in front of a real server that does to some of the requests what networks, servers, proxies and caches have
 * been seen to do. Requests and answers are held in memory whole, so it is for small objects.
 */
import { hash } from 'node:crypto';
import * as http from 'node:http';
import * as https from 'node:https';
import type { Socket } from 'node:net';
import {
  bodyOf,
  deliver,
  deliverHalf,
  deliverSlowly,
  endToEnd,
  fallSilent,
  half,
  SILENCE_MS,
  serialized,
} from './fault-delivery.ts';
import {
  type Answer,
  type Asked,
  asWhole,
  type Dialect,
  FAULT_KINDS,
  type FaultKind,
  fitsAnswer,
  isRefusal,
  laterPart,
  mayMeet,
  refusal,
  shortened,
  strikesAnswer,
  withOtherTag,
} from './fault-kinds.ts';
import type { SelfSigned } from './self-signed.ts';

export interface FaultProxyOptions {
  /** The real server, on 127.0.0.1; with `ca` it is spoken to over TLS. */
  upstream: { port: number; ca?: string | undefined };
  /** In which words it refuses. */
  dialect: Dialect;
  /** Speaks TLS with this identity. */
  tls?: SelfSigned | undefined;
  seed: number;
  /** The share of requests that meet a fault, 0 to 1. */
  rate: number;
  /** Default: all. */
  kinds?: readonly FaultKind[] | undefined;
  /** How often each was injected. Proxies that share one even it out together. Default: one of its own. */
  injected?: Map<FaultKind, number> | undefined;
}

export interface FaultProxy {
  /** Of 127.0.0.1. */
  readonly port: number;
  /** May be changed at any time. */
  rate: number;
  readonly requests: number;
  /** Faults that this proxy injected. */
  readonly faults: number;
  readonly injected: ReadonlyMap<FaultKind, number>;
  /** What went wrong between proxy and server, of which there should be nothing. */
  readonly broken: readonly string[];
  stop(): Promise<void>;
}

/** How long an answer waits for another one to be exchanged with. */
const SWAP_MS = 250;
/** Long enough for a connection to have been given back to the pool of its client. */
const LATE_MS = 20;
/** Earlier answers that are remembered. */
const REMEMBERED = 32;

interface Exchange {
  asked: Asked;
  answer: Answer;
  resolve(other: Answer): void;
}

/**
 * Starts one on a free port of 127.0.0.1. Whether a request meets a fault follows from the seed, its method, its path, and how often
 * it was made before; of the kinds that it can meet it is the one that was injected least often.
 */
export async function startFaultProxy(options: FaultProxyOptions): Promise<FaultProxy> {
  const { upstream, dialect, seed, tls, kinds = FAULT_KINDS } = options;
  const injected = options.injected ?? new Map<FaultKind, number>();
  const secure = upstream.ca !== undefined;
  const agent = secure
    ? new https.Agent({ keepAlive: true, ca: upstream.ca })
    : new http.Agent({ keepAlive: true });
  const times = new Map<string, number>();
  const broken: string[] = [];
  const earlier: { socket: Socket; asked: Asked; answer: Answer }[] = [];
  /** Below TLS, by the client's port: what can be reset. */
  const bare = new Map<number | undefined, Socket>();
  let exchange: Exchange | undefined;
  let requests = 0;
  let faults = 0;
  let duplicates = 0;

  function choose(asked: Asked): FaultKind | undefined {
    const name = `${asked.method} ${asked.path}`;
    const nth = (times.get(name) ?? 0) + 1;
    times.set(name, nth);
    if (draw(`${seed} ${name} ${nth}`) >= proxy.rate) return undefined;
    return rarest(
      kinds.filter((kind) => mayMeet(kind, asked)),
      draw(`${seed} ${name} ${nth} kind`),
    );
  }

  function rarest(among: readonly FaultKind[], at: number): FaultKind | undefined {
    const least = Math.min(...among.map((kind) => injected.get(kind) ?? 0));
    const rare = among.filter((kind) => (injected.get(kind) ?? 0) === least);
    return rare[Math.floor(at * rare.length)];
  }

  function count(kind: FaultKind): void {
    faults += 1;
    injected.set(kind, (injected.get(kind) ?? 0) + 1);
  }

  function reset(socket: Socket): void {
    const below = bare.get(socket.remotePort) ?? socket;
    if (below.destroyed) return;
    below.resetAndDestroy();
    socket.destroy();
  }

  async function handle(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const { socket } = request;
    const asked = askedOf(request);
    requests += 1;
    const fault = choose(asked);
    if (fault === 'reset-before') {
      count(fault);
      reset(socket);
      return;
    }
    if (fault === 'reset-in-request') {
      if (await half(request, asked.bodyLength)) {
        count(fault);
        reset(socket);
      }
      return;
    }
    const body = await bodyOf(request);
    if (body === undefined) return;
    if (fault === 'stall-before') {
      count(fault);
      fallSilent(socket);
      return;
    }
    if (fault !== undefined && !strikesAnswer(fault) && isRefusal(fault)) {
      count(fault);
      deliver(response, refusal(fault, dialect), asked);
      return;
    }
    const answer = await forward(request, body);
    if (exchange !== undefined && exchange.asked.path !== asked.path) {
      const other = exchange;
      exchange = undefined;
      other.resolve(answer);
      deliver(response, other.answer, asked);
      return;
    }
    if (fault === undefined) {
      remember(socket, asked, answer);
      deliver(response, answer, asked);
      return;
    }
    await spoil(fault, { socket, response, asked, answer });
  }

  interface Spoiled {
    socket: Socket;
    response: http.ServerResponse;
    asked: Asked;
    answer: Answer;
  }

  /** Does it, or what else can be done to this answer. */
  async function spoil(wanted: FaultKind, spoiled: Spoiled): Promise<void> {
    const { socket, response, asked, answer } = spoiled;
    const at = draw(`${seed} ${asked.method} ${asked.path} ${requests} answer`);
    /** One that needs no other answer than this. */
    const fallback = (): FaultKind =>
      rarest(
        kinds.filter(
          (kind) => kind !== 'swapped' && kind !== 'another-answer' && fitsAnswer(kind, answer, asked),
        ),
        at,
      ) ?? 'lost-answer';
    let kind = fitsAnswer(wanted, answer, asked) ? wanted : fallback();
    if (kind === 'swapped') {
      const other = await swap(asked, answer);
      if (other !== undefined) {
        count('swapped');
        deliver(response, other, asked);
        return;
      }
      kind = fallback();
    }
    let changed: Answer | undefined;
    if (kind === 'another-answer') {
      changed = another(socket, asked, answer);
      if (changed === undefined) kind = fallback();
    }
    count(kind);
    switch (kind) {
      case 'stall-after':
        fallSilent(socket);
        return;
      case 'reset-in-answer':
        deliverHalf(response, answer, () => reset(socket));
        return;
      case 'stall-in-answer':
        deliverHalf(response, answer, () => fallSilent(socket));
        return;
      case 'short-closed':
        deliverHalf(response, answer, () => socket.end());
        return;
      case 'slow':
        deliverSlowly(response, answer);
        return;
      case 'duplicate':
        deliver(response, answer, asked);
        repeat(socket, answer, asked);
        return;
      case 'internal-error':
        changed = refusal(kind, dialect);
        break;
      case 'short-whole':
        changed = shortened(answer);
        break;
      case 'wrong-etag':
        changed = withOtherTag(answer);
        break;
      case 'wrong-range':
        changed = laterPart(answer);
        break;
      case 'whole-for-range':
        changed = asWhole(answer);
        break;
    }
    if (changed === undefined) reset(socket);
    else deliver(response, changed, asked);
  }

  /** Once at once, and the next time when the connection may already carry the next request. */
  function repeat(socket: Socket, answer: Answer, asked: Asked): void {
    const bytes = serialized(answer, asked);
    const send = (): void => {
      if (socket.writable) socket.write(bytes);
    };
    duplicates += 1;
    if (duplicates % 2 === 0) send();
    else setTimeout(send, LATE_MS);
  }

  function swap(asked: Asked, answer: Answer): Promise<Answer | undefined> {
    return new Promise((resolve) => {
      const own: Exchange = { asked, answer, resolve };
      exchange = own;
      setTimeout(() => {
        if (exchange === own) exchange = undefined;
        resolve(undefined);
      }, SWAP_MS).unref();
    });
  }

  function remember(socket: Socket, asked: Asked, answer: Answer): void {
    earlier.push({ socket, asked, answer });
    if (earlier.length > REMEMBERED) earlier.shift();
  }

  /** The answer to an earlier request like this one, of the same connection if there is one. */
  function another(socket: Socket, asked: Asked, answer: Answer): Answer | undefined {
    const alike = earlier.filter(
      (old) =>
        old.asked.method === asked.method &&
        old.asked.path !== asked.path &&
        old.answer.status === answer.status &&
        !old.answer.body.equals(answer.body),
    );
    return (alike.findLast((old) => old.socket === socket) ?? alike.at(-1))?.answer;
  }

  function forward(request: http.IncomingMessage, body: Buffer, again = true): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const sent = (secure ? https : http).request(
        {
          ...{ host: '127.0.0.1', port: upstream.port, agent },
          ...{ method: request.method, path: request.url, headers: request.rawHeaders },
        },
        (answer) => {
          bodyOf(answer).then((bytes) => {
            if (bytes === undefined) reject(new Error('the server broke off its answer'));
            else
              resolve({
                status: answer.statusCode ?? 502,
                headers: endToEnd(answer, request, bytes),
                body: bytes,
              });
          }, reject);
        },
      );
      sent.on('error', (error) => {
        // The server may close a connection in the moment in which it is used again.
        if (again && sent.reusedSocket) resolve(forward(request, body, false));
        else reject(error);
      });
      sent.end(body.length === 0 ? undefined : body);
    });
  }

  const listener: http.RequestListener = (request, response) => {
    request.on('error', () => undefined);
    response.on('error', () => undefined);
    handle(request, response).catch((error: unknown) => {
      broken.push(`${request.method} ${request.url}: ${String(error)}`);
      request.socket.destroy();
    });
  };
  const server = tls === undefined ? http.createServer(listener) : https.createServer(tls, listener);
  // Whoever closes first: it should be the client.
  server.keepAliveTimeout = SILENCE_MS;
  server.on('connection', (socket: Socket) => {
    socket.on('error', () => undefined);
    const port = socket.remotePort;
    bare.set(port, socket);
    socket.on('close', () => bare.delete(port));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the proxy has no port');
  const { port } = address;
  const proxy: FaultProxy = {
    port,
    rate: options.rate,
    get requests() {
      return requests;
    },
    get faults() {
      return faults;
    },
    injected,
    broken,
    async stop() {
      for (const socket of bare.values()) socket.destroy();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      agent.destroy();
    },
  };
  return proxy;
}

/** A number from 0 to 1 that follows from the text. */
function draw(text: string): number {
  return Number.parseInt(hash('sha256', text, 'hex').slice(0, 8), 16) / 2 ** 32;
}

function askedOf({ method = 'GET', url = '/', headers }: http.IncomingMessage): Asked {
  return {
    method,
    path: url.replace(/\?.*$/s, ''),
    ranged: headers.range !== undefined || headers['x-ms-range'] !== undefined,
    bodyLength: Number(headers['content-length'] ?? 0),
  };
}
