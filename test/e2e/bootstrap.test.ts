/** The agent with the real node: restore, start, wait until it is right, report, look after it; and the ways in which it is not right. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { needs } from '../support/needs.ts';
import { freePort } from '../support/ports.ts';
import { presync, startPresync } from '../support/presync.ts';
import { devChainSpec, hasNode, nodeExecutable } from '../support/real-node.ts';
import { createWorld } from '../support/world.ts';

interface AgentWorld {
  dir: string;
  storeDir: string;
  target: string;
  args: string[];
}

/** A store with a snapshot of the RocksDB fixture, and the arguments of an agent for it. */
async function createAgentWorld(t: TestContext): Promise<AgentWorld> {
  const { dir, storeDir, store, trust } = await createWorld(t);
  const target = join(dir, 'target');
  const args = [
    ...['bootstrap', '--base-path', target, '--store', store, '--trust', trust],
    ...['--state-dir', join(dir, 'agent'), '--admin-listen', 'none'],
  ];
  return { dir, storeDir, target, args };
}

describe('presync bootstrap', () => {
  it(
    'brings a real node up, reports, and stops it when it is stopped',
    needs('a node executable', hasNode()),
    async (t) => {
      const { dir, target, args } = await createAgentWorld(t);
      const [rpcPort, p2pPort, adminPort] = [await freePort(), await freePort(), await freePort()];
      const [report, sealed] = [join(dir, 'report.json'), join(dir, 'run/sealed')];
      const agent = startPresync([
        ...args.slice(0, -1),
        ...[
          `127.0.0.1:${adminPort}`,
          '--rpc',
          `ws://127.0.0.1:${rpcPort}`,
          '--report',
          report,
          '--sealed-file',
          sealed,
          '--drain-time',
          '2s',
          '--',
          await nodeExecutable(),
        ],
        ...[
          '--chain',
          await devChainSpec(),
          '--dev',
          '--dev-block-time',
          '500',
          '--pool-type',
          'single-state',
          '--state-pruning',
          'archive',
        ],
        ...[
          '--blocks-pruning',
          'archive',
          '--database',
          'rocksdb',
          '--base-path',
          target,
          '--rpc-port',
          String(rpcPort),
        ],
        ...[
          '--listen-addr',
          `/ip4/127.0.0.1/tcp/${p2pPort}`,
          '--no-mdns',
          '--no-telemetry',
          '--no-prometheus',
        ],
      ]);
      t.after(() => agent.child.kill('SIGTERM'));
      const readyz = async (): Promise<number> =>
        (await fetch(`http://127.0.0.1:${adminPort}/readyz`)).status;
      let before = 0;
      const deadline = performance.now() + 240_000;
      while (!existsSync(report)) {
        assert.ok(performance.now() < deadline, 'the node did not become ready');
        before ||= await readyz().catch(() => 0);
        await sleep(200);
      }
      assert.equal(before, 503, '/readyz was not red before the node was ready');
      assert.equal(await readyz(), 200);
      const { ready, restored, phases } = JSON.parse(await readFile(report, 'utf8'));
      assert.ok(ready.head.number >= 1208, `the node came up at block ${ready.head.number}`);
      assert.ok(restored.fetchedChunks > 0);
      assert.deepEqual(
        phases.map(({ phase }: { phase: string }) => phase),
        ['resolve', 'preflight', 'lease', 'restore', 'start', 'catch-up', 'join'],
      );
      assert.match(await readFile(sealed, 'utf8'), /"sequence":1/);
      agent.child.kill('SIGTERM');
      const rpcAnswers = async (): Promise<boolean> =>
        fetch(`http://127.0.0.1:${rpcPort}/health`).then(
          () => true,
          () => false,
        );
      while ((await readyz()) === 200) await sleep(10);
      assert.ok(await rpcAnswers(), 'the node was stopped before /readyz was red');
      const { code, stdout } = await agent.done;
      assert.equal(code, 143);
      assert.match(stdout, /The node is ready at block/);
      assert.equal(await rpcAnswers(), false, 'the node still answers');
    },
  );

  it('keeps a whole database, for which it needs no store', async (t) => {
    const { dir, storeDir, target, args } = await createAgentWorld(t);
    const brief = [...args, '--ready-timeout', '1s', '--', 'sleep', '60'];
    const first = await presync(brief);
    assert.match(first.stderr, /restore\.done|the database is in place/);
    await rm(storeDir, { recursive: true });
    const sealed = join(dir, 'sealed');
    const second = await presync([...args, '--sealed-file', sealed, '--until', 'sealed', '--json']);
    assert.equal(second.code, 0, second.stderr);
    assert.equal((second.json as { kept: boolean }).kept, true);
    assert.match(await readFile(sealed, 'utf8'), /"sequence":1/);
    // Not when that is half a database, or not of the chain that is asked for.
    await rm(join(target, 'chains/dev/db/full/CURRENT'));
    assert.equal((await presync(brief)).code, 7);
    assert.equal((await presync([...args, '--chain', 'other', '--until', 'sealed'])).code, 7);
  });

  it(
    'keeps its own memory settings from the node',
    needs('Linux', process.platform === 'linux'),
    async (t) => {
      const { args } = await createAgentWorld(t);
      const script =
        'echo "node: $(printenv GLIBC_TUNABLES || echo none)"; echo "presync: $(tr "\\0" "\\n" < /proc/$PPID/environ | grep ^GLIBC_TUNABLES)"';
      const { stderr } = await presync([...args, '--', 'sh', '-c', script]);
      assert.match(stderr, /^node: none$/m);
      assert.match(stderr, /^presync: GLIBC_TUNABLES=glibc\.malloc\.mmap_threshold=1048576/m);
    },
  );

  it('fails loudly when the node ends, cannot be started, or does not answer in time', async (t) => {
    const { dir, args } = await createAgentWorld(t);
    const ends = await presync([...args, '--json', '--', 'false']);
    assert.equal(ends.code, 8);
    assert.match(ends.stdout, /NODE_START_FAILED/);
    const missing = await presync([...args, '--json', '--', join(dir, 'no-such-node')]);
    assert.equal(missing.code, 8);
    assert.match(missing.stdout, /NODE_START_FAILED/);
    const silent = await presync([
      ...args,
      '--json',
      '--rpc',
      `ws://127.0.0.1:${await freePort()}`,
      '--ready-timeout',
      '2s',
      '--',
      'sleep',
      '600',
    ]);
    assert.equal(silent.code, 8);
    assert.match(silent.stdout, /NODE_NOT_READY/);
  });
});
