/** The agent with the real node, when the newest snapshot is no good: an older one, or none at all and an empty database. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { needs } from '../support/needs.ts';
import { freePorts } from '../support/ports.ts';
import { presync, presyncOk, startPresync } from '../support/presync.ts';
import { devChainSpec, hasNode, nodeExecutable } from '../support/real-node.ts';
import { createWorld, type World } from '../support/world.ts';

interface Report {
  sequence: number | null;
  warpSync: boolean;
  kept: boolean;
  passedOver: { sequence: number; code: string }[];
  ready: { head: { number: number } };
  stderr: string;
}

/** One boot: the agent brings the node up until it is ready, and is stopped. */
async function boot(
  t: TestContext,
  { dir, store, trust }: World,
  { fallback, sync = 'full' }: { fallback: string[]; sync?: string },
): Promise<Report> {
  const [rpcPort, p2pPort] = await freePorts(2);
  const target = join(dir, 'target');
  const report = join(dir, 'report.json');
  await rm(report, { force: true });
  // This node has no warp sync for a development chain ("no warp sync provider configured"), so it is not told.
  const node = join(dir, 'node.sh');
  await writeFile(node, `#!/bin/sh\nshift 2\nexec '${await nodeExecutable()}' "$@"\n`, { mode: 0o755 });
  const agent = startPresync([
    ...['bootstrap', '--base-path', target, '--store', store, '--trust', trust, '--report', report],
    ...['--state-dir', join(dir, 'agent'), '--admin-listen', 'none', '--sealed-file', join(dir, 'sealed')],
    ...['--drain-time', '0s', '--rpc', `ws://127.0.0.1:${rpcPort}`],
    ...fallback.flatMap((step) => ['--fallback', step]),
    ...['--', node, '--sync', sync, '--chain', await devChainSpec(), '--dev', '--dev-block-time', '200'],
    ...['--pool-type', 'single-state', '--state-pruning', 'archive', '--blocks-pruning', 'archive'],
    ...['--database', 'rocksdb', '--base-path', target, '--rpc-port', String(rpcPort)],
    ...['--listen-addr', `/ip4/127.0.0.1/tcp/${p2pPort}`, '--no-mdns', '--no-telemetry', '--no-prometheus'],
  ]);
  t.after(() => agent.child.kill('SIGKILL'));
  const deadline = performance.now() + 300_000;
  let ended = false;
  void agent.done.then(() => {
    ended = true;
  });
  while (!existsSync(report)) {
    if (ended) assert.fail((await agent.done).stderr);
    assert.ok(performance.now() < deadline, 'the node did not become ready');
    await sleep(200);
  }
  const said = JSON.parse(await readFile(report, 'utf8'));
  assert.ok(existsSync(join(dir, 'sealed')));
  agent.child.kill('SIGTERM');
  const { code, stderr } = await agent.done;
  assert.equal(code, 143, stderr);
  return { ...said, stderr };
}

/** Damages every chunk that came with the last snapshot. */
async function breakNewest({ storeDir }: World, before: ReadonlySet<string>): Promise<void> {
  for (const path of await chunksOf(storeDir))
    if (!before.has(path)) await writeFile(path, 'this is no chunk');
}

async function chunksOf(storeDir: string): Promise<string[]> {
  const entries = await readdir(join(storeDir, 'chunks'), { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map(({ parentPath, name }) => join(parentPath, name));
}

describe('an agent whose newest snapshot is damaged', needs('a node executable', hasNode()), () => {
  it('comes up from the older one, and from that at the next boot', async (t) => {
    const world = await createWorld(t, { more: ['--chunk-size', '64KiB'] });
    const before = new Set(await chunksOf(world.storeDir));
    await writeFile(join(world.base, world.database, '000999.sst'), Buffer.alloc(300_000, 'new'));
    await presyncOk(world.snapshotArgs);
    await breakNewest(world, before);
    const first = await boot(t, world, { fallback: ['older'] });
    assert.deepEqual([first.sequence, first.kept], [1, false]);
    assert.deepEqual(
      first.passedOver.map(({ sequence, code }) => [sequence, code]),
      [[2, 'CHUNK_CORRUPT']],
    );
    assert.ok(first.ready.head.number >= 1208);
    const second = await boot(t, world, { fallback: ['older'] });
    assert.deepEqual([second.sequence, second.kept], [1, true]);
  });

  it('starts the node with an empty database where warp sync is the way out, and keeps what it makes', async (t) => {
    const world = await createWorld(t);
    await breakNewest(world, new Set());
    const way = { fallback: ['older', 'warp'], sync: 'warp' };
    const first = await boot(t, world, way);
    assert.deepEqual([first.sequence, first.warpSync, first.kept], [null, true, false]);
    const { stderr } = first;
    assert.doesNotMatch(stderr.slice(stderr.indexOf('"node.started"')), /progress\.advanced/);
    assert.ok(first.ready.head.number < 1208, 'the node has a database from somewhere');
    const second = await boot(t, world, way);
    assert.deepEqual([second.sequence, second.warpSync, second.kept], [null, false, true]);
    assert.ok(second.ready.head.number >= first.ready.head.number);
    // Without that way out it is as loud as ever, and nothing is downloaded for it.
    await rm(join(world.dir, 'target'), { recursive: true });
    const failed = await presync([
      ...['bootstrap', '--base-path', join(world.dir, 'target'), '--store', world.store],
      ...['--trust', world.trust, '--state-dir', join(world.dir, 'agent'), '--admin-listen', 'none'],
    ]);
    assert.equal(failed.code, 4);
    assert.match(failed.stderr, /Code: SNAPSHOT_FAILED_BEFORE/);
  });
});
