/** What goes wrong on a source node is in the metrics that the alert rules ask for, and ends there when it is mended. */
import assert from 'node:assert/strict';
import { createHash, randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { needs } from '../support/needs.ts';
import { freePort } from '../support/ports.ts';
import { type PresyncOutcome, presync, startPresync } from '../support/presync.ts';
import { DEV_GENESIS, hasNode, startNode } from '../support/real-node.ts';
import { createSource, type Source } from '../support/world.ts';

interface Watched {
  /** The daemon's log so far. */
  log(): string;
  /** Has the daemon take a snapshot. */
  run(): Promise<PresyncOutcome>;
  metric(name: string): Promise<number>;
  /** Waits until the metric has that value. */
  comesTo(name: string, value: number): Promise<void>;
  stop(): Promise<void>;
}

/** A daemon that waits for a schedule that never comes, and so runs when it is told to. */
async function watch(
  t: TestContext,
  { base, store, takeArgs, dir }: Source,
  options: object,
): Promise<Watched> {
  const port = await freePort();
  const stateDir = join(dir, 'source-state');
  const config = join(dir, 'presync.json');
  await writeFile(
    config,
    JSON.stringify({
      ...{ basePath: base, store, stateDir, genesis: DEV_GENESIS, schedule: '0 0 1 1 *' },
      ...{ signKey: takeArgs[takeArgs.indexOf('--sign-key') + 1], adminListen: `127.0.0.1:${port}` },
      ...options,
    }),
  );
  const daemon = startPresync(['snapshotter', '--config', config]);
  t.after(() => daemon.child.kill('SIGKILL'));
  let log = '';
  daemon.child.stderr?.on('data', (text) => {
    log += String(text);
  });
  await until(
    async () => log.includes('"daemon.started"'),
    () => log,
  );
  const metric = async (name: string): Promise<number> => {
    const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
    const line = text.split('\n').find((found) => found.startsWith(`${name} `));
    return Number(line?.split(' ')[1] ?? Number.NaN);
  };
  return {
    log: () => log,
    metric,
    run: () => presync(['snapshot', '--via-daemon', '--state-dir', stateDir, '--config', config]),
    comesTo: (name, value) =>
      until(
        async () => (await metric(name)) === value,
        () => `${name} is not ${value}`,
      ),
    async stop() {
      daemon.child.kill('SIGTERM');
      await daemon.done;
    },
  };
}

async function until(condition: () => Promise<boolean>, why: () => string): Promise<void> {
  const deadline = performance.now() + 90_000;
  while (!(await condition().catch(() => false))) {
    assert.ok(performance.now() < deadline, why());
    await sleep(100);
  }
}

const OK = (outcome: PresyncOutcome): void => assert.equal(outcome.code, 0, outcome.stderr);

describe('metrics for alerts', () => {
  it('tell of retention that fails, damage, garbage that stays, and views that are left', async (t) => {
    const source = await createSource(t);
    const { base, storeDir } = source;
    const { run, metric, comesTo, log } = await watch(t, source, { pause: 'none', keepLast: 9, grace: '0s' });
    const retention = async (): Promise<number[]> => [
      await metric('presync_repository_retention_failed'),
      await metric('presync_repository_damaged_snapshots'),
      await metric('presync_repository_overdue_collections'),
    ];
    assert.deepEqual(await retention(), [0, 0, 0], 'before the first run');
    OK(await run());
    assert.deepEqual(await retention(), [0, 0, 0]);

    // Nobody knows what the first one names, until its manifest is removed by hand.
    const first = join(storeDir, 'snapshots/dev/rocksdb/1');
    await rm(join(first, 'index.zst'));
    OK(await run());
    assert.deepEqual(await retention(), [1, 1, 0]);
    assert.match(log(), /"event":"prune.blocked"/);
    await rm(first, { recursive: true });
    OK(await run());
    assert.deepEqual(await retention(), [0, 0, 0]);

    // Garbage that waits for somebody who reads.
    const sha256 = createHash('sha256').update(randomUUID()).digest('hex');
    const garbage = join(storeDir, 'chunks', sha256.slice(0, 2), sha256);
    await mkdir(join(garbage, '..'), { recursive: true });
    await writeFile(garbage, 'garbage');
    const id = randomUUID();
    const lease = join(storeDir, 'leases/reader', `${id}.json`);
    await mkdir(join(lease, '..'), { recursive: true });
    await writeFile(lease, leaseOf(id));
    for (const overdue of [0, 1]) {
      OK(await run());
      assert.deepEqual(await retention(), [0, 0, overdue]);
    }
    await rm(lease);
    OK(await run());
    assert.deepEqual(await retention(), [0, 0, 0]);
    await assert.rejects(readFile(garbage), /ENOENT/);

    // What a presync that was killed has left, until the next run.
    await mkdir(join(base, `chains/dev/db/.presync/view-4194304-1-${'a'.repeat(16)}`), { recursive: true });
    await comesTo('presync_snapshot_views_left', 1);
    OK(await run());
    await comesTo('presync_snapshot_views_left', 0);

    assert.ok((await readdir(join(source.dir, 'source-state/index-cache'))).length > 0);
  });

  it('tell of a snapshot in quarantine', async (t) => {
    const { run, metric } = await watch(t, await createSource(t), {
      ...{ pause: 'none', proveIsolation: 'flags', proveCommand: ['/bin/false', '{basePath}', '{rpcPort}'] },
    });
    assert.equal(await metric('presync_snapshot_quarantined_total'), 0);
    assert.equal((await run()).code, 4);
    assert.equal(await metric('presync_snapshot_quarantined_total'), 1);
  });

  it(
    'tell of a node that makes no blocks after the pause, also when the snapshot fails',
    needs('a node', hasNode()),
    async (t) => {
      const source = await createSource(t);
      const { base, storeDir, takeArgs } = source;
      OK(await presync(['snapshot', ...takeArgs]));
      const node = await startNode({
        basePath: base,
        backend: 'rocksdb',
        blockTimeMs: 0,
        signal: t.signal,
      });
      t.after(() => node.kill());
      const { run, metric, log } = await watch(t, source, {
        ...{ pause: 'signal', pid: node.pid, rpc: node.rpcUrl, minPeers: 0, anchorAge: '0s' },
      });
      // No chunk can be stored any more.
      await rm(join(storeDir, 'chunks'), { recursive: true });
      await writeFile(join(storeDir, 'chunks'), 'no folder');
      const { code } = await run();
      assert.equal(code, 7);
      assert.match(log(), /"event":"node.blocks_stalled"/);
      assert.equal(await metric('presync_node_resume_failures_total'), 1);
      await node.call('system_health');
    },
  );
});

function leaseOf(id: string): string {
  const document = {
    ...{ presync: 'lease', version: 1, kind: 'reader', id, channel: 'dev/rocksdb', sequence: 3 },
    ...{ holder: 'somebody', created: new Date().toISOString() },
    expires: new Date(Date.now() + 3_600_000).toISOString(),
  };
  return `${JSON.stringify(document, null, 2)}\n`;
}
