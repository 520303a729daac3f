import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isPresyncError } from '@presync/runtime/errors';
import { needs } from '../../../test/support/needs.ts';
import { DEV_GENESIS, hasNode, type RealNode, startNode } from '../../../test/support/real-node.ts';
import { checkGate } from '../src/gate.ts';
import { type Backend, type DatabaseLayout, findDatabase, scanDatabase } from '../src/layout.ts';
import { databaseHolder } from '../src/locks.ts';
import { createPauser, recoverPauses, watchBlocksAdvance, withPause } from '../src/pause.ts';
import { connectNode } from '../src/rpc.ts';
import { type FrozenView, prepareView } from '../src/view.ts';
import { createNursery, deadmenOf, isStopped, states, until } from './support/processes.ts';

const { signal } = new AbortController();

/**
 * A restored database, as a new node's base path. What follows a hard link's path must not write to it, so it is copied.
 */
function restore(view: FrozenView, basePath: string): void {
  for (const file of view.files) {
    const path = join(basePath, file.archivePath);
    mkdirSync(join(path, '..'), { recursive: true });
    copyFileSync(file.viewPath, path);
  }
}

for (const backend of ['rocksdb', 'paritydb'] as const satisfies readonly Backend[]) {
  describe(`a real node with ${backend}`, needs('a node executable', hasNode()), () => {
    const nursery = createNursery();
    let root = '';
    let node: RealNode;
    let layout: DatabaseLayout;
    before(async () => {
      root = mkdtempSync(join(tmpdir(), `presync-node-${backend}-`));
      node = await startNode({ basePath: join(root, 'source'), backend, blockTimeMs: 200 });
      layout = await findDatabase({ basePath: join(root, 'source'), signal });
    });
    after(async () => {
      await nursery.killAll();
      await node?.stop();
      rmSync(root, { recursive: true, force: true });
    });
    const stateDir = () => join(root, 'state');

    test('is the one that holds the database', async () => {
      assert.equal(layout.backend, backend);
      assert.deepEqual(await databaseHolder(layout, { signal }), { pid: node.pid });
    });

    for (const kind of ['rpcUrl', 'wsUrl'] as const) {
      test(`answers presync's questions over ${kind === 'rpcUrl' ? 'HTTP' : 'WebSocket'}`, async () => {
        const rpc = await connectNode(node[kind], { signal });
        try {
          assert.deepEqual(await rpc.health(), { peers: 0, isSyncing: false, shouldHavePeers: false });
          assert.equal(await rpc.genesisHash(), DEV_GENESIS);
          assert.equal(await rpc.chainName(), 'Development');
          assert.match((await rpc.implementation()).version, /^1\.25\.1/);
          await watchBlocksAdvance(rpc, { since: 2, timeoutMs: 60_000, signal });
          const finalized = await rpc.finalized();
          assert.equal(await rpc.blockHash(finalized.number), finalized.hash);
          assert.equal(await rpc.blockHash(4_000_000_000), undefined);
          assert.ok((await rpc.syncState()).currentBlock > 0);
          const gate = await checkGate(rpc, {
            minPeers: 3,
            maxFinalityLag: 10,
            genesisHash: DEV_GENESIS,
            signal,
          });
          assert.deepEqual(gate.reasons, []);
          assert.ok(gate.open && gate.head.number >= gate.finalized.number);
          const shut = await checkGate(rpc, {
            minPeers: 0,
            maxFinalityLag: 10,
            genesisHash: `0x${'0'.repeat(64)}`,
            signal,
          });
          assert.ok(!shut.open && /is on the chain with genesis 0xfb32/.test(shut.reasons.join()));
        } finally {
          await rpc.close();
        }
      });
    }

    test('is paused, frozen, resumed, and goes on; another node opens the frozen copy', async () => {
      const rpc = await connectNode(node.rpcUrl, { signal });
      const holder = await databaseHolder(layout, { signal });
      const pauser = createPauser({
        strategy: 'signal',
        holder,
        databases: [layout],
        stateDir: stateDir(),
        budgetMs: 30_000,
      });
      const prepared = await prepareView({ layout, signal });
      const head = await rpc.best();
      const { result: view } = await withPause(pauser, { signal }, async (options) => {
        assert.ok(isStopped(node.pid), states(node.pid));
        const frozen = await prepared.freeze(options);
        const live = await scanDatabase(layout, options);
        assert.deepEqual(
          frozen.files.map(({ name, size }) => ({ name, size })),
          live.map(({ name, size }) => ({ name, size })),
        );
        return frozen;
      });
      assert.ok(!states(node.pid).includes('T'));
      assert.ok(
        (await watchBlocksAdvance(rpc, { since: head.number, timeoutMs: 60_000, signal })) > head.number,
      );
      const copy = join(root, 'copy');
      restore(view, copy);
      await view.release();
      assert.ok(
        !existsSync(join(copy, 'chains/dev/keystore')) && !existsSync(join(copy, 'chains/dev/network')),
      );

      const second = await startNode({ basePath: copy, backend, blockTimeMs: 0 });
      try {
        const best = await second.best();
        assert.ok(best > 0 && best <= head.number + 10, `${best}, head ${head.number}`);
        const hash = await second.call('chain_getBlockHash', best);
        assert.equal(await rpc.blockHash(best), hash, 'the copy holds a block of the source’s chain');
      } finally {
        await second.stop();
        await rpc.close();
      }
    });

    test('comes back by itself when presync is killed while it is paused', async () => {
      const since = await node.best();
      const script = join(import.meta.dirname, 'support/pausing-child.ts');
      const presync = nursery.start(process.execPath, [
        script,
        JSON.stringify({
          strategy: 'signal',
          pid: node.pid,
          databases: [],
          stateDir: stateDir(),
          budgetMs: 600_000,
        }),
      ]);
      await new Promise((resolve) => presync.stdout?.once('data', resolve));
      assert.ok(isStopped(node.pid));
      presync.kill('SIGKILL');
      await until('the node runs', () => !states(node.pid).includes('T'));
      await until('the deadman is gone', () => deadmenOf(stateDir()).length === 0);
      const recovered = await recoverPauses({ stateDir: stateDir(), signal });
      assert.deepEqual(
        recovered.map(({ outcome, byDeadman }) => ({ outcome, byDeadman })),
        [{ outcome: 'running', byDeadman: true }],
      );
      assert.deepEqual(readdirSync(stateDir()), []);
      await watchBlocksAdvance(
        { best: async () => ({ number: await node.best() }) },
        { since, timeoutMs: 60_000, signal },
      );
    });

    test('a paused node is not answered for: calls end with their time-out, and a broken connection is opened again', async () => {
      const rpc = await connectNode(node.wsUrl, { signal, timeoutMs: 300 });
      process.kill(node.pid, 'SIGSTOP');
      try {
        await until('it stands still', () => isStopped(node.pid));
        await assert.rejects(
          rpc.best(),
          (error) =>
            isPresyncError(error, 'NODE_RPC_FAILED') && /no answer within 300 ms/.test(error.message),
        );
      } finally {
        process.kill(node.pid, 'SIGCONT');
      }
      await sleep(500);
      await until('it answers again', () => !states(node.pid).includes('T'));
      const patient = await connectNode(node.wsUrl, { signal });
      assert.ok((await patient.best()).number > 0);
      await patient.close();
      await rpc.close();
    });
  });
}
