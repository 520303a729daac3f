import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { createServer } from 'node:net';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export interface S3Server {
  readonly port: number;
  readonly pid: number;
  readonly endpoint: string;
  close(): Promise<void>;
}

export const S3_ACCESS_KEY = 'presyncbench';
export const S3_SECRET_KEY = 'presyncbenchsecret';
export const S3_BUCKET = 'bench';

const START_MS = 20_000;

/** Where versitygw is: `PRESYNC_VERSITYGW`, the repository's tool cache, or the path. */
export function findVersitygw(root: string): string | undefined {
  const named = process.env.PRESYNC_VERSITYGW;
  if (named !== undefined && named !== '') return existsSync(named) ? named : undefined;
  const folders = [join(root, '.cache', 'tools'), ...(process.env.PATH ?? '').split(delimiter)];
  return folders.map((folder) => join(folder, 'versitygw')).find((path) => existsSync(path));
}

/** versitygw over a folder, on a free port of 127.0.0.1, with one bucket. Objects are plain files in that folder. */
export async function startS3Server(executable: string, folder: string): Promise<S3Server> {
  await mkdir(join(folder, S3_BUCKET), { recursive: true });
  const port = await freePort();
  const child: ChildProcess = spawn(
    executable,
    ['--port', `127.0.0.1:${port}`, '--quiet', '--keep-alive', 'posix', folder],
    {
      env: { PATH: process.env.PATH ?? '', ROOT_ACCESS_KEY: S3_ACCESS_KEY, ROOT_SECRET_KEY: S3_SECRET_KEY },
      stdio: ['ignore', 'ignore', 'inherit'],
    },
  );
  await once(child, 'spawn');
  const endpoint = `http://127.0.0.1:${port}`;
  const deadline = Date.now() + START_MS;
  for (;;) {
    if (child.exitCode !== null) throw new Error(`versitygw ended with ${child.exitCode} before it answered`);
    try {
      await (await fetch(endpoint)).arrayBuffer();
      break;
    } catch (error) {
      if (Date.now() > deadline) throw new Error('versitygw does not answer', { cause: error });
      await sleep(50);
    }
  }
  if (child.pid === undefined) throw new Error('versitygw has no pid');
  return {
    port,
    pid: child.pid,
    endpoint,
    close: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, 'exit');
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), 10_000);
      await ended;
      clearTimeout(timer);
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  if (address === null || typeof address === 'string') throw new Error('no free port');
  return address.port;
}
