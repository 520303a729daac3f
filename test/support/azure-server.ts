import { type ChildProcess, spawn } from 'node:child_process';
import { createHmac, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { request as secureRequest } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { freePort, stopChild } from './ports.ts';
import type { SelfSigned } from './self-signed.ts';

const VERSION = '3.37.0';
const PROGRAM = 'node_modules/azurite/dist/src/blob/main.js';
const ACCOUNT = 'presynctest';
const START_MS = 60_000;

/** azurite's blob server: in the folder `PRESYNC_AZURITE` or in the repository's `.cache/tools`. Undefined without one. */
export function findAzureServer(): string | undefined {
  const named = process.env.PRESYNC_AZURITE;
  const candidates = [
    ...(named === undefined || named === '' ? [] : [join(named, PROGRAM)]),
    join(import.meta.dirname, `../../.cache/tools/azurite-${VERSION}`, PROGRAM),
  ];
  return candidates.find((path) => existsSync(path));
}

export interface AzureServer {
  /** With the account in its path. */
  endpoint: string;
  account: string;
  key: string;
  container: string;
  /** A store URL with an empty prefix; a prefix goes between the container and the `?`. */
  url: string;
  /** What a process needs in its environment to use the server. */
  env: Record<string, string>;
  stop(): Promise<void>;
}

/**
 * Starts azurite on a free port of 127.0.0.1, on a temporary folder, with a key of its own and one empty container. With an identity
 * it speaks TLS, and takes tokens as well.
 */
export async function startAzureServer(
  options: { container?: string | undefined; tls?: SelfSigned | undefined } = {},
): Promise<AzureServer> {
  const { tls } = options;
  const program = findAzureServer();
  if (program === undefined) throw new Error('azurite is not to be found');
  const container = options.container ?? 'presync-test';
  const dir = await mkdtemp(join(tmpdir(), 'presync-azure-'));
  const port = await freePort();
  const key = randomBytes(64).toString('base64');
  const secure: string[] = [];
  if (tls !== undefined) {
    const [cert, certKey] = [join(dir, 'cert.pem'), join(dir, 'key.pem')];
    await writeFile(cert, tls.cert);
    await writeFile(certKey, tls.key);
    secure.push('--cert', cert, '--key', certKey, '--oauth', 'basic');
  }
  const child = spawn(
    process.execPath,
    [
      program,
      ...['--blobHost', '127.0.0.1', '--blobPort', String(port), '--location', dir],
      // The SDK may speak a newer version of the protocol than azurite knows of.
      ...['--silent', '--skipApiVersionCheck', '--disableTelemetry'],
      ...secure,
    ],
    {
      cwd: dir,
      env: { PATH: process.env.PATH ?? '', HOME: dir, AZURITE_ACCOUNTS: `${ACCOUNT}:${key}` },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  let said = '';
  const listen = (text: Buffer): void => {
    said = (said + text.toString()).slice(-4000);
  };
  child.stdout?.on('data', listen);
  child.stderr?.on('data', listen);
  const stop = async (): Promise<void> => {
    await stopChild(child);
    await rm(dir, { recursive: true, force: true });
  };
  const scheme = tls === undefined ? 'http' : 'https';
  const server = { endpoint: `${scheme}://127.0.0.1:${port}/${ACCOUNT}`, account: ACCOUNT, key, container };
  try {
    await makeContainer(child, { ...server, ca: tls?.cert }, () => said);
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    ...server,
    url: `azure://${ACCOUNT}/${container}?endpoint=${encodeURIComponent(server.endpoint)}`,
    env: { AZURE_STORAGE_KEY: key },
    stop,
  };
}

type NewContainer = Pick<AzureServer, 'endpoint' | 'account' | 'key' | 'container'> & {
  ca: string | undefined;
};

/** Tried until the server answers. */
async function makeContainer(child: ChildProcess, server: NewContainer, said: () => string): Promise<void> {
  for (const until = Date.now() + START_MS; Date.now() < until; ) {
    if (child.exitCode !== null) throw new Error(`azurite ended with ${child.exitCode}: ${said()}`);
    const status = await create(server).catch(() => undefined);
    if (status === 201) return;
    if (status !== undefined) throw new Error(`azurite answers ${status} to a new container`);
    await delay(100);
  }
  throw new Error(`azurite did not listen within ${START_MS / 1000} s: ${said()}`);
}

/** https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key */
function create(server: NewContainer): Promise<number> {
  const { endpoint, account, key, container, ca } = server;
  const url = new URL(`${endpoint}/${container}?restype=container`);
  const headers = { 'x-ms-date': new Date().toUTCString(), 'x-ms-version': '2021-08-06' };
  const signed = [
    'PUT',
    ...Array<string>(11).fill(''),
    ...Object.entries(headers).map(([name, value]) => `${name}:${value}`),
    `/${account}${url.pathname}`,
    'restype:container',
  ].join('\n');
  const signature = createHmac('sha256', Buffer.from(key, 'base64')).update(signed).digest('base64');
  return new Promise((resolve, reject) => {
    const sent = (ca === undefined ? request : secureRequest)(
      url,
      {
        method: 'PUT',
        agent: false,
        ca,
        headers: { ...headers, 'content-length': 0, authorization: `SharedKey ${account}:${signature}` },
      },
      (answer) => {
        answer.resume();
        resolve(answer.statusCode ?? 0);
      },
    );
    sent.on('error', reject);
    sent.end();
  });
}
