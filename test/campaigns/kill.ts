/**
 * SIGKILL to presync at random instants of a snapshot of a running node, and of a restore. After each: the node runs within the
 * budget, no manifest names a missing or wrong chunk, no half database can be opened, and the next run ends well.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { seededRandom } from '../support/corruption.ts';
import { presync, presyncOk, type RunningPresync, startPresync } from '../support/presync.ts';
import { type FixtureBackend, type RealNode, startNode } from '../support/real-node.ts';

export interface KillOptions {
  backend: FixtureBackend;
  /** Kills of a snapshot, and as many of a restore. */
  count: number;
  seed: number;
  /** Scratch folder. */
  dir: string;
  log: (line: string) => void;
}

export interface KillReport {
  backend: FixtureBackend;
  snapshotKills: number;
  /** Kills that hit while the node was paused or the pause was being prepared. */
  inPause: number;
  restoreKills: number;
  /** Kills that came too late: the run had ended. */
  tooLate: number;
  /** Seconds until the node was seen running after a kill that found it stopped. */
  longestStop: number;
  resumedRestores: number;
}

/** The pause budget that is given to presync, and the slack for seeing it from outside, milliseconds. */
const BUDGET_MS = 2000;
const SLACK_MS = 1000;

export async function killCampaign(options: KillOptions): Promise<KillReport> {
  const { backend, dir, seed } = options;
  const random = seededRandom(seed);
  const report: KillReport = {
    backend,
    snapshotKills: 0,
    inPause: 0,
    restoreKills: 0,
    tooLate: 0,
    longestStop: 0,
    resumedRestores: 0,
  };
  await mkdir(dir, { recursive: true });
  const key = join(dir, 'key.pem');
  await presyncOk(['keys', 'new', '--out', key]);
  const trust = (await presyncOk(['keys', 'public', key])).stdout.trim();
  const world: World = {
    ...options,
    random,
    report,
    key,
    trust,
    base: join(dir, 'source'),
    store: `file://${join(dir, 'store')}`,
    state: join(dir, 'state'),
  };
  const node = await startNode({ basePath: world.base, backend, blockTimeMs: 100 });
  try {
    await killSnapshots(world, node);
  } finally {
    await node.stop();
  }
  await killRestores(world);
  return report;
}

interface World extends KillOptions {
  random: () => number;
  report: KillReport;
  key: string;
  trust: string;
  base: string;
  store: string;
  state: string;
}

function snapshotArgs(world: World, node: RealNode): string[] {
  return [
    ...[
      'snapshot',
      '--base-path',
      world.base,
      '--store',
      world.store,
      '--pause',
      'signal',
      '--pid',
      String(node.pid),
    ],
    ...[
      '--rpc',
      node.wsUrl,
      '--sign-key',
      world.key,
      '--state-dir',
      world.state,
      '--pause-budget',
      `${BUDGET_MS}ms`,
    ],
    ...['--anchor-age', '0s', '--chunk-size', '64KiB', '--json'],
  ];
}

async function killSnapshots(world: World, node: RealNode): Promise<void> {
  const { random, report, log, count } = world;
  let whole = (await presyncOk(snapshotArgs(world, node))).seconds;
  for (let run = 1; report.snapshotKills < count; run++) {
    assert.ok(run <= 3 * count, 'most kills came too late');
    const running = startPresync(snapshotArgs(world, node));
    // A third of the kills aim at the pause, which is a few milliseconds of a run.
    const aimed = run % 3 === 0;
    if (aimed) {
      await untilIntent(world.state, running);
      await sleep(random() * 40);
    } else {
      await sleep(random() * whole * 1000);
    }
    const stopped = isStopped(node.pid);
    running.child.kill('SIGKILL');
    const outcome = await running.done;
    if (outcome.signal === 'SIGKILL') {
      report.snapshotKills += 1;
    } else {
      report.tooLate += 1;
      whole = Math.min(whole, outcome.seconds);
    }
    if (stopped || aimed) report.inPause += 1;

    const seconds = await untilRunning(node.pid);
    if (stopped) report.longestStop = Math.max(report.longestStop, seconds);
    const before = await node.best();
    await untilBlock(node, before + 1);
    await assertSound(world, `snapshot kill ${run}`, run % 10 === 0 ? 'all' : 'latest');
    const next = await presync(snapshotArgs(world, node));
    assert.equal(next.code, 0, `the run after snapshot kill ${run} failed: ${next.stdout} ${next.stderr}`);
    if (run % 10 === 0) log(`${world.backend}: ${report.snapshotKills} of ${count} snapshot kills`);
  }
  await assertSound(world, 'the last snapshot kill', 'all');
}

/** Waits until presync has recorded that it is about to pause the node, or has ended. */
async function untilIntent(state: string, running: RunningPresync): Promise<void> {
  let ended = false;
  void running.done.then(() => {
    ended = true;
  });
  while (!ended) {
    if (existsSync(state) && readdirSync(state).some((name) => /^pause-.*\.json$/.test(name))) return;
    await sleep(1);
  }
}

function isStopped(pid: number): boolean {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  return text.slice(text.lastIndexOf(')') + 2, text.lastIndexOf(')') + 3) === 'T';
}

async function untilRunning(pid: number): Promise<number> {
  const started = performance.now();
  while (isStopped(pid)) {
    const waited = performance.now() - started;
    assert.ok(
      waited < BUDGET_MS + SLACK_MS,
      `the node is still stopped ${Math.round(waited)} ms after presync was killed`,
    );
    await sleep(2);
  }
  return (performance.now() - started) / 1000;
}

async function untilBlock(node: RealNode, number: number): Promise<void> {
  const deadline = performance.now() + 60_000;
  while ((await node.best()) < number) {
    assert.ok(performance.now() < deadline, `the node makes no block ${number}: ${node.log()}`);
    await sleep(20);
  }
}

/**
 * No manifest may name a chunk that is missing or wrong. The newest snapshot is verified after each kill; all of them, those included that
 * were killed before they were promoted, every tenth time and at the end: what is stored never changes, so that is as good.
 */
async function assertSound(world: World, after: string, which: 'latest' | 'all'): Promise<void> {
  const { store, trust, state, backend } = world;
  const only = which === 'latest' ? ['--channel', `dev/${backend}`, '--snapshot', 'latest'] : [];
  const outcome = await presync([
    'verify',
    '--store',
    store,
    '--trust',
    trust,
    '--state-dir',
    state,
    '--json',
    ...only,
  ]);
  const { problems } = outcome.json as { problems: { code: string; message: string }[] };
  const serious = problems.filter(({ code }) => code !== 'MANIFEST_ROLLED_BACK');
  assert.deepEqual(serious, [], `after ${after}`);
}

async function killRestores(world: World): Promise<void> {
  const { random, report, log, count, dir, backend } = world;
  const target = join(dir, 'target');
  const database = join(target, 'chains/dev', backend === 'rocksdb' ? 'db' : 'paritydb', 'full');
  const seal = join(database, backend === 'rocksdb' ? 'CURRENT' : 'metadata');
  const args = [
    'restore',
    '--base-path',
    target,
    '--store',
    world.store,
    '--trust',
    world.trust,
    '--state-dir',
    join(dir, 'agent'),
    '--json',
  ];
  const first = await presyncOk(args);
  /** Seconds of a run that nobody kills; the shortest that was seen, since other work may have slowed the first one down. */
  let whole = first.seconds;
  const reference = join(dir, 'reference');
  execFileSync('cp', ['-a', '--sparse=always', target, reference]);
  for (let run = 1; report.restoreKills < count; run++) {
    assert.ok(run <= 3 * count, 'most kills came too late');
    await rm(target, { recursive: true, force: true });
    // Node's own start takes a good part of such a short run; most kills shall hit the restore itself.
    const early = run % 5 === 0;
    const running = startPresync(args);
    await sleep((early ? random() : 0.25 + 0.75 * random()) * whole * 1000);
    running.child.kill('SIGKILL');
    const outcome = await running.done;
    if (outcome.signal === 'SIGKILL') {
      report.restoreKills += 1;
    } else {
      report.tooLate += 1;
      whole = Math.min(whole, outcome.seconds);
    }
    // Whatever is at the database's place is either nothing or whole: the seal stands for a database that can be opened.
    if (existsSync(seal)) assertSame(reference, target, database, `restore kill ${run}`);
    else
      assert.ok(!existsSync(database), `restore kill ${run} left a folder without its seal at ${database}`);
    const next = await presync(existsSync(seal) ? [...args, '--existing', 'keep'] : args);
    assert.equal(next.code, 0, `the run after restore kill ${run} failed: ${next.stdout} ${next.stderr}`);
    const { restored } = next.json as { restored: { resumedChunks: number; wasSealed: boolean } | null };
    if (restored !== null && (restored.resumedChunks > 0 || restored.wasSealed)) report.resumedRestores += 1;
    assertSame(reference, target, database, `the restore after kill ${run}`);
    if (run % 10 === 0) log(`${backend}: ${report.restoreKills} of ${count} restore kills`);
  }
  // The copy must also be one that the real node opens.
  const anchor = (first.json as { anchor: { number: number; hash: string } }).anchor;
  const node = await startNode({ basePath: target, backend, blockTimeMs: 100 });
  try {
    assert.equal(await node.call('chain_getBlockHash', anchor.number), anchor.hash);
    await untilBlock(node, (await node.best()) + 3);
  } finally {
    await node.stop();
  }
}

function assertSame(reference: string, target: string, database: string, when: string): void {
  const part = database.slice(target.length);
  try {
    execFileSync('diff', ['-r', join(reference, part), database], { stdio: 'pipe' });
  } catch (error) {
    assert.fail(`${when}: ${error instanceof Error && 'stdout' in error ? String(error.stdout) : error}`);
  }
}
