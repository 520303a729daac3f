/** Over a database that is one snapshot older comes what changed, and no more: with the real node and both backends. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { needs } from '../support/needs.ts';
import { presyncOk } from '../support/presync.ts';
import { DEV_GENESIS, hasNode, startNode, unpackFixture } from '../support/real-node.ts';
import { assertSameDatabase } from '../support/tree.ts';

/** Blocks that the node makes between the two snapshots. */
const BLOCKS = 60;

interface Restored {
  sequence: number;
  totals: { bytes: number; stored: number; added: number };
  restored: { fetchedBytes: number; fetchedChunks: number; reusedChunks: number };
  plan: { fetch: { fetchBytes: number; likelyReused: number; perhapsReused: number } };
}

describe('a restore over a database one snapshot older', () => {
  for (const backend of ['rocksdb', 'paritydb'] as const) {
    it(
      `fetches at most 1.05 times what changed (${backend})`,
      needs('a node executable', hasNode()),
      async (t) => {
        const dir = await mkdtemp(join(tmpdir(), `presync-existing-${backend}-`));
        t.after(() => rm(dir, { recursive: true, force: true }));
        const [base, target] = [join(dir, 'source'), join(dir, 'target')];
        await unpackFixture(backend, base);
        const store = `file://${join(dir, 'store')}`;
        const take = [
          ...['snapshot', '--base-path', base, '--store', store, '--pause', 'none', '--genesis', DEV_GENESIS],
          ...['--insecure-no-sign', '--state-dir', join(dir, 'state'), '--chunk-size', '64KiB'],
        ];
        const restore = async (...more: string[]): Promise<Restored> => {
          const { json } = await presyncOk([
            ...['restore', '--base-path', target, '--store', store, '--insecure-no-verify', '--json'],
            ...['--state-dir', join(dir, 'agent'), ...more],
          ]);
          return json as Restored;
        };
        await presyncOk(take);
        await restore();
        const node = await startNode({ basePath: base, backend, blockTimeMs: 100 });
        const until = (await node.best()) + BLOCKS;
        while ((await node.best()) < until) await sleep(100);
        await node.stop();
        await presyncOk(take);
        const second = await restore('--existing', 'reuse', '--yes');
        const { restored, totals, plan } = second;
        assert.equal(second.sequence, 2);
        assert.ok(totals.added > 0 && restored.reusedChunks > 0);
        t.diagnostic(
          `${backend}: ${restored.fetchedBytes} bytes fetched, ${totals.added} are new in the snapshot, ${totals.stored} in all; the plan said ${JSON.stringify(plan.fetch)}`,
        );
        assert.ok(
          restored.fetchedBytes <= 1.05 * totals.added,
          `${restored.fetchedBytes} bytes were fetched, and ${totals.added} changed`,
        );
        // What the plan told before a byte was read holds.
        const { fetchBytes, likelyReused, perhapsReused } = plan.fetch;
        assert.ok(restored.fetchedBytes <= fetchBytes);
        assert.ok(restored.fetchedBytes >= fetchBytes - likelyReused - perhapsReused);
        const database = backend === 'rocksdb' ? 'chains/dev/db/full' : 'chains/dev/paritydb/full';
        await assertSameDatabase(join(base, database), join(target, database));
      },
    );
  }
});
