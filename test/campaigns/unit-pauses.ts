/**
 * SIGKILL to the daemon at random instants of a snapshot, most of them aimed at the pause, on a source node as it is installed: node and presync are
 * units of a real systemd, and the node is held in each way that a unit can be. After each: the node runs within the budget and makes blocks, what is
 * visible of the repository is whole, and the next run ends well and leaves no intent.
 */
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { type PublicKey, parsePublicKey } from '@presync/format/signature';
import { isPresyncError, messageOf } from '@presync/runtime/errors';
import { askRun, askStatus } from '@presync/snapshotter/ask-daemon';
import { createFileStore } from '@presync/store/file';
import { openRepository, type Repository } from '@presync/transfer/repository';
import { verifyRepository } from '@presync/transfer/verify-repository';
import {
  BUDGET_MS,
  deadmanUnits,
  isDeadman,
  isPresync,
  leftByPauses,
  NODE,
  overrideUnit,
  PRESYNC,
  pendingIntents,
  SLACK_MS,
  type SourceMachine,
  startSource,
  type UnitPause,
} from '../machine/source-machine.ts';
import { seededRandom } from '../support/corruption.ts';
import type { Machine } from '../support/machine.ts';
import type { FixtureBackend } from '../support/real-node.ts';
import type { PauseReport } from './pauses.ts';

export interface UnitPausesOptions {
  backend: FixtureBackend;
  strategy: UnitPause;
  count: number;
  seed: number;
  /** Scratch folder. */
  dir: string;
  log: (line: string) => void;
}

export interface UnitPauseReport extends PauseReport {
  /** Kills by who was killed. */
  victims: Record<string, number>;
  /** The longest time between two blocks around a kill, seconds. */
  longestHole: number;
  /** Snapshots that were visible, each of which was read back whole. */
  snapshots: number;
  secondsPerKill: number;
  violations: string[];
}

export const UNIT_PAUSES = ['signal', 'freeze', 'stop'] as const;

/** One that is stopped must have the time to end. */
const BUDGETS_MS: Record<UnitPause, number> = { signal: BUDGET_MS, freeze: BUDGET_MS, stop: 2 * BUDGET_MS };
/** The same for a node that is started anew, and for a run. */
const PATIENCE_MS = 300_000;

const NEVER = new AbortController().signal;

interface Victims {
  name: string;
  which(pid: number): boolean;
  /** Whatever systemd starts in the unit is killed as well, until the pause is over. */
  again: boolean;
}

const VICTIMS: readonly Victims[] = [
  { name: 'presync', which: isPresync, again: false },
  {
    name: 'presync and its deadman',
    which: (pid) => isPresync(pid) || isDeadman(pid),
    again: false,
  },
  { name: 'everything in its unit', which: () => true, again: false },
  { name: 'all but the timer', which: () => true, again: true },
];

/** At what a kill is aimed: a random instant while the node is held, while there is an intent, or of the run. */
type Aim = 'held' | 'intent' | 'run';

const AIMS: readonly Aim[] = ['held', 'intent', 'held', 'run'];

interface World extends UnitPausesOptions {
  budgetMs: number;
  random: () => number;
  source: SourceMachine;
  blocks: Blocks;
  repository: Repository;
  trusted: readonly PublicKey[];
  verified: Set<number>;
  /** How long each lasts, milliseconds: in the shortest of some runs that nobody kills, and less after each kill that missed it. */
  lasts: Record<Aim, number>;
  report: UnitPauseReport;
}

const MISSED = 0.7;

export async function unitPausesCampaign(options: UnitPausesOptions): Promise<UnitPauseReport> {
  const { backend, strategy, dir } = options;
  const budgetMs = BUDGETS_MS[strategy];
  const source = await startSource({
    backend,
    dir: join(dir, 'source'),
    // A run is begun when one is wanted, over the daemon's socket.
    schedule: '0 0 1 1 *',
    pause: strategy,
    settings: { pauseBudget: `${budgetMs}ms`, anchorAge: '0s', chunkSize: '1MiB' },
  });
  const blocks = followBlocks(source.machine);
  try {
    // All else is as it is installed.
    await overrideUnit(source, 'RestartSec=100ms');
    const key = await source.machine.ok('presync', 'keys', 'public', '/etc/presync/keys/snapshots');
    const report: UnitPauseReport = {
      ...{ strategy, backend, kills: 0, foundHeld: 0, inPause: 0, tooLate: 0, windowMs: 0, longestStop: 0 },
      ...{ victims: {}, longestHole: 0, snapshots: 0, secondsPerKill: 0, violations: [] },
    };
    const lasts = await measure(source, report);
    await killMany({
      ...options,
      budgetMs,
      random: seededRandom(options.seed),
      source,
      blocks,
      repository: await openRepository(createFileStore({ dir: source.store }), { signal: NEVER }),
      trusted: [parsePublicKey(key, 'the key of the source')],
      verified: new Set(),
      lasts,
      report,
    });
    return report;
  } finally {
    blocks.end();
    await source.end();
  }
}

async function killMany(world: World): Promise<void> {
  const { count, report, source, budgetMs, log } = world;
  const { violations } = report;
  report.windowMs = Math.round(world.lasts.intent);
  const started = performance.now();
  for (let n = 0; report.kills < count; n++) {
    if (n > 3 * count + 8) {
      violations.push('most kills came too late');
      break;
    }
    const victims = VICTIMS[n % VICTIMS.length];
    const aim = AIMS[Math.floor(n / VICTIMS.length) % AIMS.length];
    if (victims === undefined || aim === undefined) break;
    const told = violations.length;
    const what = await killOnce(world, victims, victims.again ? 'held' : aim);
    log(`${world.backend} ${world.strategy} ${report.kills}/${count} ${what}`);
    for (const violation of violations.slice(told)) log(`  ${violation}`);
  }
  report.secondsPerKill = toTenths((performance.now() - started) / 1000 / Math.max(1, report.kills));
  report.snapshots = world.verified.size;
  violations.push(...(await problemsOf(world, undefined)));
  // One whose presync was killed just before it took it away finds no intent, and goes.
  await sleep(budgetMs + SLACK_MS);
  for (const unit of await deadmanUnits(source)) violations.push(`${unit} is left`);
}

/** Kills a run, looks at what must hold afterwards, and tells what was done. */
async function killOnce(world: World, victims: Victims, aim: Aim): Promise<string> {
  const { source, report, blocks, strategy, budgetMs } = world;
  blocks.reset();
  const run = begin(source);
  const begun = performance.now();
  await untilInstant(world, aim, run);
  const [held, intent] = [source.isHeld(), pendingIntents(source).length > 0];
  // The machine may be less busy than it was when that was measured.
  if (aim !== 'run' && !intent) world.lasts[aim] *= MISSED;
  if (run.ended) {
    report.tooLate += 1;
    world.lasts.run = Math.min(world.lasts.run, performance.now() - begun);
    if (run.failure !== undefined) report.violations.push(`a run that nobody killed failed: ${run.failure}`);
    return `${victims.name}, ${aim}: too late`;
  }
  const since = new Date().toISOString();
  source.machine.kill(PRESYNC, victims.which);
  report.kills += 1;
  report.victims[victims.name] = (report.victims[victims.name] ?? 0) + 1;
  if (intent) report.inPause += 1;
  if (held) report.foundHeld += 1;

  const what = `${victims.name}, ${aim}${held ? ', the node was held' : intent ? ', in the pause' : ''}`;
  const violate = (text: string): void => void report.violations.push(`${what}, ${since}: ${text}`);
  const seconds = await untilFree(world, victims);
  if (seconds > (budgetMs + SLACK_MS) / 1000) violate(`the node was held for ${seconds.toFixed(1)} s`);
  if (held) report.longestStop = Math.max(report.longestStop, toTenths(seconds));
  if (!(await blocks.next())) violate('the node makes no block');
  const failure = await nextRun(world, since);
  if (failure !== undefined) violate(failure);
  const left = leftByPauses(source);
  if (left.length > 0) violate(`${left.join(', ')} is left`);
  if (source.isHeld()) violate('the node is held although nothing runs');
  const hole = toTenths(blocks.longest());
  report.longestHole = Math.max(report.longestHole, hole);
  // One that was stopped takes as long as it takes until it makes blocks.
  if (strategy !== 'stop' && hole > (budgetMs + SLACK_MS) / 1000) violate(`no block came for ${hole} s`);
  for (const problem of await newProblems(world)) violate(problem);
  return `${what}: hole ${hole} s`;
}

interface Run {
  ended: boolean;
  /** Why it did not publish; also when its presync was killed. */
  failure: string | undefined;
  done: Promise<void>;
}

/** Has the daemon begin a run. */
function begin({ state }: SourceMachine): Run {
  const run: Run = { ended: false, failure: undefined, done: Promise.resolve() };
  run.done = askRun({ stateDir: state, signal: NEVER, onProgress: () => {} })
    .then(
      () => undefined,
      (error: unknown) => messageOf(error),
    )
    .then((failure) => Object.assign(run, { ended: true, failure }))
    .then(() => undefined);
  return run;
}

async function untilInstant({ source, random, lasts }: World, aim: Aim, run: Run): Promise<void> {
  const some = random() * lasts[aim];
  if (aim !== 'run') while (!run.ended && pendingIntents(source).length === 0) await sleep(1);
  if (aim !== 'held') return Promise.race([run.done, sleep(some, undefined, { ref: false })]);
  // Holding still takes milliseconds, so that is no place to sleep; and every other kill comes at once.
  while (!run.ended && !source.isHeld()) await nextTurn();
  const instant = performance.now() + (random() < 0.5 ? 0 : some);
  while (!run.ended && performance.now() < instant) await nextTurn();
}

/** Waits until the node is held no more, and tells after how many seconds; gives up when the budget is over and it has had some time more. */
async function untilFree({ source, budgetMs }: World, { again }: Victims): Promise<number> {
  const started = performance.now();
  const passed = (): number => performance.now() - started;
  let free: number | undefined;
  while (passed() <= budgetMs + 2 * SLACK_MS) {
    if (!source.isHeld()) free ??= passed();
    else free = undefined;
    if (free !== undefined && !(again && pendingIntents(source).length > 0)) break;
    if (again) source.machine.kill(PRESYNC);
    await sleep(2);
  }
  return (free ?? passed()) / 1000;
}

/** Waits for the first run that was begun after the kill, beginning it if nobody does. Tells why it did not end well. */
async function nextRun({ source, strategy, blocks }: World, since: string): Promise<string | undefined> {
  const deadline = performance.now() + PATIENCE_MS;
  while (performance.now() < deadline) {
    const status = await askStatus({ stateDir: source.state, signal: NEVER }).catch((error: unknown) => {
      // The daemon is being started, or was killed just now.
      if (isPresyncError(error, 'DAEMON_NOT_FOUND') || isPresyncError(error, 'IO_FAILED')) return undefined;
      throw error;
    });
    if (status === undefined || status.run !== null) {
      await sleep(50);
      continue;
    }
    const [last] = status.runs;
    if (last !== undefined && last.started > since) {
      if (last.outcome === 'published') return undefined;
      const why = `the next run ended as ${last.outcome}: ${last.code} ${last.reason}`;
      if (strategy !== 'stop' || last.outcome !== 'skipped') return why;
      // The node may need a while until it answers, and so makes blocks.
      await blocks.next();
    }
    await begin(source).done;
  }
  return `no run ended well within ${PATIENCE_MS / 1000} s`;
}

/** A node that is started anew after each takes its time. */
const MEASURED_RUNS: Record<UnitPause, number> = { signal: 4, freeze: 4, stop: 1 };

/** Has runs done that nobody kills, and tells how long their parts last. */
async function measure(source: SourceMachine, report: UnitPauseReport): Promise<World['lasts']> {
  const shortest = { held: Infinity, intent: Infinity, run: Infinity };
  for (let n = 0; n < MEASURED_RUNS[source.pause]; n++) {
    await untilAnswers(source);
    const run = begin(source);
    const seen: Partial<Record<Aim, { first: number; last: number }>> = {};
    const see = (part: Aim): void => {
      const last = performance.now();
      seen[part] = { first: seen[part]?.first ?? last, last };
    };
    while (!run.ended) {
      const intent = pendingIntents(source).length > 0;
      see('run');
      if (intent) see('intent');
      if (source.isHeld()) see('held');
      // Only a pause is so short that it needs a look at each turn.
      await (intent ? nextTurn() : sleep(1));
    }
    if (run.failure !== undefined) report.violations.push(`a run that nobody killed failed: ${run.failure}`);
    for (const part of AIMS) {
      const { first, last } = seen[part] ?? { first: 0, last: 0 };
      shortest[part] = Math.min(shortest[part], last - first);
    }
  }
  return shortest;
}

async function untilAnswers({ state }: SourceMachine): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      await askStatus({ stateDir: state, signal: NEVER });
      return;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await sleep(50);
    }
  }
}

async function newProblems(world: World): Promise<string[]> {
  const problems: string[] = [];
  for (const sequence of await world.source.snapshots()) {
    if (world.verified.has(sequence)) continue;
    world.verified.add(sequence);
    problems.push(...(await problemsOf(world, sequence)));
  }
  return problems;
}

/** Of one snapshot, read whole; or of all that is there, of which samples are read. */
async function problemsOf(world: World, snapshot: number | undefined): Promise<string[]> {
  const { problems } = await verifyRepository({
    repository: world.repository,
    channel: `dev/${world.backend}`,
    snapshot,
    trusted: world.trusted,
    seenOf: async () => undefined,
    scope: snapshot === undefined ? 'sample' : 'full',
    scratchDir: join(world.dir, 'verify'),
    signal: NEVER,
  });
  return problems.map(({ code, message }) => `${code} ${message}`);
}

interface Blocks {
  /** Waits for one more; false when none comes in time. */
  next(): Promise<boolean>;
  /** The longest time without one since the last `reset`, seconds. */
  longest(): number;
  reset(): void;
  end(): void;
}

/** The blocks that the node's own log tells of, as they come. */
function followBlocks(machine: Machine): Blocks {
  const child = machine.start('journalctl', '--follow', '--lines=0', '--output=cat', `--unit=${NODE}`);
  let count = 0;
  let last = performance.now();
  let longest = 0;
  const passed = (): number => performance.now() - last;
  if (child.stdout !== null)
    createInterface({ input: child.stdout }).on('line', (line) => {
      if (!/Imported #\d+/.test(line)) return;
      longest = Math.max(longest, passed());
      last = performance.now();
      count += 1;
    });
  return {
    async next() {
      const [before, deadline] = [count, performance.now() + PATIENCE_MS];
      while (count === before && performance.now() < deadline) await sleep(20);
      return count > before;
    },
    longest: () => Math.max(longest, passed()) / 1000,
    reset: () => {
      longest = 0;
      last = performance.now();
    },
    end: () => child.kill('SIGKILL'),
  };
}

function toTenths(seconds: number): number {
  return Math.round(seconds * 10) / 10;
}
