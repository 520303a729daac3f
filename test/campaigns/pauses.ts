/**
 * SIGKILL to presync at random instants of a snapshot of the real node, most of them aimed at the pause, under each strategy that this machine can
 * run. After each: the node runs within the budget and makes blocks, no bad manifest is visible, and the next run ends well and leaves no intent.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freezerRoot, makeCgroup } from '../../packages/node/test/support/cgroups.ts';
import { hasFileSystem } from '../../packages/node/test/support/filesystems.ts';
import { isStopped } from '../../packages/node/test/support/processes.ts';
import { seededRandom } from '../support/corruption.ts';
import { startDockerEngine } from '../support/docker-engine.ts';
import { presync, presyncOk, type RunningPresync, startPresync } from '../support/presync.ts';
import { type FixtureBackend, type RealNode, startNode } from '../support/real-node.ts';

export interface PausesOptions {
  backend: FixtureBackend;
  /** Kills for each strategy. */
  count: number;
  seed: number;
  /** Scratch folder. */
  dir: string;
  log: (line: string) => void;
}

export interface PauseReport {
  strategy: string;
  backend: FixtureBackend;
  kills: number;
  /** Kills that found the node held. */
  foundHeld: number;
  /** Kills while an intent was on disk. */
  inPause: number;
  /** Runs that had ended before they were killed. */
  tooLate: number;
  /** Milliseconds from intent to its removal in a run that nobody killed. */
  windowMs: number;
  /** Seconds until the node was seen running after a kill that found it held. */
  longestStop: number;
}

/** The pause budget that is given to presync, and the slack for seeing it from outside on a busy machine, milliseconds. */
const BUDGET_MS = 3000;
const SLACK_MS = 3000;

interface Scene {
  strategy: string;
  args: string[];
  isHeld(): boolean;
  close(): Promise<void>;
}

interface World extends PausesOptions {
  random: () => number;
  node: RealNode;
  base: string;
  /** Where a snapshot of the base path's subvolume can be made; undefined when that is not on btrfs. */
  copy: string | undefined;
  key: string;
  trust: string;
  store: string;
  state: string;
}

export async function pausesCampaign(options: PausesOptions): Promise<PauseReport[]> {
  const { dir, backend } = options;
  await mkdir(dir, { recursive: true });
  const key = join(dir, 'key.pem');
  await presyncOk(['keys', 'new', '--out', key]);
  const trust = (await presyncOk(['keys', 'public', key])).stdout.trim();
  const disk = makeDisk(dir);
  try {
    const node = await startNode({ basePath: disk.base, backend, blockTimeMs: 100 });
    try {
      return await killUnderEach({
        ...options,
        ...disk,
        random: seededRandom(options.seed),
        node,
        key,
        trust,
        store: `file://${join(dir, 'store')}`,
        state: join(dir, 'state'),
      });
    } finally {
      await node.stop();
    }
  } finally {
    disk.remove();
  }
}

async function killUnderEach(world: World): Promise<PauseReport[]> {
  const reports: PauseReport[] = [];
  await untilBlock(world.node, 5);
  for (const open of SCENES) {
    const scene = await open(world);
    if (scene === undefined) continue;
    try {
      reports.push(await killUnder(world, scene));
    } finally {
      await scene.close();
    }
  }
  return reports;
}

/** btrfs on a loop device where it can be had, so that hooks can make snapshots. The node wants a gigabyte to be free. */
function makeDisk(dir: string): { base: string; copy: string | undefined; remove(): void } {
  if (!hasFileSystem('btrfs')) return { base: join(dir, 'source'), copy: undefined, remove: () => {} };
  const [image, mountpoint] = [join(dir, 'image'), join(dir, 'disk')];
  writeFileSync(image, '');
  truncateSync(image, 4 * 2 ** 30);
  mkdirSync(mountpoint);
  must('mkfs.btrfs', '-q', image);
  must('mount', '-o', 'loop', image, mountpoint);
  const base = join(mountpoint, 'source');
  must('btrfs', 'subvolume', 'create', base);
  return {
    base,
    copy: join(mountpoint, 'copy'),
    remove: () => {
      must('umount', mountpoint);
      rmSync(image);
    },
  };
}

const RECIPE = resolve(import.meta.dirname, '../../deploy/hooks/btrfs.sh');

/** Each gives undefined where this machine cannot run it. */
const SCENES: ((world: World) => Promise<Scene | undefined>)[] = [
  async ({ node }) => ({
    strategy: 'signal',
    args: ['--pause', 'signal'],
    isHeld: () => isStopped(node.pid),
    close: async () => {},
  }),
  async (world) => freezing(world, 2),
  async (world) => freezing(world, 1),
  async ({ dir, node }) => {
    const socket = join(dir, 'docker.sock');
    const engine = await startDockerEngine({ socket, name: 'node', command: { pid: node.pid } });
    return {
      strategy: 'docker (a stand-in for the engine)',
      args: ['--pause', 'docker', '--container', 'node', '--docker-socket', socket],
      isHeld: () => isStopped(node.pid),
      close: () => engine.close(),
    };
  },
  async ({ node: { pid } }) => ({
    strategy: 'hooks: SIGSTOP and SIGCONT',
    args: [
      ...['--pause', 'hooks', '--hook-before', stopWhole(pid)],
      ...['--hook-after', `kill -CONT ${pid}`],
    ],
    isHeld: () => isStopped(pid),
    close: async () => {},
  }),
  async ({ base, copy }) => {
    if (copy === undefined) return undefined;
    return {
      strategy: 'hooks: a btrfs snapshot',
      args: [
        ...['--pause', 'hooks', '--hook-view', copy],
        ...['--hook-before', `'${RECIPE}' before '${base}' '${copy}'`],
        ...['--hook-after', `'${RECIPE}' after '${base}' '${copy}'`],
      ],
      // The node runs all the time: what must go is the copy.
      isHeld: () => existsSync(copy),
      close: async () => {},
    };
  },
];

/** The signal is sent and not yet obeyed when `kill` ends: on a busy machine threads may write for a while. */
function stopWhole(pid: number): string {
  return `kill -STOP ${pid}; while grep -L '^State:.T' /proc/${pid}/task/*/status | grep -q .; do sleep 0.01; done`;
}

async function freezing({ node }: World, version: 1 | 2): Promise<Scene | undefined> {
  const root = freezerRoot(version);
  if (root === undefined) return undefined;
  const cgroup = makeCgroup(version, `presync-campaign-${process.pid}`);
  cgroup.add(node.pid);
  return {
    strategy: `freeze: cgroup v${version}`,
    args: ['--pause', 'freeze'],
    isHeld: cgroup.isFrozen,
    close: async () => {
      cgroup.thaw();
      writeFileSync(join(root, 'cgroup.procs'), String(node.pid));
      cgroup.remove();
    },
  };
}

function snapshotArgs(world: World, scene: Scene): string[] {
  return [
    ...['snapshot', '--base-path', world.base, '--store', world.store, '--rpc', world.node.wsUrl],
    ...['--sign-key', world.key, '--state-dir', world.state, '--pause-budget', `${BUDGET_MS}ms`],
    ...['--anchor-age', '0s', '--chunk-size', '64KiB', '--json', ...scene.args],
  ];
}

async function killUnder(world: World, scene: Scene): Promise<PauseReport> {
  const { node, count, random, log, backend } = world;
  const args = snapshotArgs(world, scene);
  const report: PauseReport = {
    strategy: scene.strategy,
    backend,
    kills: 0,
    foundHeld: 0,
    inPause: 0,
    tooLate: 0,
    windowMs: await measureWindow(world, args),
    longestStop: 0,
  };
  let whole = (await presyncOk(args)).seconds;
  for (let run = 1; report.kills < count; run++) {
    assert.ok(run <= 4 * count + 4, `${scene.strategy}: most kills came too late`);
    const when = `${scene.strategy}, kill ${run}`;
    const running = startPresync(args);
    // Three of four aim at the pause, which is a small part of a run.
    if (run % 4 === 0) await sleep(random() * whole * 1000);
    else {
      await untilIntent(world.state, running);
      await sleep(random() * report.windowMs);
    }
    const held = scene.isHeld();
    const intent = intents(world.state).length > 0;
    running.child.kill('SIGKILL');
    const outcome = await running.done;
    if (outcome.signal === 'SIGKILL') report.kills += 1;
    else {
      report.tooLate += 1;
      whole = Math.min(whole, outcome.seconds);
    }
    if (outcome.signal === 'SIGKILL' && intent) report.inPause += 1;
    if (outcome.signal === 'SIGKILL' && held) report.foundHeld += 1;

    const seconds = await untilFree(scene, when);
    if (held) report.longestStop = Math.max(report.longestStop, seconds);
    await untilBlock(node, (await node.best()) + 1);
    await assertSound(world, when);
    const next = await presync(args);
    assert.equal(next.code, 0, `the run after ${when} failed: ${next.stdout} ${next.stderr}`);
    assert.deepEqual(intents(world.state), [], `after ${when}`);
    assert.ok(!scene.isHeld(), `after ${when}`);
    log(`${when}: ${outcome.signal ?? 'too late'}${held ? ', the node was held' : ''}`);
  }
  return report;
}

async function measureWindow(world: World, args: string[]): Promise<number> {
  const running = startPresync(args);
  await untilIntent(world.state, running);
  const start = performance.now();
  while (intents(world.state).length > 0) await sleep(1);
  const window = performance.now() - start;
  const outcome = await running.done;
  assert.equal(outcome.code, 0, `${outcome.stdout} ${outcome.stderr}`);
  return Math.round(window);
}

/** Waits until presync has recorded that it is about to pause the node, or has ended. */
async function untilIntent(state: string, running: RunningPresync): Promise<void> {
  let ended = false;
  void running.done.then(() => {
    ended = true;
  });
  while (!ended && intents(state).length === 0) await sleep(1);
}

function intents(state: string): string[] {
  return existsSync(state) ? readdirSync(state).filter((name) => /^(?:pause|hook)-/.test(name)) : [];
}

async function untilFree(scene: Scene, when: string): Promise<number> {
  const started = performance.now();
  while (scene.isHeld()) {
    const waited = performance.now() - started;
    assert.ok(
      waited < BUDGET_MS + SLACK_MS,
      `${when}: the node is still held after ${Math.round(waited)} ms`,
    );
    await sleep(2);
  }
  return (performance.now() - started) / 1000;
}

async function untilBlock(node: RealNode, number: number): Promise<void> {
  const deadline = performance.now() + 120_000;
  while ((await node.best()) < number) {
    assert.ok(performance.now() < deadline, `the node makes no block ${number}: ${node.log()}`);
    await sleep(20);
  }
}

async function assertSound({ store, trust, state, backend }: World, when: string): Promise<void> {
  const outcome = await presync([
    ...['verify', '--store', store, '--trust', trust, '--state-dir', state, '--json'],
    ...['--channel', `dev/${backend}`, '--snapshot', 'latest'],
  ]);
  const { problems } = outcome.json as { problems: { code: string; message: string }[] };
  const serious = problems.filter(({ code }) => code !== 'MANIFEST_ROLLED_BACK');
  assert.deepEqual(serious, [], `after ${when}`);
}

function must(command: string, ...args: string[]): void {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  assert.equal(status, 0, `${command} ${args.join(' ')}: ${error?.message ?? stderr}`);
}
