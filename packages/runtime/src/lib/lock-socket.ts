import { connect, createServer, type Server, type Socket } from 'node:net';
import { errnoOf, ioError, throwIfAborted } from '../errors.ts';
import type { Lock } from '../lock.ts';

/** A holder that is stopped or busy does not answer; then its process stays unknown. */
const HOLDER_ANSWER_MS = 1000;

/** The holder may end between our two calls, and another may take its place; each round means that somebody got on. */
const ROUNDS = 10;

export type LockOutcome = Lock | { holder: number | undefined };

/** Listens on the abstract socket of that name, or tells who does. */
export async function lockBySocket(digest: string, signal: AbortSignal): Promise<LockOutcome> {
  const path = `\0presync-${digest}`;
  for (let round = 0; ; round++) {
    throwIfAborted(signal);
    const server = await listen(path);
    if (server !== undefined) return { release: () => close(server) };
    const holder = await askHolder(path);
    if (holder !== 'gone' || round >= ROUNDS) return { holder: holder === 'gone' ? undefined : holder };
  }
}

/** Who listens on the abstract socket of that name; undefined when nobody does. */
export async function findSocketHolder(digest: string): Promise<{ pid: number | undefined } | undefined> {
  const holder = await askHolder(`\0presync-${digest}`);
  return holder === 'gone' ? undefined : { pid: holder };
}

/** Undefined when the name is taken. */
function listen(path: string): Promise<Server | undefined> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => {
      // Whoever asks may go before it is answered; that concerns nobody here.
      socket.on('error', () => socket.destroy());
      socket.end(`${process.pid}\n`);
    });
    server.once('error', (error) => {
      if (errnoOf(error) === 'EADDRINUSE') resolve(undefined);
      else reject(ioError(error, 'lock', path.slice(1)));
    });
    server.listen({ path }, () => {
      // The lock must not keep a process alive that has nothing else to do.
      server.unref();
      resolve(server);
    });
  });
}

function askHolder(path: string): Promise<number | undefined | 'gone'> {
  return new Promise((resolve) => {
    let answer = '';
    const socket: Socket = connect({ path });
    const settle = (holder: number | undefined | 'gone'): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(holder);
    };
    const timer = setTimeout(() => settle(undefined), HOLDER_ANSWER_MS);
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => {
      answer += text;
      if (answer.length > 32) settle(undefined);
    });
    socket.on('end', () => settle(/^\d+\n$/.test(answer) ? Number(answer) : undefined));
    socket.on('error', (error) => settle(errnoOf(error) === 'ECONNREFUSED' ? 'gone' : undefined));
  });
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    // The only error is that it is closed already.
    server.close(() => resolve());
  });
}
