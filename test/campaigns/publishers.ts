/**
 * Many publishers at once to one channel, in several processes: one winner for each number, a pointer that never goes back and ends at
 * the highest, and nothing published that is not whole.
 */
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { sha256 as digestOf } from '@presync/format/digest';
import { MAX_DOCUMENT_SIZE } from '@presync/format/limits';
import { repositoryKeys } from '@presync/format/paths';
import { generateKey, type PrivateKey } from '@presync/format/signature';
import { isPresyncError } from '@presync/runtime/errors';
import { composeStore } from '@presync/store/compose';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectStore } from '@presync/store/object-store';
import { withMetrics } from '@presync/store/with-metrics';
import { withRetry } from '@presync/store/with-retry';
import { listSequences, openRepository, type Repository, readLatest } from '@presync/transfer/repository';
import { verifyRepository } from '@presync/transfer/verify-repository';
import { CHANNEL } from '../../packages/transfer/test/support.ts';
import { createJobProcess } from '../support/jobs.ts';
import { type FaultStoreName, startWritable, takeEnvironment } from './fault-stores.ts';
import { type Published, type PublishResult, publishMany } from './publish-many.ts';
import type { PublisherJob } from './publisher-jobs.ts';

export type PublisherStoreName = Exclude<FaultStoreName, 'http' | 'peer'> | 'memory';
export const PUBLISHER_STORES = [
  'file',
  'memory',
  's3',
  'azure',
  'gcs',
] as const satisfies PublisherStoreName[];

export interface PublishersOptions {
  store: PublisherStoreName;
  /** Publishers at once. */
  count: number;
  /** Snapshots that each takes. Default 2, so that there are predecessors. */
  rounds?: number | undefined;
  /** Processes that the publishers are shared out over; the memory store has but this one. Default 10. */
  processes?: number | undefined;
  /** Drop the conditions of all puts, which must be found out. */
  forgetful?: boolean | undefined;
  dir: string;
  log: (line: string) => void;
}

export interface PublishersReport {
  store: PublisherStoreName;
  publishers: number;
  processes: number;
  published: number;
  highest: number;
  /** Conditional puts that lost: how often publishers met. */
  lost: number;
  failed: Record<string, number>;
  /** Times that the pointer was looked at. */
  looks: number;
  seconds: number;
  violations: string[];
}

const PROGRAM = join(import.meta.dirname, 'publisher-jobs.ts');
const NEVER = new AbortController().signal;
/** Time for all processes to start. */
const START_MS = 4000;
const LIMIT_MS = 600_000;
const DEFAULT_PROCESSES = 10;

export async function publishersCampaign(options: PublishersOptions): Promise<PublishersReport> {
  const { store: name, count, dir, log } = options;
  await mkdir(dir, { recursive: true });
  const key = generateKey();
  const keyFile = join(dir, 'key.pem');
  await writeFile(keyFile, key.pem, { mode: 0o600 });
  if (name === 'memory') {
    const store = createMemoryStore();
    return judge(options, store, key, 1, () => publishHere(options, store, key));
  }
  const server = await startWritable(name, join(dir, 'server'));
  const processes = Math.min(count, options.processes ?? DEFAULT_PROCESSES);
  // The store is looked at from this process, which needs what the others need.
  const giveBack = await takeEnvironment(server.env);
  try {
    const url = server.direct('channel');
    const store = await composeStore(url, { signal: NEVER });
    try {
      return await judge(options, store, key, processes, () =>
        publishElsewhere(options, { url, keyFile, processes, env: server.env }),
      );
    } finally {
      await store.close();
    }
  } finally {
    giveBack();
    await server.stop();
    log(`${name}: done`);
  }
}

async function publishHere(
  { count, rounds = 2, forgetful, dir }: PublishersOptions,
  store: ObjectStore,
  key: PrivateKey,
): Promise<PublishResult[]> {
  const result = await publishMany({
    openStore: async (metrics) => ({ ...withRetry(withMetrics(store, metrics)), close: async () => {} }),
    dir,
    publishers: count,
    rounds,
    keys: [key],
    startAt: Date.now(),
    forgetful,
  });
  return [result];
}

async function publishElsewhere(
  { count, rounds = 2, forgetful, dir }: PublishersOptions,
  {
    url,
    keyFile,
    processes,
    env,
  }: { url: string; keyFile: string; processes: number; env: Record<string, string> },
): Promise<PublishResult[]> {
  const startAt = Date.now() + START_MS;
  return Promise.all(
    Array.from({ length: processes }, async (_, index) => {
      const own = createJobProcess<PublisherJob, PublishResult>(PROGRAM, env);
      try {
        const publishers = Math.floor(count / processes) + (index < count % processes ? 1 : 0);
        const ended = await own.run(
          {
            store: url,
            dir: join(dir, `process-${index}`),
            publishers,
            rounds,
            key: keyFile,
            startAt,
            forgetful,
          },
          LIMIT_MS,
        );
        if (ended.kind !== 'done')
          throw new Error(`a publisher process ended badly: ${JSON.stringify(ended)}`);
        return ended.value;
      } finally {
        await own.stop();
      }
    }),
  );
}

/** Has them publish, watches the pointer meanwhile, and looks at what there is in the end. */
async function judge(
  options: PublishersOptions,
  store: ObjectStore,
  key: PrivateKey,
  processes: number,
  publish: () => Promise<PublishResult[]>,
): Promise<PublishersReport> {
  const { store: name, count, dir } = options;
  const violations: string[] = [];
  const began = performance.now();
  const stop = new AbortController();
  const watching = watch(store, violations, stop.signal);
  let results: PublishResult[];
  try {
    results = await publish();
  } finally {
    stop.abort();
  }
  const looks = await watching;
  const seconds = Math.round((performance.now() - began) / 10) / 100;
  const published = results.flatMap((result) => result.published);
  const failed: Record<string, number> = {};
  for (const { code, message, hint } of results.flatMap((result) => result.failed)) {
    failed[code] = (failed[code] ?? 0) + 1;
    if (code === 'RAW' || code === 'INTERNAL' || !hint)
      violations.push(`an error that tells nobody what to do: ${code} ${message}`);
  }
  await check(store, published, Object.keys(failed).length > 0, violations);
  await verify(store, key, dir, violations);
  return {
    store: name,
    publishers: count,
    processes,
    published: published.length,
    highest: Math.max(0, ...published.map(({ sequence }) => sequence)),
    lost: results.reduce((sum, { lost }) => sum + lost, 0),
    failed,
    looks,
    seconds,
    violations,
  };
}

/** Looks at the pointer again and again. Returns how often. */
async function watch(store: ObjectStore, violations: string[], signal: AbortSignal): Promise<number> {
  let looks = 0;
  let last = 0;
  let repository: Repository | undefined;
  while (!signal.aborted) {
    try {
      repository ??= await openRepository(store, { signal: NEVER });
      const latest = await readLatest(repository, CHANNEL, { signal: NEVER });
      const sequence = latest?.document.sequence ?? 0;
      if (sequence < last) violations.push(`the pointer went back from ${last} to ${sequence}`);
      last = sequence;
      looks += 1;
    } catch (error) {
      if (!isPresyncError(error, 'REPOSITORY_NOT_FOUND') && !isPresyncError(error, 'STORE_NOT_FOUND'))
        violations.push(`the pointer cannot be read: ${String(error)}`);
    }
    await sleep(5);
  }
  return looks;
}

/** What publishers were told, against what is stored. */
async function check(
  store: ObjectStore,
  published: Published[],
  someFailed: boolean,
  violations: string[],
): Promise<void> {
  const repository = await openRepository(store, { signal: NEVER });
  const winners = new Map<number, Published>();
  for (const one of published) {
    const other = winners.get(one.sequence);
    if (other !== undefined) violations.push(`snapshot ${one.sequence} has two winners`);
    winners.set(one.sequence, one);
  }
  for (const { sequence, sha256, previous } of published) {
    const key = repositoryKeys.manifest(CHANNEL, sequence);
    const { bytes } = await store.read(key, { maxBytes: MAX_DOCUMENT_SIZE, signal: NEVER });
    if ((await digestOf(bytes)) !== sha256)
      violations.push(`the manifest of ${sequence} is not what its publisher was told`);
    if (previous === null) continue;
    if (previous.sequence >= sequence)
      violations.push(`snapshot ${sequence} follows the later one ${previous.sequence}`);
    if (winners.get(previous.sequence)?.sha256 !== previous.sha256)
      violations.push(`snapshot ${sequence} follows a ${previous.sequence} that nobody published`);
  }
  const highest = Math.max(...winners.keys());
  const latest = (await readLatest(repository, CHANNEL, { signal: NEVER }))?.document;
  if (latest?.sequence !== highest || latest.manifest.sha256 !== winners.get(highest)?.sha256)
    violations.push(`the pointer names ${latest?.sequence}, and ${highest} is the highest`);
  // Whoever failed may have left a snapshot that was not promoted.
  const stored = await listSequences(repository, CHANNEL, { signal: NEVER });
  const strangers = stored.filter((sequence) => !winners.has(sequence));
  if (!someFailed && strangers.length > 0)
    violations.push(`nobody published ${strangers.join(', ')}, which are there`);
  if (stored.length - strangers.length !== winners.size) violations.push('a snapshot is lost');
}

async function verify(store: ObjectStore, key: PrivateKey, dir: string, violations: string[]): Promise<void> {
  const scratchDir = join(dir, 'verify');
  const { problems } = await verifyRepository({
    repository: await openRepository(store, { signal: NEVER }),
    trusted: [key],
    seenOf: async () => undefined,
    scope: 'full',
    scratchDir,
    signal: NEVER,
  });
  await rm(scratchDir, { recursive: true, force: true });
  for (const { code, message } of problems) violations.push(`${code} ${message}`);
}
