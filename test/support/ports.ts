import type { ChildProcess } from 'node:child_process';
import { connect, createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

const START_MS = 60_000;
const STOP_MS = 10_000;

/** Ports of 127.0.0.1 that nobody listened on a moment ago, all different. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer();
      await new Promise<void>((done, reject) => {
        server.once('error', reject);
        server.listen(0, '127.0.0.1', done);
      });
      return server;
    }),
  );
  return Promise.all(
    servers.map(async (server) => {
      const address = server.address();
      await new Promise((done) => server.close(done));
      if (address === null || typeof address === 'string') throw new Error('no port');
      return address.port;
    }),
  );
}

/** One such port. */
export async function freePort(): Promise<number> {
  const [port = 0] = await freePorts(1);
  return port;
}

/** Waits until a server that was started listens on a port of 127.0.0.1. Its standard error must be a pipe. */
export async function waitForPort(child: ChildProcess, port: number, name: string): Promise<void> {
  let said = '';
  child.stderr?.on('data', (text: Buffer) => {
    said = (said + text.toString()).slice(-4000);
  });
  child.once('error', (error) => {
    said += error.message;
  });
  for (const until = Date.now() + START_MS; Date.now() < until; ) {
    if (hasEnded(child)) throw new Error(`${name} ended with ${child.exitCode} before it listened: ${said}`);
    const open = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => resolve(true)).on('error', () => resolve(false));
      socket.on('connect', () => socket.destroy());
    });
    if (open) return;
    await delay(50);
  }
  throw new Error(`${name} did not listen within ${START_MS / 1000} s: ${said}`);
}

/** Ends a child by SIGTERM, and by SIGKILL when that is not enough. */
export async function stopChild(child: ChildProcess): Promise<void> {
  if (hasEnded(child)) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
  await gone;
  clearTimeout(timer);
}

function hasEnded({ exitCode, signalCode, pid }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null || pid === undefined;
}
