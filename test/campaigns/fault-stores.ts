/** The stores of the fault campaign, on real servers, and the roads to them on which faults happen. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { findAzureServer, startAzureServer } from '../support/azure-server.ts';
import type { Dialect, FaultKind } from '../support/fault-kinds.ts';
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.ts';
import { findGcsServer, startGcsServer } from '../support/gcs-server.ts';
import { findNginx, startNginx, staticSite } from '../support/nginx.ts';
import { runPeer } from '../support/peer.ts';
import { findS3Server, startS3Server } from '../support/s3-server.ts';
import { selfSigned } from '../support/self-signed.ts';
import { startTokenServer } from '../support/token-server.ts';
import type { ClientFaults } from './fault-jobs.ts';

export const FAULT_STORES = ['file', 's3', 'azure', 'gcs', 'http', 'peer'] as const;
export type FaultStoreName = (typeof FAULT_STORES)[number];

/** What the server of a store is, and whether it is to be found here. */
export const SERVERS: Record<FaultStoreName, { what: string; found: () => boolean }> = {
  file: { what: 'a file system', found: () => true },
  s3: { what: 'versitygw', found: () => findS3Server() !== undefined },
  azure: { what: 'azurite', found: () => findAzureServer() !== undefined },
  gcs: { what: 'fake-gcs-server', found: () => findGcsServer() !== undefined },
  http: { what: 'nginx', found: () => findNginx() !== undefined },
  peer: { what: 'presync serve', found: () => true },
};

export interface RoadOptions {
  seed: number;
  /** The share of requests that meet a fault, 0 to 1. */
  rate: number;
  kinds: readonly FaultKind[];
  injected: Map<FaultKind, number>;
}

/** The way of one run to its store. */
export interface Road {
  url: string;
  /** What goes wrong in the client itself. */
  client: ClientFaults;
  /** Whether faults happen from now on; at first they do. */
  setFaults(on: boolean): void;
  requests(): number;
  broken(): readonly string[];
  stop(): Promise<void>;
}

export interface FaultStore {
  /** What processes need in their environment. */
  env: Record<string, string>;
  /** The URL of a prefix, past all faults. */
  direct(prefix: string): string;
  road(prefix: string, options: RoadOptions): Promise<Road>;
  /** False where the store refuses expired tokens for good, so that a run ends with them. */
  renewsTokens: boolean;
  stop(): Promise<void>;
}

/** So that a trial takes seconds. */
const STALL = 'stallSeconds=1';

/**
 * A call of the file store is some twenty calls of the system, so each of these fails a twentieth as often as a request does elsewhere.
 */
const CALLS_A_REQUEST = 20;

interface Behind {
  dialect: Dialect;
  upstream: { port: number; ca?: string | undefined };
  tls?: ReturnType<typeof selfSigned> | undefined;
  url: (origin: string, prefix: string) => string;
}

/** A way through a fault proxy, to `localhost`, which is looked up. */
async function proxied(
  { dialect, upstream, tls, url }: Behind,
  prefix: string,
  options: RoadOptions,
): Promise<Road> {
  const proxy: FaultProxy = await startFaultProxy({ upstream, dialect, tls, ...options });
  const road: Road = {
    url: url(`${tls === undefined ? 'http' : 'https'}://localhost:${proxy.port}`, prefix),
    client: { dns: options.rate },
    setFaults(on) {
      proxy.rate = on ? options.rate : 0;
      road.client = { dns: proxy.rate };
    },
    requests: () => proxy.requests,
    broken: () => proxy.broken,
    stop: () => proxy.stop(),
  };
  return road;
}

/** A store that can be written, with an empty bucket. `dir` is for what it needs. */
export async function startWritable(
  name: Exclude<FaultStoreName, 'http' | 'peer'>,
  dir: string,
): Promise<FaultStore> {
  await mkdir(dir, { recursive: true });
  switch (name) {
    case 'file':
      return onDisk(dir);
    case 's3': {
      const server = await startS3Server();
      const url = (origin: string, prefix: string): string =>
        `s3://${server.bucket}/${prefix}?region=us-east-1&endpoint=${origin}&pathStyle=1&${STALL}`;
      const behind: Behind = { dialect: 's3', upstream: { port: portOf(server.endpoint) }, url };
      return {
        env: server.env,
        direct: (prefix) => url(server.endpoint, prefix),
        road: (prefix, options) => proxied(behind, prefix, options),
        renewsTokens: true,
        stop: () => server.stop(),
      };
    }
    case 'azure': {
      const tls = selfSigned();
      const tokens = await startTokenServer();
      const server = await startAzureServer({ tls });
      const { account, container } = server;
      const url = (origin: string, prefix: string): string =>
        `azure://${account}/${container}/${prefix}?endpoint=${origin}/${account}&${STALL}`;
      const upstream = { port: portOf(server.endpoint), ca: tls.cert };
      return {
        env: { ...tokens.azure, NODE_EXTRA_CA_CERTS: await authority(dir, tls.cert) },
        direct: (prefix) => url(new URL(server.endpoint).origin, prefix),
        road: (prefix, options) => proxied({ dialect: 'azure', upstream, tls, url }, prefix, options),
        renewsTokens: true,
        async stop() {
          await server.stop();
          await tokens.stop();
        },
      };
    }
    case 'gcs': {
      const tls = selfSigned();
      const tokens = await startTokenServer();
      const server = await startGcsServer();
      const url = (origin: string, prefix: string): string =>
        `gs://${server.bucket}/${prefix}?endpoint=${origin}&${STALL}`;
      const behind: Behind = { dialect: 'gcs', upstream: { port: portOf(server.endpoint) }, tls, url };
      const ca = await authority(dir, tls.cert);
      return {
        // No credentials but those of the token server.
        env: { ...tokens.gcs, NODE_EXTRA_CA_CERTS: ca, HOME: dir, CLOUDSDK_CONFIG: dir },
        direct: (prefix) => url(server.endpoint, prefix),
        road: (prefix, options) => proxied(behind, prefix, options),
        renewsTokens: true,
        async stop() {
          await server.stop();
          await tokens.stop();
        },
      };
    }
  }
}

/** A way to read the repository in `storeDir`, which is there already. */
export async function startReader(name: 'http' | 'peer', storeDir: string): Promise<FaultStore> {
  const server =
    name === 'peer'
      ? await runPeer(['--store', `file://${storeDir}`])
      : await startNginx((port) => staticSite(port, storeDir));
  const peer = name === 'peer' ? 'peer+' : '';
  const behind: Behind = {
    dialect: 'web',
    upstream: { port: portOf(server.url.replace('peer+', '')) },
    url: (origin) => `${peer}${origin}?${STALL}`,
  };
  return {
    env: {},
    direct: () => `file://${storeDir}`,
    road: (prefix, options) => proxied(behind, prefix, options),
    renewsTokens: false,
    stop: () => server.stop(),
  };
}

/** Gives this process the environment of the jobs, authorities included. Returns what takes it back. */
export async function takeEnvironment(env: Record<string, string>): Promise<() => void> {
  const before = { ...process.env };
  const authorities = getCACertificates('default');
  Object.assign(process.env, env);
  // The variable is read when a process starts.
  if (env.NODE_EXTRA_CA_CERTS !== undefined)
    setDefaultCACertificates([...authorities, await readFile(env.NODE_EXTRA_CA_CERTS, 'utf8')]);
  return () => {
    setDefaultCACertificates(authorities);
    for (const name of Object.keys(env)) delete process.env[name];
    Object.assign(process.env, before);
  };
}

function onDisk(dir: string): FaultStore {
  const place = (prefix: string): string => join(dir, prefix);
  return {
    env: {},
    direct: (prefix) => `file://${place(prefix)}`,
    async road(prefix, { rate }) {
      const faulty = { dns: 0, disk: { dir: place(prefix), rate: rate / CALLS_A_REQUEST } };
      const road: Road = {
        url: `file://${place(prefix)}`,
        client: faulty,
        setFaults(on) {
          road.client = on ? faulty : { dns: 0 };
        },
        requests: () => 0,
        broken: () => [],
        stop: async () => {},
      };
      return road;
    },
    renewsTokens: true,
    stop: async () => {},
  };
}

function portOf(url: string): number {
  return Number(new URL(url).port);
}

async function authority(dir: string, cert: string): Promise<string> {
  const path = join(dir, 'authority.pem');
  await writeFile(path, cert);
  return path;
}
