import { connect, createServer, type Server, type Socket } from 'node:net';

export interface ThrottleOptions {
  /** Where the real server listens, on 127.0.0.1. */
  upstreamPort: number;
  /** Bytes a second for each connection and direction; Infinity for no limit. */
  bytesPerSecond: number;
  /** From a request's last byte to the first byte of its response, at least; the server's own time counts in. */
  firstByteMs: number;
}

export interface ThrottleCounters {
  /** Bytes from clients to the server. */
  sent: number;
  /** Bytes from the server to clients. */
  received: number;
  /** Connections accepted so far. */
  connections: number;
}

export interface Throttle {
  readonly port: number;
  counters(): ThrottleCounters;
  close(): Promise<void>;
}

/** One read from the server, at most. Large reads cost less; at 90 MB/s this is 2.9 ms of a connection's time. */
const READ_BYTES = 256 * 1024;

/** How much lateness a connection may make up for: timers are late by up to some milliseconds on a busy machine. */
const CREDIT_MS = 10;

/** Shorter waits than a timer can wait are not waited for but owed. */
const SHORTEST_WAIT_MS = 1;

/**
 * A TCP proxy that gives each connection a rate in each direction and each HTTP/1.1 response a latency, as an object
 * store does. It looks at no bytes: a response is what comes after something was sent. Requests must not be pipelined.
 */
export async function startThrottle(options: ThrottleOptions): Promise<Throttle> {
  const counters: ThrottleCounters = { sent: 0, received: 0, connections: 0 };
  const open = new Set<Socket>();
  const server: Server = createServer({ noDelay: true, allowHalfOpen: true }, (client) => {
    counters.connections += 1;
    carry(client, options, counters, open);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the proxy has no port');
  return {
    port: address.port,
    counters: () => ({ ...counters }),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of open) socket.destroy();
      }),
  };
}

/** Tells when bytes have passed at the rate: `pass(n)` gives the milliseconds to wait until n more have. */
export function createPace(bytesPerSecond: number, now: () => number = () => performance.now()) {
  let free = 0;
  return {
    pass(bytes: number): number {
      if (bytesPerSecond === Number.POSITIVE_INFINITY) return 0;
      const current = now();
      free = Math.max(free, current - CREDIT_MS) + (bytes / bytesPerSecond) * 1000;
      return Math.max(0, free - current);
    },
    /** Nothing was to be sent until now: idle time is not lent on. */
    restart(): void {
      free = now();
    },
  };
}

function carry(
  client: Socket,
  options: ThrottleOptions,
  counters: ThrottleCounters,
  open: Set<Socket>,
): void {
  const up = createPace(options.bytesPerSecond);
  const down = createPace(options.bytesPerSecond);
  /** When the response may begin, or undefined while one is under way. */
  let responseAt: number | undefined;

  const pool: Buffer[] = [];
  const upstream = connect({
    port: options.upstreamPort,
    host: '127.0.0.1',
    noDelay: true,
    allowHalfOpen: true,
    // Larger reads than a socket's own 64 KiB, into buffers that are used again once they have been written.
    onread: {
      buffer: () => pool.pop() ?? Buffer.allocUnsafeSlow(READ_BYTES),
      callback: (length, buffer) => {
        counters.received += length;
        let wait = 0;
        if (responseAt !== undefined) {
          wait = Math.max(0, responseAt - performance.now());
          responseAt = undefined;
          down.restart();
        }
        wait += down.pass(length);
        /** True when the client takes more at once; else reading goes on when it does. */
        const deliver = (): boolean => {
          if (client.destroyed) return false;
          const more = client.write(buffer.subarray(0, length), () => pool.push(Buffer.from(buffer.buffer)));
          if (!more) client.once('drain', () => upstream.resume());
          return more;
        };
        if (wait < SHORTEST_WAIT_MS) return deliver();
        setTimeout(() => {
          if (deliver()) upstream.resume();
        }, wait);
        return false;
      },
    },
  });
  // Without data events nothing else would make the end of the stream known.
  upstream.resume();
  open.add(client).add(upstream);

  let requestIdleSince = 0;
  client.on('data', (chunk) => {
    counters.sent += chunk.length;
    const now = performance.now();
    if (responseAt === undefined || now - requestIdleSince > CREDIT_MS) up.restart();
    const wait = up.pass(chunk.length);
    requestIdleSince = now + wait;
    responseAt = now + wait + options.firstByteMs;
    const deliver = (): void => {
      if (upstream.destroyed) return;
      if (upstream.write(chunk)) {
        client.resume();
        return;
      }
      client.pause();
      upstream.once('drain', () => client.resume());
    };
    if (wait < SHORTEST_WAIT_MS) deliver();
    else {
      client.pause();
      setTimeout(deliver, wait);
    }
  });

  const endAfter = (from: Socket, to: Socket): void => {
    // What is still being held back goes first: an end is passed on only when the other side has been fed.
    from.once('end', () => setTimeout(() => to.end(), options.firstByteMs + 50));
    from.once('error', () => to.destroy());
    from.once('close', () => {
      open.delete(from);
      setTimeout(() => to.destroy(), 1000).unref();
    });
  };
  endAfter(client, upstream);
  endAfter(upstream, client);
}
