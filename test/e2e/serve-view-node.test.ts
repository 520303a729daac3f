/**
 * A running node offers its database: it is paused for a moment and goes on making blocks while others restore from the frozen view; what they get is
 * the view, byte for byte, and a second node opens it. Killed at any instant, presync leaves neither a paused node nor, in the end, a view.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { needs } from '../support/needs.ts';
import { startPeer } from '../support/peer.ts';
import { freePorts } from '../support/ports.ts';
import { presyncOk, startPresync } from '../support/presync.ts';
import {
  DEV_GENESIS,
  devChainSpec,
  type FixtureBackend,
  hasNode,
  nodeExecutable,
  type RealNode,
  startNode,
} from '../support/real-node.ts';
import { assertSameDatabase } from '../support/tree.ts';

const BUDGET_MS = 2000;

interface Scene {
  dir: string;
  node: RealNode;
  database: string;
  views: string;
  state: string;
  view: string[];
  trust: string;
}

async function scene(t: TestContext, backend: FixtureBackend): Promise<Scene> {
  const dir = await mkdtemp(join(tmpdir(), `presync-serve-node-${backend}-`));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const key = join(dir, 'key.pem');
  await presyncOk(['keys', 'new', '--out', key]);
  const base = join(dir, 'source');
  const node = await startNode({ basePath: base, backend, blockTimeMs: 100 });
  t.after(() => node.kill());
  await untilBlock(node, 30);
  const folder = backend === 'rocksdb' ? 'chains/dev/db' : 'chains/dev/paritydb';
  const state = join(dir, 'state');
  return {
    dir,
    node,
    database: `${folder}/full`,
    views: join(base, folder, '.presync'),
    state,
    view: [
      ...['--base-path', base, '--pause', 'signal', '--pid', String(node.pid), '--rpc', node.wsUrl],
      ...['--genesis', DEV_GENESIS, '--sign-key', key, '--state-dir', state, '--anchor-age', '1s'],
      ...['--pause-budget', `${BUDGET_MS}ms`, '--chunk-size', '64KiB'],
    ],
    trust: (await presyncOk(['keys', 'public', key])).stdout.trim(),
  };
}

describe('presync serve --base-path with the real node', () => {
  for (const backend of ['rocksdb', 'paritydb'] as const) {
    it(
      `${backend}: others restore from it while it makes blocks, and what they restore comes up`,
      needs('a node executable', hasNode()),
      async (t) => {
        const { dir, node, database, views, view, trust } = await scene(t, backend);
        const peer = await startPeer(t, view);
        const offered = await node.best();
        const [name = ''] = await readdir(views);
        const target = join(dir, 'target');
        const agent = ['--trust', trust, '--state-dir', join(dir, 'agent')];
        await presyncOk(['restore', '--base-path', target, '--store', peer.url, ...agent]);
        await assertSameDatabase(join(views, name), join(target, database));
        const { json } = await presyncOk(['show', '--store', peer.url, ...agent, '--json']);
        const { chain, pause, node: facts } = (json as { manifest: Manifest }).manifest;
        assert.equal(chain.genesisHash, DEV_GENESIS);
        assert.equal(facts.statePruning, 'archive');
        assert.ok(pause.seconds < BUDGET_MS / 1000, `${pause.seconds} s`);
        await untilBlock(node, offered + 20);

        // A snapshot of the same node, which is paused a second time for it.
        const store = `file://${join(dir, 'store')}`;
        await presyncOk(['snapshot', ...view, '--store', store]);
        assert.deepEqual(await readdir(views), [name]);
        const later = join(dir, 'later');
        const bootstrapped =
          backend === 'rocksdb'
            ? await bootstrap(t, { dir, store: peer.url, target: later, agent })
            : undefined;
        if (bootstrapped === undefined) {
          await presyncOk(['restore', '--base-path', later, '--store', peer.url, ...agent]);
          await assertSameDatabase(join(views, name), join(later, database));
        } else {
          assert.deepEqual(bootstrapped.anchor, chain.anchor);
          assert.ok(bootstrapped.ready.head.number >= chain.anchor.number);
        }

        peer.running.child.kill('SIGTERM');
        assert.equal((await peer.running.done).code, 143);
        assert.equal(existsSync(views), false);
        await untilBlock(node, (await node.best()) + 5);
        await node.stop();
        if (bootstrapped !== undefined) return;
        const restored = await startNode({ basePath: target, backend, blockTimeMs: 100 });
        try {
          assert.equal(await restored.call('chain_getBlockHash', chain.anchor.number), chain.anchor.hash);
          await untilBlock(restored, (await restored.best()) + 5);
        } finally {
          await restored.stop();
        }
      },
    );
  }

  it(
    'killed in the pause and at other instants, the node runs on, and the next start clears up',
    needs('a node executable', hasNode()),
    async (t) => {
      const { dir, node, database, views, state, view, trust } = await scene(t, 'rocksdb');
      const serve = ['serve', ...view, '--listen', '127.0.0.1:0', '--admin-listen', 'none'];
      for (const wait of [0, 5, 20, 'freeze', 'reading', 'reading'] as const) {
        // Those that the last kill has left do not count.
        const before = new Set([...intents(state), ...viewsIn(views)]);
        const running = startPresync(serve);
        const seen = typeof wait === 'number' ? () => intents(state) : () => viewsIn(views);
        await until(() => seen().some((name) => !before.has(name)));
        await sleep(wait === 'reading' ? 1200 : wait === 'freeze' ? 0 : wait);
        running.child.kill('SIGKILL');
        await running.done;
        const killed = performance.now();
        await until(() => !isStopped(node.pid));
        assert.ok(performance.now() - killed < BUDGET_MS + 1000, 'the node stood still for too long');
        await untilBlock(node, (await node.best()) + 2);
      }
      const peer = await startPeer(t, view);
      const names = await readdir(views);
      assert.equal(names.length, 1, 'views of killed processes are left');
      assert.deepEqual(intents(state), []);
      const target = join(dir, 'target');
      await presyncOk([
        ...['restore', '--base-path', target, '--store', peer.url, '--trust', trust],
        ...['--state-dir', join(dir, 'agent')],
      ]);
      await assertSameDatabase(join(views, names[0] ?? ''), join(target, database));
    },
  );

  it('two that pause the node at once take turns', needs('a node executable', hasNode()), async (t) => {
    const { dir, node, view } = await scene(t, 'rocksdb');
    const store = `file://${join(dir, 'store')}`;
    const other = view.with(view.indexOf('--state-dir') + 1, join(dir, 'other-state'));
    for (let n = 0; n < 3; n++) {
      const [peer] = await Promise.all([
        startPeer(t, view),
        presyncOk(['snapshot', ...other, '--store', store]),
      ]);
      peer.running.child.kill('SIGTERM');
      await peer.running.done;
    }
    await untilBlock(node, (await node.best()) + 2);
  });
});

/** `presync bootstrap` from a peer: what it reports of the node that it started, once that is ready. */
async function bootstrap(
  t: TestContext,
  { dir, store, target, agent }: { dir: string; store: string; target: string; agent: string[] },
): Promise<{ anchor: unknown; ready: { head: { number: number } } }> {
  const [rpcPort, p2pPort] = await freePorts(2);
  const report = join(dir, 'report.json');
  const running = startPresync([
    ...['bootstrap', '--base-path', target, '--store', store, ...agent, '--report', report],
    ...['--rpc', `ws://127.0.0.1:${rpcPort}`, '--admin-listen', 'none', '--', await nodeExecutable()],
    ...['--chain', await devChainSpec(), '--dev', '--dev-block-time', '500', '--pool-type', 'single-state'],
    ...['--state-pruning', 'archive', '--blocks-pruning', 'archive', '--database', 'rocksdb'],
    ...['--base-path', target, '--rpc-port', String(rpcPort)],
    ...['--listen-addr', `/ip4/127.0.0.1/tcp/${p2pPort}`, '--no-mdns', '--no-telemetry', '--no-prometheus'],
  ]);
  t.after(() => running.child.kill('SIGTERM'));
  await until(() => existsSync(report) || running.child.exitCode !== null, 240_000);
  const result = JSON.parse(readFileSync(report, 'utf8'));
  running.child.kill('SIGTERM');
  const { code, stderr } = await running.done;
  assert.equal(code, 143, stderr);
  return result;
}

interface Manifest {
  chain: { genesisHash: string; anchor: { number: number; hash: string } };
  node: { statePruning: string };
  pause: { seconds: number };
}

function intents(state: string): string[] {
  return existsSync(state) ? readdirSync(state).filter((name) => /^pause-.*\.json/.test(name)) : [];
}

function viewsIn(views: string): string[] {
  return existsSync(views) ? readdirSync(views) : [];
}

function isStopped(pid: number): boolean {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  return text.charAt(text.lastIndexOf(')') + 2) === 'T';
}

async function until(condition: () => boolean, withinMs = 60_000): Promise<void> {
  const deadline = performance.now() + withinMs;
  while (!condition()) {
    assert.ok(performance.now() < deadline, 'it did not come to that in time');
    await sleep(1);
  }
}

async function untilBlock(node: RealNode, number: number): Promise<void> {
  const deadline = performance.now() + 120_000;
  while ((await node.best()) < number) {
    assert.ok(performance.now() < deadline, `the node makes no block ${number}: ${node.log()}`);
    await sleep(50);
  }
}
