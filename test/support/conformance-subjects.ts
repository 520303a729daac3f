/** Every adapter with a real server behind it, in the order of the conformance report's columns. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createSilentLogger } from '@presync/runtime/log';
import { serve } from '@presync/snapshotter/serve';
import { createFileStore } from '@presync/store/file';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectStore } from '@presync/store/object-store';
import { openStore } from '@presync/store/open';
import { withLimit } from '@presync/store/with-limit';
import { withMetrics } from '@presync/store/with-metrics';
import { withRetry } from '@presync/store/with-retry';
import { openOrCreateRepository } from '@presync/transfer/repository';
import { findAzureServer, startAzureServer } from './azure-server.ts';
import { findGcsServer, startGcsServer } from './gcs-server.ts';
import { findMinio, startMinio } from './minio-server.ts';
import { findNginx, startNginx, staticSite } from './nginx.ts';
import { findS3Server, startS3Server } from './s3-server.ts';

export interface Subject {
  /** The column of the report. */
  name: string;
  /** What it takes beyond npm. */
  needs?: { what: string; found: boolean };
  /** Not to be called while another one opens: credentials stand in the environment. */
  open(): Promise<OpenSubject>;
}

export interface OpenSubject {
  store: ObjectStore;
  /** What lies behind a store that can only be read. */
  writer?: ObjectStore;
  close(): Promise<void>;
}

const OPEN_MS = 60_000;

export const SUBJECTS: readonly Subject[] = [
  {
    name: 'file',
    open: async () => {
      const parent = await mkdtemp(join(tmpdir(), 'presync-store-'));
      return {
        store: createFileStore({ dir: join(parent, 'store') }),
        close: () => rm(parent, { recursive: true, force: true }),
      };
    },
  },
  { name: 'memory', open: async () => ({ store: createMemoryStore(), close: async () => undefined }) },
  {
    name: 'memory in all wrappers',
    open: async () => {
      const metered = withMetrics(createMemoryStore(), { observe: () => undefined });
      return {
        store: withLimit(withRetry(metered), { concurrency: 4 }),
        close: async () => undefined,
      };
    },
  },
  bucket('s3 on versitygw', { what: 'versitygw', found: findS3Server() !== undefined }, startS3Server),
  bucket('s3 on minio', { what: 'minio', found: findMinio() !== undefined }, startMinio),
  bucket('azure on azurite', { what: 'azurite', found: findAzureServer() !== undefined }, startAzureServer),
  bucket(
    'gcs on fake-gcs-server',
    { what: 'fake-gcs-server', found: findGcsServer() !== undefined },
    startGcsServer,
  ),
  {
    name: 'http on nginx',
    needs: { what: 'nginx', found: findNginx() !== undefined },
    open: async () => {
      const parent = await mkdtemp(join(tmpdir(), 'presync-http-'));
      const server = await startNginx((port) => staticSite(port, parent));
      const store = await openStore(`${server.url}/store`, { signal: AbortSignal.timeout(OPEN_MS) });
      return {
        store,
        writer: createFileStore({ dir: join(parent, 'store') }),
        close: async () => {
          await store.close();
          await server.stop();
          await rm(parent, { recursive: true, force: true });
        },
      };
    },
  },
  {
    name: 'peer on presync serve',
    open: async () => {
      const parent = await mkdtemp(join(tmpdir(), 'presync-peer-'));
      const writer = createFileStore({ dir: join(parent, 'store') });
      const { url, stop } = await startPeer(writer);
      const store = await openStore(url, { signal: AbortSignal.timeout(OPEN_MS) });
      return {
        store,
        writer,
        close: async () => {
          await store.close();
          await stop();
          await rm(parent, { recursive: true, force: true });
        },
      };
    },
  },
];

/** `presync serve` for a store, in this process. It makes the repository where there is none. */
export async function startPeer(
  store: ObjectStore,
  tokenFile?: string,
): Promise<{ url: string; stop(): Promise<void> }> {
  const stop = new AbortController();
  await openOrCreateRepository(store, { signal: stop.signal });
  const { promise, resolve } = Promise.withResolvers<string>();
  const serving = serve({
    store,
    listen: { host: '127.0.0.1', port: 0 },
    tokenFile,
    maxAnswers: 64,
    log: createSilentLogger(),
    onListening: resolve,
    signal: stop.signal,
  });
  return {
    url: await Promise.race([promise, serving.then(() => '')]),
    stop: async () => {
      stop.abort();
      await serving;
    },
  };
}

interface BucketServer {
  url: string;
  /** What a process needs in its environment to use the server. */
  env?: Record<string, string>;
  stop(): Promise<void>;
}

function bucket(name: string, needs: Subject['needs'], start: () => Promise<BucketServer>): Subject {
  return {
    name,
    ...(needs === undefined ? {} : { needs }),
    open: async () => {
      const server = await start();
      const signal = AbortSignal.timeout(OPEN_MS);
      const store = await withEnvironment(server.env ?? {}, async () => {
        const opened = await openStore(server.url.replace('?', '/some/prefix?'), { signal });
        // The AWS SDK looks for credentials with the first call, and keeps what it finds: another server may have others.
        await opened.stat('nothing', { signal });
        return opened;
      });
      return {
        store,
        close: async () => {
          await store.close();
          await server.stop();
        },
      };
    },
  };
}

async function withEnvironment<T>(
  variables: Readonly<Record<string, string>>,
  work: () => Promise<T>,
): Promise<T> {
  const before = Object.keys(variables).map((name) => [name, process.env[name]] as const);
  Object.assign(process.env, variables);
  try {
    return await work();
  } finally {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
}
