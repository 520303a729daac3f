/** A short sample of each campaign; the whole ones are commands of their own (`npm run campaign -- NAME`). */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { corruptionCampaign } from '../campaigns/corruption.ts';
import { killCampaign } from '../campaigns/kill.ts';
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
});
