import { mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { generateKey } from '@presync/format/signature';
import { isPresyncError } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import { createSources } from '@presync/store/sources';
import { type Clock, MAX_LANDING_MS } from '@presync/transfer/clock';
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
import { type Call, crashed, createGatedStore, type Gate } from './gated-store.ts';
import { createInlineWorkers } from './inline-workers.ts';
import { createModel, type Model } from './model.ts';
import { createRandom } from './random.ts';
import { type Actor, createScheduler } from './scheduler.ts';

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

/**
 * `any`: whatever the seed brings. `late`: a writer is suspended until its lease is about to end, and its manifest lands as late as it can, while its clock is
 * behind and the collector's ahead. `again`: what was removed is needed again, and removals are slow and come twice. `base`: a writer builds upon a snapshot that a collector is about to
 * remove.
 */
export type Profile = 'any' | 'late' | 'again' | 'base';

export const PROFILES: readonly Profile[] = ['any', 'any', 'any', 'again', 'again', 'late', 'base'];

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const SKEW = 6 * MINUTE;
const CHANNELS = ['test/a', 'test/b'] as const;
const PART = 'chains/test/db/full';
const NEVER = new AbortController().signal;
const KEY = generateKey();
const FILES = 8;
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
  const stepMs =
    profile === 'late' || profile === 'base'
      ? 100
      : choose.pick(profile === 'again' ? [300, 3000] : [300, 3000, 20_000, 60_000]);
  const scheduler = createScheduler(seed, stepMs);
  const { random } = scheduler;
  const model = createModel();
  const actors: Actor[] = [];
  const calm = choose.chance(profile === 'late' ? 0.7 : 0.25);
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
  const graceMs =
    profile === 'late'
      ? 0
      : choose.pick(profile === 'base' ? [40 * MINUTE, 2 * HOUR] : [0, 0, 20 * MINUTE, 2 * HOUR]);
  // Without a rule for it, only that it is the newest keeps a snapshot.
  const keep = { last: profile === 'base' ? 1 : choose.pick([0, 1, 2]) };
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
  if (profile === 'again') {
    // All but one file have been given up for long: their chunks are about to go.
    const begun = createClockAt(scheduler.now() - 2 * HOUR);
    for (const files of [pool, pool.slice(0, 1)])
      await upload(own, CHANNELS[0], files, { clock: begun, stateDir: join(dir, 'earlier') });
  }
  await fill(model, store);
  const pins = new Set<string>();

  function createActor(name: string, skewMs = skew()): Actor {
    return { name, skewMs, suspendedUntil: 0, crashed: false, done: false };
  }
  function skew(): number {
    return random.chance(0.5) ? random.pick([-SKEW, SKEW]) : random.below(2 * SKEW) - SKEW;
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
    if (actor.name !== 'janitor' && isPresyncError(error) && EXPECTED.has(error.code)) return;
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
        await clock.sleep(
          random.below(profile === 'late' ? 10 * MINUTE : profile === 'again' ? HOUR / 2 : 2 * HOUR),
          NEVER,
        );
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
        await clock.sleep(random.below(2 * HOUR), NEVER);
        await attempt(actor, async () => {
          const channel = random.pick(CHANNELS);
          const sequences = await listSequences(repository, channel, { signal: NEVER });
          if (sequences.length === 0) return;
          const sequence = random.pick(sequences);
          if (random.chance(0.2)) {
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
      while (!actors.every(({ name, done }) => done || name.startsWith('collector'))) {
        await clock.sleep(
          profile === 'late'
            ? hot.pause()
            : random.below(profile === 'base' || profile === 'again' ? HOUR / 4 : HOUR),
          NEVER,
        );
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
  // In `late`, the first writer's clock is behind and the collector's ahead.
  const late = createActor('writer1', profile === 'late' ? -SKEW : skew());
  write(late, CHANNELS[0], profile === 'late' ? 2 : 1 + random.below(3));
  for (const n of [2, 3, 4])
    write(createActor(`writer${n}`), random.pick(CHANNELS), (profile === 'again' ? 3 : 1) + random.below(3));
  for (const n of [1, 2]) read(createActor(`reader${n}`), 1 + random.below(4));
  collect(createActor('collector1', profile === 'late' ? SKEW : skew()));
  if (choose.chance(0.3)) collect(createActor('collector2'));

  const restarts = new Map<string, number>();
  function crash(actor: Actor): void {
    report.crashes += 1;
    actor.crashed = true;
    for (const call of gate.calls) if (call.actor === actor) call.giveUp(crashed());
    const again = restarts.get(actor.name) ?? 0;
    restarts.set(actor.name, again + 1);
    if (again >= 2) return;
    const next = { ...createActor(actor.name), skewMs: actor.skewMs };
    if (actor.name.startsWith('writer')) write(next, random.pick(CHANNELS), 1);
    if (actor.name.startsWith('reader')) read(next, 1);
    if (actor.name.startsWith('collector')) collect(next);
  }
  async function suspend(actor: Actor, until: number): Promise<void> {
    for (const call of gate.calls) if (call.actor === actor && random.chance(0.5)) void call.early();
    actor.suspendedUntil = until;
  }

  if (profile === 'late')
    gate.onCall = lateRule(late, scheduler.now, suspend, {
      hot,
      leftMs: choose.pick([20_000, -14 * MINUTE]),
    });
  if (profile === 'base') gate.onCall = baseRule(scheduler.now);
  if (profile === 'again') {
    gate.faults.twice = 0.3;
    gate.onCall = (call) => {
      if (call.op === 'remove' && call.key.startsWith('chunks/') && random.chance(0.5))
        call.due = scheduler.now() + random.below(MAX_LANDING_MS);
    };
  }
  await scheduler.run(actors, () => {
    if (calm || profile === 'late') return;
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

/** A clock that stands still; who sleeps on it sleeps until it is stopped. */
function createClockAt(time: number): Clock {
  return {
    now: () => time,
    elapsed: () => 0,
    sleep: (_ms, signal) =>
      new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true })),
  };
}

/** Tells the model what is there already, pointers last. */
async function fill(model: Model, store: ObjectStore): Promise<void> {
  const keys: string[] = [];
  for await (const { key } of store.list('', { signal: NEVER })) keys.push(key);
  const isPointer = (key: string): number => Number(key.startsWith('channels/'));
  for (const key of keys.sort((a, b) => isPointer(a) - isPointer(b)))
    model.put(key, (await store.read(key, { maxBytes: 1 << 24, signal: NEVER })).bytes);
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

/**
 * Writers that know what they build upon put their lease when a collector has just looked for leases, and that one removes manifests when they are done, as far as calls
 * may take so long.
 */
function baseRule(now: () => number): Gate['onCall'] {
  const writers = new Set<Call>();
  const collectors = new Set<Call>();
  const leases = new Set<string>();
  const release = (held: Set<Call>): void => {
    for (const call of held) call.due = now();
    held.clear();
  };
  return (call: Call) => {
    const { actor, op, key } = call;
    if (actor.name.startsWith('writer') && key.startsWith('leases/')) {
      if (op === 'put' && !leases.has(key)) {
        leases.add(key);
        call.due = now() + MAX_LANDING_MS - MINUTE;
        writers.add(call);
      }
      if (op === 'remove') release(collectors);
    }
    if (!actor.name.startsWith('collector')) return;
    if (op === 'read' && key.endsWith('/index.zst')) release(writers);
    if (op === 'remove' && key.endsWith('/manifest.json')) {
      call.due = now() + MAX_LANDING_MS - MINUTE;
      collectors.add(call);
    }
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
