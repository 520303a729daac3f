/** A short sample of each campaign; the whole ones are commands of their own (`npm run campaign -- NAME`). */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { corruptionCampaign } from '../campaigns/corruption.ts';
import { FAULT_STORES, type FaultStoreName, SERVERS } from '../campaigns/fault-stores.ts';
import { type FaultsReport, faultsCampaign } from '../campaigns/faults.ts';
import { interleavingsCampaign } from '../campaigns/interleavings.ts';
import { killCampaign } from '../campaigns/kill.ts';
import { pausesCampaign } from '../campaigns/pauses.ts';
import { PUBLISHER_STORES, publishersCampaign } from '../campaigns/publishers.ts';
import { FAULT_KINDS } from '../support/fault-kinds.ts';
import { needs } from '../support/needs.ts';
import { hasNode } from '../support/real-node.ts';

const SEED = 20_261_124;

async function scratch(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'presync-campaign-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

describe('campaigns, in short', () => {
  it('kill: presync dies while it works on a real node', needs('a node executable', hasNode()), async (t) => {
    const report = await killCampaign({
      backend: 'rocksdb',
      count: 6,
      seed: SEED,
      dir: await scratch(t),
      log: () => {},
    });
    assert.equal(report.snapshotKills, 6);
    assert.equal(report.restoreKills, 6);
  });

  it(
    'pauses: presync dies while the real node is held, under each strategy',
    needs('a node executable', hasNode()),
    async (t) => {
      const reports = await pausesCampaign({
        backend: 'rocksdb',
        count: 2,
        seed: SEED,
        dir: await scratch(t),
        log: () => {},
      });
      assert.deepEqual(new Set(reports.map(({ kills }) => kills)), new Set([2]));
    },
  );

  it('corruption: a repository is damaged', async (t) => {
    const report = await corruptionCampaign({
      backend: 'rocksdb',
      count: 8,
      seed: SEED,
      dir: await scratch(t),
      log: () => {},
    });
    assert.equal(report.detectedByVerify, 8);
    assert.equal(report.detectedByRestore, 8);
  });

  it('interleavings: writers, readers and collectors meet in every order', async () => {
    const report = await interleavingsCampaign({
      store: 'memory',
      count: 60,
      seed: SEED,
      processes: 2,
      log: () => {},
    });
    assert.deepEqual(report.violations, []);
    assert.equal(report.worlds, 60);
    assert.ok(
      report.snapshots > 180 && report.reads > 60 && report.removedChunks > 30,
      JSON.stringify(report),
    );
  });

  for (const store of FAULT_STORES) {
    const { what, found } = SERVERS[store];
    it(
      `faults: every fifth request to ${store} (${what}) fails in some way`,
      needs(what, found()),
      async (t) => {
        const report = await faultsCampaign({
          store,
          // A restore asks for few ranges, and a run on a failing disk ends soon: it takes more of them to meet each kind of fault.
          count: readsOnly(store) || store === 'file' ? 12 : 5,
          rates: [0.2],
          backends: ['rocksdb'],
          seed: SEED,
          dir: await scratch(t),
          log: () => {},
        });
        assert.deepEqual(report.violations, []);
        assertAllInjected(store, report);
      },
    );
  }

  for (const store of PUBLISHER_STORES) {
    const { what, found } = store === 'memory' ? { what: 'memory', found: () => true } : SERVERS[store];
    it(`publishers: ten at once to ${store} (${what})`, needs(what, found()), async (t) => {
      const report = await publishersCampaign({
        store,
        count: 10,
        processes: 2,
        dir: await scratch(t),
        log: () => {},
      });
      assert.deepEqual([report.violations, report.failed], [[], {}]);
      assert.deepEqual([report.published, report.highest], [20, 20]);
      assert.ok(report.lost > 0, 'no two publishers met');
    });
  }

  it('publishers to a store that forgets conditions are found out', async (t) => {
    const { violations } = await publishersCampaign({
      store: 'memory',
      count: 10,
      forgetful: true,
      dir: await scratch(t),
      log: () => {},
    });
    assert.ok(
      violations.some((text) => /has two winners/.test(text)),
      violations.join('\n'),
    );
  });
});

function readsOnly(store: FaultStoreName): boolean {
  return store === 'http' || store === 'peer';
}

/** A campaign that injects nothing proves nothing. */
function assertAllInjected(store: FaultStoreName, { rates }: FaultsReport): void {
  const injected = new Set(rates.flatMap((rate) => Object.keys(rate.injected)));
  const wanted = store === 'file' ? ['EIO', 'ENOSPC', 'ESTALE'] : [...FAULT_KINDS, 'dns'];
  // Who only reads sends no bodies.
  const missing = wanted.filter(
    (kind) => !injected.has(kind) && !(readsOnly(store) && kind === 'reset-in-request'),
  );
  assert.deepEqual(missing, []);
}
