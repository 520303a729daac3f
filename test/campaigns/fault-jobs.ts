/**
 * The jobs of the fault campaign, in a process of their own: a snapshot, a restore, and a look at what they left behind. They are done by
 * the functions that the command calls, over the stores that it composes.
 */
import { subscribe } from 'node:diagnostics_channel';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { ClientRequest } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { restoreDatabase } from '@presync/bootstrap/restore-database';
import { readSigningKey, readTrustedKey } from '@presync/format/key-files';
import { type ErrorCode, isPresyncError, messageOf } from '@presync/runtime/errors';
import { createSilentLogger } from '@presync/runtime/log';
import type { ProgressSink } from '@presync/runtime/progress';
import { takeSnapshot } from '@presync/snapshotter/take-snapshot';
import { composeSources, composeStore } from '@presync/store/compose';
import type { StoreMetrics } from '@presync/store/with-metrics';
import { openRepository, readLatest } from '@presync/transfer/repository';
import { verifyRepository } from '@presync/transfer/verify-repository';
import { installDiskFaults } from '../support/disk-faults.ts';
import { installDnsFaults } from '../support/dns-faults.ts';
import { answerJobs } from '../support/jobs.ts';
import { DEV_GENESIS, type FixtureBackend } from '../support/real-node.ts';
import { differingFiles, digestDatabase } from '../support/tree.ts';

export interface SnapshotJob {
  kind: 'snapshot';
  store: string;
  backend: FixtureBackend;
  basePath: string;
  /** Private key file. */
  key: string;
  stateDir: string;
  chunkSize: number;
  client: ClientFaults;
}

export interface RestoreJob {
  kind: 'restore';
  store: string;
  backend: FixtureBackend;
  basePath: string;
  /** What the restored database must be: the base path of the source. */
  source: string;
  trust: string;
  stateDir: string;
  client: ClientFaults;
}

export interface VerifyJob {
  kind: 'verify';
  /** Past all faults. */
  store: string;
  backend: FixtureBackend;
  trust: string;
}

/** Removes everything, so that a server that holds objects in memory stays as fast as it was. */
export interface ClearJob {
  kind: 'clear';
  /** Past all faults. */
  store: string;
}

export type FaultJob = SnapshotJob | RestoreJob | VerifyJob | ClearJob;

/** What goes wrong in the process itself. */
export interface ClientFaults {
  /** The share of name lookups that fail. */
  dns: number;
  /** The share of file system calls below a folder that fail. */
  disk?: { dir: string; rate: number } | undefined;
}

export interface FaultJobResult {
  error?: { code: ErrorCode | 'RAW'; message: string; hint: string | undefined } | undefined;
  /** Calls of the store that failed with what may pass. */
  failedCalls: number;
  /** Faults that this process injected. */
  injected: Record<string, number>;
  /** Of a snapshot. */
  snapshot?: { sequence: number; promoted: boolean } | undefined;
  /** Of a restore, whether it succeeded or not. */
  target?: { sealed: boolean; differing: string[] } | undefined;
  /** Of a look at the repository. */
  repository?: { problems: string[]; latest: number | null } | undefined;
}

const NEVER = new AbortController().signal;
const QUIET: ProgressSink = { start: () => {}, advance: () => {}, note: () => {}, finish: () => {} };
const SEAL = { rocksdb: 'CURRENT', paritydb: 'metadata' };

/** Requests under way, and when they began, for a job that does not end. */
const requests = new Map<ClientRequest, number>();
const ofRequest = (message: unknown): ClientRequest | undefined => {
  const request: unknown =
    typeof message === 'object' && message !== null ? Reflect.get(message, 'request') : undefined;
  return request instanceof ClientRequest ? request : undefined;
};
subscribe('http.client.request.start', (message) => {
  const request = ofRequest(message);
  if (request === undefined) return;
  requests.set(request, performance.now());
  request.on('close', () => requests.delete(request));
});
const pending = (): string[] =>
  [...requests].map(
    ([{ method, path }, began]) =>
      `${method} ${path} for ${Math.round((performance.now() - began) / 1000)} s`,
  );

const dns = installDnsFaults(process.pid);
const disk = installDiskFaults(process.pid);

const databaseOf = (basePath: string, backend: FixtureBackend): string =>
  join(basePath, 'chains/dev', backend === 'rocksdb' ? 'db' : 'paritydb', 'full');

async function takeOne(job: SnapshotJob, metrics: StoreMetrics): Promise<FaultJobResult['snapshot']> {
  const store = await composeStore(job.store, { metrics, signal: NEVER });
  try {
    const { upload } = await takeSnapshot({
      store,
      basePath: job.basePath,
      backend: job.backend,
      pause: { strategy: 'none' },
      genesisHash: DEV_GENESIS,
      minPeers: 0,
      maxFinalityLag: 0,
      anchorAgeMs: 0,
      keys: [await readSigningKey(job.key)],
      stateDir: job.stateDir,
      chunkSize: job.chunkSize,
      log: createSilentLogger(),
      progress: QUIET,
      signal: NEVER,
    });
    return upload && { sequence: upload.manifest.sequence, promoted: upload.promoted };
  } finally {
    await store.close();
  }
}

async function restoreOne(job: RestoreJob, metrics: StoreMetrics): Promise<void> {
  const from = await composeSources([job.store], { metrics, signal: NEVER });
  try {
    await restoreDatabase({
      from,
      channel: `dev/${job.backend}`,
      snapshot: 'latest',
      trusted: [await readTrustedKey(job.trust)],
      basePath: job.basePath,
      existing: 'refuse',
      // Faults come anew in each run.
      retryFailed: true,
      stateDir: job.stateDir,
      log: createSilentLogger(),
      progress: QUIET,
      signal: NEVER,
    });
  } finally {
    await from.close();
  }
}

/** Digests of sources, which never change. */
const known = new Map<string, Promise<Record<string, string>>>();

async function lookAt({ backend, basePath, source }: RestoreJob): Promise<FaultJobResult['target']> {
  const [expected, actual] = [databaseOf(source, backend), databaseOf(basePath, backend)];
  const sealed = existsSync(join(actual, SEAL[backend]));
  if (!sealed) return { sealed, differing: [] };
  const digests = known.get(expected) ?? digestDatabase(expected);
  known.set(expected, digests);
  return { sealed, differing: await differingFiles(await digests, actual) };
}

/** What is wrong with a repository that a snapshot was taken into. One that is not there, or has nothing in it, is as it should be. */
async function verifyOne({ store: url, backend, trust }: VerifyJob): Promise<FaultJobResult['repository']> {
  const channel = `dev/${backend}`;
  const store = await composeStore(url, { signal: NEVER });
  const scratchDir = await mkdtemp(join(tmpdir(), 'presync-look-'));
  try {
    const repository = await openRepository(store, { signal: NEVER });
    const { problems } = await verifyRepository({
      repository,
      trusted: [await readTrustedKey(trust)],
      seenOf: async () => undefined,
      scope: 'full',
      scratchDir,
      signal: NEVER,
    });
    const latest = await readLatest(repository, channel, { signal: NEVER });
    return {
      problems: problems.map(({ code, message }) => `${code} ${message}`),
      latest: latest?.document.sequence ?? null,
    };
  } catch (error) {
    if (isPresyncError(error, 'REPOSITORY_NOT_FOUND') || isPresyncError(error, 'STORE_NOT_FOUND'))
      return { problems: [], latest: null };
    throw error;
  } finally {
    await store.close();
    await rm(scratchDir, { recursive: true, force: true });
  }
}

async function clearOne({ store: url }: ClearJob): Promise<void> {
  const store = await composeStore(url, { signal: NEVER });
  try {
    for await (const { key } of store.list('', { signal: NEVER })) await store.remove(key, { signal: NEVER });
  } finally {
    await store.close();
  }
}

answerJobs<FaultJob>(async (job) => {
  if (job.kind === 'clear') {
    await clearOne(job);
    return { failedCalls: 0, injected: {} };
  }
  if (job.kind === 'verify') return { failedCalls: 0, injected: {}, repository: await verifyOne(job) };
  const result: FaultJobResult = { failedCalls: 0, injected: {} };
  const metrics: StoreMetrics = {
    observe: ({ outcome }) => {
      if (outcome === 'STORE_FAILED' || outcome === 'STORE_UNREACHABLE') result.failedCalls += 1;
    },
  };
  Object.assign(dns, { rate: job.client.dns, failed: 0 });
  Object.assign(disk, { dir: job.client.disk?.dir, rate: job.client.disk?.rate ?? 0 });
  disk.injected.clear();
  try {
    if (job.kind === 'snapshot') result.snapshot = await takeOne(job, metrics);
    else await restoreOne(job, metrics);
  } catch (error) {
    result.error = isPresyncError(error)
      ? { code: error.code, message: error.message, hint: error.hint }
      : {
          code: 'RAW',
          message: `${messageOf(error)} ${error instanceof Error ? error.stack : ''}`,
          hint: undefined,
        };
  }
  Object.assign(dns, { rate: 0 });
  Object.assign(disk, { rate: 0 });
  if (dns.failed > 0) result.injected.dns = dns.failed;
  for (const [kind, times] of disk.injected) result.injected[kind] = times;
  if (job.kind === 'restore') result.target = await lookAt(job);
  return result;
}, pending);
