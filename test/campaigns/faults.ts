/**
 * Snapshots and restores of real databases over roads on which faults happen: resets, stalls, refusals, short, wrong and mixed-up
 * answers, in front of each real server. Each run must end in time, with the right bytes or with a clear error; what a failed one leaves
 * behind must be sound, and the next one, without faults, must succeed.
 */
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { generateKey } from '@presync/format/signature';
import { FAULT_KINDS, type FaultKind } from '../support/fault-kinds.ts';
import { createJobProcess, type JobEnd, type JobProcess, shareOut } from '../support/jobs.ts';
import { presyncOk } from '../support/presync.ts';
import { type FixtureBackend, unpackFixture } from '../support/real-node.ts';
import type { FaultJob, FaultJobResult, RestoreJob, SnapshotJob } from './fault-jobs.ts';
import {
  type FaultStore,
  type FaultStoreName,
  type Road,
  startReader,
  startWritable,
} from './fault-stores.ts';

export interface FaultsOptions {
  store: FaultStoreName;
  /** Runs: a snapshot and a restore each, or a restore where the store can only be read. */
  count: number;
  seed: number;
  /** Scratch folder. */
  dir: string;
  /** Shares of the requests that meet a fault, one after the other. */
  rates?: readonly number[] | undefined;
  /** Databases, one after the other. */
  backends?: readonly FixtureBackend[] | undefined;
  log: (line: string) => void;
}

export interface FaultsReport {
  store: FaultStoreName;
  runs: number;
  seed: number;
  rates: RateReport[];
  /** What must not be; empty when all is well. */
  violations: string[];
}

export interface RateReport {
  rate: number;
  runs: number;
  snapshots: Tally;
  restores: Tally;
  /** Requests that a proxy saw. */
  requests: number;
  injected: Record<string, number>;
  /** Restored databases that are not what the source holds. */
  wrongBytes: number;
  hangs: number;
}

interface Tally {
  succeeded: number;
  failed: Record<string, number>;
  /** Calls of the store that failed with what may pass, and so were made again, but for the last one of a run that gave up. */
  retries: number;
  seconds: { median: number; max: number };
}

const RATES = [0.01, 0.05, 0.2];
/** Two of the small database for each of the large one. */
const BACKENDS: readonly FixtureBackend[] = ['rocksdb', 'rocksdb', 'paritydb'];
/** Such that each database has some hundred chunks. */
const CHUNK_SIZE: Record<FixtureBackend, number> = { rocksdb: 64 * 1024, paritydb: 512 * 1024 };
/** Of the repository that readers read, in which both are. */
const SHARED_CHUNK_SIZE = 256 * 1024;
/** Runs at a time: most of a run is waiting. */
const SLOTS = 6;
/** A run takes seconds, and on a busy machine, where each fifth request fails, up to two minutes. */
const LIMIT_MS = 240_000;
/** Where an expired token is final, one run in so many meets one; it would hide what else there is. */
const FINAL_EVERY = 5;
const PROGRAM = join(import.meta.dirname, 'fault-jobs.ts');
const CALM = { dns: 0 };

interface Slot {
  process: JobProcess<FaultJob, FaultJobResult>;
  sources: Record<FixtureBackend, string>;
}

interface Collected {
  rate: number;
  report: RateReport;
  injected: Map<FaultKind, number>;
  seconds: { snapshots: number[]; restores: number[] };
}

interface Campaign extends FaultsOptions {
  key: string;
  trust: string;
  violations: string[];
  collected: Collected[];
}

export async function faultsCampaign(options: FaultsOptions): Promise<FaultsReport> {
  const { store: name, count, seed, dir, log, rates = RATES } = options;
  await mkdir(dir, { recursive: true });
  const key = join(dir, 'key.pem');
  await writeFile(key, generateKey().pem, { mode: 0o600 });
  const trust = (await presyncOk(['keys', 'public', key])).stdout.trim();
  const violations: string[] = [];
  const collected = rates.map(newCollected);
  const campaign: Campaign = { ...options, key, trust, violations, collected };

  const sources = await Promise.all(
    Array.from({ length: Math.min(SLOTS, count) }, (_, index) => unpackSources(join(dir, `source-${index}`))),
  );
  let store: FaultStore;
  if (name === 'http' || name === 'peer') {
    const [first] = sources;
    if (first === undefined) throw new Error('no runs');
    store = await startReader(name, await fillRepository(campaign, first));
  } else {
    store = await startWritable(name, join(dir, 'server'));
  }
  const slots = sources.map((own): Slot => ({ process: createJobProcess(PROGRAM, store.env), sources: own }));
  try {
    await shareOut(slots, count, async (slot, run) => {
      await oneRun(campaign, store, slot, run);
      if (run % 20 === 0) log(`${name}: ${run} of ${count} runs, ${violations.length} violations`);
    });
  } finally {
    for (const { process } of slots) await process.stop();
    await store.stop();
  }
  return { store: name, runs: count, seed, rates: collected.map(finished), violations };
}

function newCollected(rate: number): Collected {
  const tally = (): Tally => ({ succeeded: 0, failed: {}, retries: 0, seconds: { median: 0, max: 0 } });
  return {
    rate,
    injected: new Map(),
    seconds: { snapshots: [], restores: [] },
    report: {
      rate,
      runs: 0,
      snapshots: tally(),
      restores: tally(),
      requests: 0,
      injected: {},
      wrongBytes: 0,
      hangs: 0,
    },
  };
}

function finished({ report, injected, seconds }: Collected): RateReport {
  for (const [kind, times] of injected) report.injected[kind] = times;
  for (const which of ['snapshots', 'restores'] as const) {
    const sorted = seconds[which].toSorted((a, b) => a - b);
    const round = (value: number | undefined): number => Math.round((value ?? 0) * 100) / 100;
    report[which].seconds = { median: round(sorted[sorted.length >> 1]), max: round(sorted.at(-1)) };
  }
  return report;
}

/** A presync holds the lock of a database that it reads, so that each slot has its own. */
async function unpackSources(dir: string): Promise<Slot['sources']> {
  const sources = { rocksdb: join(dir, 'rocksdb'), paritydb: join(dir, 'paritydb') };
  await unpackFixture('rocksdb', sources.rocksdb);
  await unpackFixture('paritydb', sources.paritydb);
  return sources;
}

/** A repository with both databases, for stores that can only be read. Returns its folder. */
async function fillRepository({ key, dir }: Campaign, sources: Slot['sources']): Promise<string> {
  const storeDir = join(dir, 'repository');
  const filler = createJobProcess<FaultJob, FaultJobResult>(PROGRAM);
  try {
    for (const backend of ['rocksdb', 'paritydb'] as const) {
      const ended = await filler.run(
        {
          kind: 'snapshot',
          store: `file://${storeDir}`,
          backend,
          basePath: sources[backend],
          key,
          stateDir: join(dir, 'filler'),
          chunkSize: SHARED_CHUNK_SIZE,
          client: CALM,
        },
        LIMIT_MS,
      );
      if (ended.kind !== 'done' || ended.value.error !== undefined)
        throw new Error(`no repository to read from: ${JSON.stringify(ended)}`);
    }
  } finally {
    await filler.stop();
  }
  return storeDir;
}

async function oneRun(campaign: Campaign, store: FaultStore, slot: Slot, run: number): Promise<void> {
  const { store: name, seed, dir, collected, key, trust, violations, log } = campaign;
  const backends = campaign.backends ?? BACKENDS;
  const backend = backends[run % backends.length] ?? 'rocksdb';
  const own = collected[Math.floor(run / backends.length) % collected.length];
  if (own === undefined) throw new Error('there is no rate');
  const { rate, report } = own;
  const title = `${name} run ${run} (${backend}, ${rate * 100} %)`;
  const bad = (what: string): void => {
    violations.push(`${title}: ${what}`);
    log(`VIOLATION ${title}: ${what}`);
  };
  const kinds =
    store.renewsTokens || run % FINAL_EVERY === 0
      ? FAULT_KINDS
      : FAULT_KINDS.filter((kind) => kind !== 'expired-token');
  const work = join(dir, `run-${run}`);
  const prefix = `run-${run}`;
  const road = await store.road(prefix, { seed: seed * 100_000 + run, rate, kinds, injected: own.injected });
  const here: Run = { name: title, log, slot, own, road, bad };
  report.runs += 1;
  try {
    if (name !== 'http' && name !== 'peer') {
      const job: Omit<SnapshotJob, 'client' | 'store'> = {
        kind: 'snapshot',
        backend,
        basePath: slot.sources[backend],
        key,
        stateDir: join(work, 'source-state'),
        chunkSize: CHUNK_SIZE[backend],
      };
      const verify: FaultJob = { kind: 'verify', store: store.direct(prefix), backend, trust };
      if (!(await snapshotRun(here, job, verify))) return;
    }
    await restoreRun(here, {
      kind: 'restore',
      backend,
      basePath: join(work, 'target'),
      source: slot.sources[backend],
      trust,
      stateDir: join(work, 'agent'),
    });
  } finally {
    report.requests += road.requests();
    for (const what of road.broken()) bad(`the proxy could not reach its server: ${what}`);
    await road.stop();
    if (name !== 'http' && name !== 'peer') {
      const cleared = await slot.process.run({ kind: 'clear', store: store.direct(prefix) }, LIMIT_MS);
      if (cleared.kind !== 'done') bad(`its objects cannot be removed: ${describe(cleared)}`);
    }
    await rm(work, { recursive: true, force: true });
  }
}

interface Run {
  /** For people: store, number, database and rate. */
  name: string;
  log: (line: string) => void;
  slot: Slot;
  own: Collected;
  road: Road;
  /** Tells of a violation. */
  bad: (what: string) => void;
}

/** True when there is a snapshot in the end that can be restored. */
async function snapshotRun(
  here: Run,
  job: Omit<SnapshotJob, 'client' | 'store'>,
  verify: FaultJob,
): Promise<boolean> {
  const { slot, road, bad } = here;
  const first = await attempt(here, 'snapshots', { ...job, store: road.url, client: road.client });
  if (!(await isSound(here, verify, first?.snapshot))) return false;
  if (first !== undefined && first.error === undefined) return true;
  road.setFaults(false);
  const next = await slot.process.run({ ...job, store: road.url, client: road.client }, LIMIT_MS);
  road.setFaults(true);
  if (next.kind !== 'done' || next.value.error !== undefined) {
    bad(`the snapshot after a failed one fails without faults: ${describe(next)}`);
    return false;
  }
  return isSound(here, verify, next.value.snapshot);
}

/**
 * Looks at the repository past all faults: no manifest may name what is missing or wrong, and what was promoted must be the newest.
 * That a snapshot was not promoted, or that none was finished, is no damage.
 */
async function isSound(
  { slot, bad }: Run,
  verify: FaultJob,
  taken: FaultJobResult['snapshot'],
): Promise<boolean> {
  const looked = await slot.process.run(verify, LIMIT_MS);
  if (looked.kind !== 'done' || looked.value.repository === undefined) {
    bad(`the repository cannot be verified: ${describe(looked)}`);
    return false;
  }
  const { problems, latest } = looked.value.repository;
  const serious = problems.filter((text) => !/^(?:MANIFEST_ROLLED_BACK|CHANNEL_NOT_FOUND) /.test(text));
  for (const problem of serious) bad(`the repository is damaged: ${problem}`);
  if (taken?.promoted === true && latest !== taken.sequence)
    bad(`snapshot ${taken.sequence} was called the newest, and ${latest ?? 'none'} is`);
  return serious.length === 0;
}

async function restoreRun(here: Run, job: Omit<RestoreJob, 'client' | 'store'>): Promise<void> {
  const { slot, own, road, bad } = here;
  const first = await attempt(here, 'restores', { ...job, store: road.url, client: road.client });
  if (first?.error !== undefined && first.target?.sealed === true)
    bad(`a restore failed and left a database that can be opened: ${first.error.code}`);
  if (first !== undefined && first.error === undefined) {
    if (!isRight(first)) {
      own.report.wrongBytes += 1;
      bad(`wrong bytes: ${first.target?.differing.join(', ')}`);
    }
    return;
  }
  road.setFaults(false);
  const next = await slot.process.run({ ...job, store: road.url, client: road.client }, LIMIT_MS);
  if (next.kind !== 'done' || next.value.error !== undefined)
    bad(`the restore after a failed one fails without faults: ${describe(next)}`);
  else if (!isRight(next.value)) {
    own.report.wrongBytes += 1;
    bad(`wrong bytes after a failed restore: ${next.value.target?.differing.join(', ')}`);
  }
}

function isRight({ target }: FaultJobResult): boolean {
  return target?.sealed === true && target.differing.length === 0;
}

/** Runs a job over the road with its faults, and counts what became of it. Undefined when it did not end by itself. */
async function attempt(
  { name, log, slot, own, bad }: Run,
  which: 'snapshots' | 'restores',
  job: FaultJob,
): Promise<FaultJobResult | undefined> {
  const tally = own.report[which];
  const ended = await slot.process.run(job, LIMIT_MS);
  own.seconds[which].push(ended.seconds);
  if (ended.kind !== 'done') {
    const code = ended.kind === 'hang' ? 'HANG' : 'CRASH';
    tally.failed[code] = (tally.failed[code] ?? 0) + 1;
    if (ended.kind === 'hang') own.report.hangs += 1;
    bad(`${which}: ${describe(ended)}`);
    return undefined;
  }
  const { error, failedCalls, injected } = ended.value;
  for (const [kind, times] of Object.entries(injected))
    own.report.injected[kind] = (own.report.injected[kind] ?? 0) + times;
  tally.retries += failedCalls;
  if (error === undefined) {
    tally.succeeded += 1;
  } else {
    tally.failed[error.code] = (tally.failed[error.code] ?? 0) + 1;
    log(`${name}: ${which}: ${error.code} ${error.message}`);
    if (error.code === 'RAW' || error.code === 'INTERNAL' || !error.hint || error.message === '')
      bad(`${which}: an error that tells nobody what to do: ${error.code} ${error.message}`);
  }
  return ended.value;
}

function describe(ended: JobEnd<FaultJobResult>): string {
  switch (ended.kind) {
    case 'hang':
      return `not ended after ${Math.round(ended.seconds)} s: ${ended.said}`;
    case 'crash':
      return ended.said;
    case 'done':
      return `${ended.value.error?.code} ${ended.value.error?.message}`;
  }
}
