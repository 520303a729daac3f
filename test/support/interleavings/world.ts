import { mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { generateKey } from '@presync/format/signature';
import { isPresyncError } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import { createSources } from '@presync/store/sources';
import { MAX_LANDING_MS } from '@presync/transfer/clock';
import { LEASE_MS } from '@presync/transfer/lib/lease';
import { holdSnapshot } from '@presync/transfer/lib/reader-lease';
import { pinSnapshot } from '@presync/transfer/pins';
import { type PruneResult, pruneRepository } from '@presync/transfer/prune';
import {
  listSequences,
  openOrCreateRepository,
  type Repository,
  resolveSnapshot,
} from '@presync/transfer/repository';
import { type SnapshotDescription, type UploadOptions, uploadSnapshot } from '@presync/transfer/snapshot';
import type { SourceFile } from '@presync/transfer/source';
import { verifySnapshot } from '@presync/transfer/verify';
import { arrange, fill } from './earlier.ts';
import { type Call, crashed, createGatedStore, type Gate } from './gated-store.ts';
import { createInlineWorkers } from './inline-workers.ts';
import { createModel } from './model.ts';
import { PROFILES, type Profile, SHAPES } from './profiles.ts';
import { createRace, RACES } from './races.ts';
import { createRandom } from './random.ts';
import { type Actor, createActor, createScheduler, SKEW_MS } from './scheduler.ts';

export interface WorldOptions {
  seed: number;
  store: ObjectStore;
  /** For state and scratch files. */
  dir: string;
  pool: readonly SourceFile[];
  /** Default: the seed's. */
  profile?: Profile | undefined;
}

export interface WorldReport {
  seed: number;
  profile: Profile;
  violations: string[];
  steps: number;
  /** A digest of all that happened would do; the steps themselves are easier to read. */
  trace: string[];
  snapshots: number;
  reads: number;
  removedChunks: number;
  crashes: number;
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const CHANNELS = ['test/a', 'test/b'] as const;
const PART = 'chains/test/db/full';
const NEVER = new AbortController().signal;
const KEY = generateKey();
const FILES = 8;
/** What a world is aimed at has happened by then, and runs of a collector that find nothing cost time. */
const HASTY_RUNS = 20;
/** A quarter of the smallest chunk size: each such file is a chunk. */
const FILE_BYTES = 16 * 1024;

/** The files that all databases of all worlds are made of. */
export async function createPool(dir: string): Promise<SourceFile[]> {
  const pool: SourceFile[] = [];
  await mkdir(dir, { recursive: true });
  for (let n = 0; n < FILES; n++) {
    const name = `00000${n}.sst`;
    const readPath = join(dir, name);
    await writeFile(readPath, Buffer.alloc(FILE_BYTES, `table ${n} `));
    const info = await stat(readPath, { bigint: true });
    pool.push({
      path: `${PART}/${name}`,
      size: FILE_BYTES,
      class: 'immutable',
      mode: 0o644,
      mtimeMs: 0,
      readPath,
      identity: { dev: info.dev, ino: info.ino, mtimeNs: info.mtimeNs, birthtimeNs: info.birthtimeNs },
    });
  }
  return pool;
}

/** Runs four writers, two readers and one or two collectors against one repository, and judges what they leave. */
export async function runWorld({ seed, store, dir, pool, ...wanted }: WorldOptions): Promise<WorldReport> {
  const choose = createRandom(seed ^ 0x5eed);
  const profile = wanted.profile ?? choose.pick(PROFILES);
  const shape = SHAPES[profile];
  const scheduler = createScheduler(seed, choose.pick(shape.stepMs));
  const { random } = scheduler;
  const model = createModel(scheduler.now);
  const actors: Actor[] = [];
  const race = RACES[profile] === undefined ? undefined : choose.pick(RACES[profile]);
  const calm = choose.chance(shape.calm);
  const gate: Gate = {
    base: store,
    scheduler,
    model,
    faults: calm
      ? { lost: 0, twice: 0, stalled: 0 }
      : { lost: choose.pick([0, 0.01]), twice: choose.pick([0, 0.1]), stalled: choose.pick([0, 0.02, 0.1]) },
    page: choose.pick([3, 10, 1000]),
    calls: new Set(),
    onCall: () => {},
  };
  const graceMs = choose.pick(shape.graceMs);
  const keep = { last: choose.pick(shape.keepLast) };
  const report: WorldReport = {
    seed,
    profile,
    violations: model.violations,
    steps: 0,
    trace: scheduler.trace,
    snapshots: 0,
    reads: 0,
    removedChunks: 0,
    crashes: 0,
  };
  const own = await openOrCreateRepository(store, { chunkSize: 64 * 1024, signal: NEVER });
  await mkdir(dir, { recursive: true });
  await arrange(race?.earlier ?? shape.earlier, {
    repository: own,
    pool,
    now: scheduler.now(),
    scratchDir: dir,
    upload: (repository, files, clock) =>
      upload(repository, CHANNELS[0], files, { clock, stateDir: join(dir, 'earlier') }),
  });
  await fill(model, store);
  const pins = new Set<string>();

  function skew(): number {
    return random.chance(0.5) ? random.pick([-SKEW_MS, SKEW_MS]) : random.below(2 * SKEW_MS) - SKEW_MS;
  }
  /** Who begins within a minute does so before its first piece of work only. */
  function firstPause(actor: Actor, round: number): number | undefined {
    return round === 0 && shape.first.includes(actor.name) ? random.below(MINUTE) : undefined;
  }
  function repositoryOf(actor: Actor): Repository {
    const gated = createGatedStore(gate, actor);
    return { ...own, store: gated, sources: createSources({ stores: [gated], rounds: 1 }) };
  }
  /** Adds somebody; errors that the store's faults explain end a piece of work, all others are violations. */
  function add(actor: Actor, work: (repository: Repository) => Promise<void>): void {
    actors.push(actor);
    work(repositoryOf(actor))
      .catch((error: unknown) => judge(actor, error))
      .finally(() => {
        actor.done = true;
      });
  }
  const EXPECTED = new Set([
    'STORE_FAILED',
    'ABORTED',
    'LEASE_LOST',
    'SNAPSHOT_NOT_FOUND',
    'CHANNEL_NOT_FOUND',
  ]);
  function judge(actor: Actor, error: unknown): void {
    const code = isPresyncError(error) ? error.code : '';
    // Where all that is wrong is that calls take minutes, leases and claims are renewed in time.
    const isExpected = EXPECTED.has(code) && !(profile === 'slow' && code === 'LEASE_LOST');
    if (actor.name !== 'janitor' && isExpected) return;
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    report.violations.push(`${actor.name} failed: ${text}`);
  }
  async function attempt(actor: Actor, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (actor.crashed) throw error;
      judge(actor, error);
    }
  }

  function write(actor: Actor, channel: string, rounds: number): void {
    add(actor, async (repository) => {
      const clock = scheduler.clockOf(actor);
      for (let round = 0; round < rounds; round++) {
        await clock.sleep(firstPause(actor, round) ?? random.below(shape.writerPauseMs), NEVER);
        const files = pool.filter(() => random.chance(0.4));
        await attempt(actor, async () => {
          await upload(repository, channel, files.length > 0 ? files : pool.slice(0, 1), {
            clock,
            stateDir: join(dir, actor.name),
            concurrency: random.pick([1, 3]),
          });
          report.snapshots += 1;
        });
      }
    });
  }

  function read(actor: Actor, rounds: number): void {
    add(actor, async (repository) => {
      const clock = scheduler.clockOf(actor);
      for (let round = 0; round < rounds; round++) {
        await clock.sleep(firstPause(actor, round) ?? random.below(2 * HOUR), NEVER);
        await attempt(actor, async () => {
          const isAimed = round === 0 && shape.first.includes(actor.name);
          const channel = isAimed ? CHANNELS[0] : random.pick(CHANNELS);
          const sequences = await listSequences(repository, channel, { signal: NEVER });
          if (sequences.length === 0) return;
          // The oldest is the first to go.
          const sequence = isAimed ? Math.min(...sequences) : random.pick(sequences);
          if (isAimed ? profile === 'pin' : random.chance(0.2)) {
            const clockOfPin = { repository, channel, sequence, clock, signal: NEVER };
            if (await pinSnapshot(clockOfPin)) pins.add(`snapshots/${channel}/${sequence}/manifest.json`);
            return;
          }
          const snapshot = await resolveSnapshot(repository, {
            channel,
            snapshot: sequence,
            trusted: [KEY],
            signal: NEVER,
          });
          const lease = await holdSnapshot({ repository, snapshot, clock, signal: NEVER });
          // The store failed, or the reader did.
          if (lease === undefined) return;
          try {
            await clock.sleep(random.below(HOUR), NEVER);
            const { problems } = await verifySnapshot({
              repository,
              manifest: snapshot.manifest,
              scope: 'full',
              scratchDir: join(dir, actor.name),
              concurrency: 1,
              createWorkers: createInlineWorkers,
              signal: NEVER,
            });
            lease.assertHeld();
            report.reads += 1;
            for (const { code, message } of problems)
              report.violations.push(
                `${actor.name} held a lease on ${channel}#${sequence}: ${code} ${message}`,
              );
          } finally {
            await lease.drop();
          }
        });
      }
    });
  }

  async function prune(actor: Actor, repository: Repository, grace: number): Promise<PruneResult> {
    const scratchDir = join(dir, actor.name);
    await mkdir(scratchDir, { recursive: true });
    actor.run = { since: scheduler.now(), graceMs: grace };
    const result = await pruneRepository({
      repository,
      keep,
      graceMs: grace,
      scratchDir,
      concurrency: random.pick([1, 4]),
      clock: scheduler.clockOf(actor),
      signal: NEVER,
    });
    report.removedChunks += result.removed.chunks;
    for (const { message } of result.damaged)
      report.violations.push(`${actor.name} found damage: ${message}`);
    return result;
  }
  function collect(actor: Actor): void {
    add(actor, async (repository) => {
      const clock = scheduler.clockOf(actor);
      for (let run = 0; !actors.every(({ name, done }) => done || name.startsWith('collector')); run++) {
        const pause = run < HASTY_RUNS ? shape.collectorPauseMs : Math.max(HOUR, shape.collectorPauseMs);
        await clock.sleep(profile === 'late' ? hot.pause() : random.below(pause), NEVER);
        await attempt(actor, async () => {
          await prune(actor, repository, graceMs);
        });
      }
    });
  }

  const hot = { from: Number.POSITIVE_INFINITY, pause: () => 0 };
  hot.pause = () => {
    const ahead = hot.from - scheduler.now();
    return ahead < -20 * MINUTE ? 20 * MINUTE : Math.max(MINUTE, Math.min(20 * MINUTE, ahead));
  };
  const isLate = profile === 'late';
  const late = createActor('writer1', shape.apart ? -SKEW_MS : skew());
  write(late, CHANNELS[0], isLate ? 2 : shape.rounds + random.below(3));
  for (const name of ['writer2', 'writer3', 'writer4']) {
    // What a race is about is in one channel.
    const channel = race !== undefined && name === 'writer2' ? CHANNELS[0] : random.pick(CHANNELS);
    write(createActor(name, shape.apart ? -SKEW_MS : skew()), channel, shape.rounds + random.below(3));
  }
  for (const name of ['reader1', 'reader2']) read(createActor(name, skew()), 1 + random.below(4));
  collect(createActor('collector1', shape.apart ? SKEW_MS : skew()));
  if (race?.secondCollector === true || choose.chance(shape.secondCollector))
    collect(createActor('collector2', skew()));

  const restarts = new Map<string, number>();
  function crash(actor: Actor): void {
    report.crashes += 1;
    actor.crashed = true;
    for (const call of gate.calls) if (call.actor === actor) call.giveUp(crashed());
    const again = restarts.get(actor.name) ?? 0;
    restarts.set(actor.name, again + 1);
    if (again >= 2) return;
    const next = createActor(actor.name, actor.skewMs);
    if (actor.name.startsWith('writer')) write(next, random.pick(CHANNELS), 1);
    if (actor.name.startsWith('reader')) read(next, 1);
    if (actor.name.startsWith('collector')) collect(next);
  }
  async function suspend(actor: Actor, until: number): Promise<void> {
    for (const call of gate.calls) if (call.actor === actor && random.chance(0.5)) void call.early();
    const from = Math.max(scheduler.now(), actor.suspendedUntil);
    // A process that is stopped and goes on sees a clock that ran on, and a machine one that stood still.
    if (from < until && random.chance(0.5)) actor.stoodStill.push({ from, until });
    actor.suspendedUntil = Math.max(actor.suspendedUntil, until);
  }

  if (isLate)
    gate.onCall = lateRule(late, scheduler.now, suspend, {
      hot,
      leftMs: choose.pick([20_000, -14 * MINUTE]),
    });
  if (race !== undefined) gate.onCall = createRace(race, { now: scheduler.now, random, suspend });
  if (profile === 'slow')
    gate.onCall = (call) => {
      call.due = scheduler.now() + random.below(4 * MINUTE);
    };
  if (profile === 'quick') gate.faults.twice = 0.5;
  if (profile === 'again') {
    gate.faults.twice = 0.3;
    gate.onCall = (call) => {
      if (call.op === 'remove' && call.key.startsWith('chunks/') && random.chance(0.5))
        call.due = scheduler.now() + random.below(MAX_LANDING_MS);
    };
  }
  await scheduler.run(actors, () => {
    if (calm || !shape.disturbed) return;
    const running = actors.filter(({ done, crashed: gone }) => !done && !gone);
    if (running.length === 0) return;
    if (random.chance(0.002)) crash(random.pick(running));
    if (random.chance(0.002)) void suspend(random.pick(running), scheduler.now() + random.below(2.5 * HOUR));
  });

  gate.faults = { lost: 0, twice: 0, stalled: 0 };
  gate.onCall = () => {};
  scheduler.stepMs = 300;
  const janitor = createActor('janitor', 0);
  add(janitor, async (repository) => {
    const clock = scheduler.clockOf(janitor);
    for (let pass = 0; pass < 6; pass++) {
      await clock.sleep(26 * HOUR, NEVER);
      await prune(janitor, repository, 0);
    }
  });
  await scheduler.run([janitor], () => {});
  for (const pin of pins) if (!model.has(pin)) report.violations.push(`${pin} was pinned, and is gone`);
  for (const key of model.garbage()) report.violations.push(`${key} is left`);
  report.steps = scheduler.trace.length;
  await rm(dir, { recursive: true, force: true });
  return report;
}

function upload(
  repository: Repository,
  channel: string,
  files: readonly SourceFile[],
  options: Pick<UploadOptions, 'clock' | 'stateDir' | 'concurrency'>,
): Promise<unknown> {
  return uploadSnapshot({
    repository,
    channel,
    files: [...files],
    databaseIdentity: 'c0ffee',
    describe: DESCRIPTION,
    keys: [KEY],
    prove: 'sample',
    createWorkers: createInlineWorkers,
    signal: NEVER,
    ...options,
  });
}

/**
 * The writer is suspended while it looks at its lease for the last time, and goes on when that has `leftMs` left, or has run out; its manifest then lands when that is nearly
 * too late.
 */
function lateRule(
  writer: Actor,
  now: () => number,
  suspend: (actor: Actor, until: number) => Promise<void>,
  { hot, leftMs }: { hot: { from: number }; leftMs: number },
): Gate['onCall'] {
  let renewed = 0;
  let indexed = false;
  let landed = false;
  let frozen = false;
  let lease = '';
  return (call: Call) => {
    if (call.actor !== writer) return;
    if (call.op === 'put' && call.key.startsWith('leases/')) {
      if (call.key !== lease) frozen = false;
      lease = call.key;
      // Once it goes on, its renewal does not get through.
      if (frozen) call.due = now() + MAX_LANDING_MS + MINUTE;
      else renewed = now();
    }
    if (call.op === 'put' && call.key.endsWith('/index.zst')) indexed = true;
    if (call.op === 'stat' && call.key.startsWith('leases/') && landed) hot.from = Number.POSITIVE_INFINITY;
    landed = call.op === 'put' && call.key.endsWith('/manifest.json');
    if (landed) call.due = now() + MAX_LANDING_MS - 20_000;
    if (!indexed || call.op !== 'stat' || !call.key.startsWith('leases/')) return;
    indexed = false;
    frozen = true;
    void call.early();
    // The collector comes by often when it may take the lease for expired.
    hot.from = renewed + LEASE_MS + 2 * MINUTE;
    void suspend(writer, renewed + LEASE_MS - leftMs);
  };
}

const DESCRIPTION: SnapshotDescription = {
  expires: null,
  chain: {
    specId: 'test',
    name: null,
    genesisHash: `0x${'11'.repeat(32)}`,
    anchor: null,
    head: null,
    blockTimeMs: null,
  },
  node: {
    implementation: null,
    version: null,
    statePruning: null,
    blocksPruning: null,
    parts: [{ role: 'main', backend: 'rocksdb', path: PART, databaseVersion: '4', identity: 'c0ffee' }],
  },
  pause: { strategy: 'none', seconds: 0 },
};
