/** What runs and disks show in the metrics: what alerts are made of. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { findDatabase } from '@presync/node/layout';
import { prepareView } from '@presync/node/view';
import { createSilentLogger } from '@presync/runtime/log';
import { createMetrics, createRegistry, type Registry } from '@presync/runtime/metrics';
import type { RunRecord } from '../src/history.ts';
import { measureViews } from '../src/lib/measure-views.ts';
import { createRunObserver } from '../src/lib/observe.ts';

const { signal } = new AbortController();
const root = mkdtempSync(join(tmpdir(), 'presync-observe-'));
after(() => rmSync(root, { recursive: true }));

async function readMetric(registry: Registry, line: string): Promise<number> {
  const found = (await registry.metrics()).split('\n').find((one) => one.startsWith(`${line} `));
  return Number(found?.slice(line.length + 1) ?? Number.NaN);
}

const record = (changes: Partial<RunRecord>): RunRecord => ({
  ...{
    id: 'run-1',
    cause: 'command',
    started: '2026-03-01T00:00:00.000Z',
    ended: '2026-03-01T00:01:00.000Z',
  },
  ...{ outcome: 'failed', code: null, reason: 'x', gates: [], channel: null, sequence: null, anchor: null },
  ...{ pauseSeconds: null, phases: {}, bytes: null, ...changes },
});

test('what a run failed with is counted where an alert asks for it, from nought on', async () => {
  const registry = createRegistry();
  const observer = createRunObserver({ log: createSilentLogger(), metrics: createMetrics(registry) });
  const resumes = 'presync_node_resume_failures_total';
  const overruns = 'presync_node_pause_overruns_total';
  // A counter that appears with its first failure has not grown, for Prometheus.
  for (const name of [resumes, overruns, 'presync_snapshot_quarantined_total'])
    assert.equal(await readMetric(registry, name), 0, name);
  observer.ended({ record: record({ code: 'NODE_PAUSE_BUDGET' }), phases: [] });
  assert.deepEqual([await readMetric(registry, overruns), await readMetric(registry, resumes)], [1, 0]);
  observer.ended({ record: record({ code: 'NODE_RESUME_FAILED' }), phases: [] });
  assert.deepEqual([await readMetric(registry, overruns), await readMetric(registry, resumes)], [1, 1]);
  observer.ended({ record: record({ code: 'STORE_FAILED' }), phases: [] });
  assert.deepEqual([await readMetric(registry, overruns), await readMetric(registry, resumes)], [1, 1]);
});

describe('views that are left', () => {
  test('are those of presyncs that have ended, and those of this one while it does nothing', async () => {
    const basePath = join(root, 'base');
    const dir = join(basePath, 'chains/dev/db/full');
    mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, 'CURRENT'), 'MANIFEST-000001\n');
    const registry = createRegistry();
    const metrics = createMetrics(registry);
    const left = async (isIdle: boolean): Promise<number> => {
      await measureViews({ basePath, signal }, { metrics, isIdle: () => isIdle });
      return readMetric(registry, 'presync_snapshot_views_left');
    };
    assert.equal(await left(true), 0);

    const views = join(dir, '../.presync');
    const dead = '4194304-1';
    mkdirSync(join(views, `view-${dead}-${'a'.repeat(16)}`), { recursive: true });
    mkdirSync(join(views, 'notes'));
    symlinkSync('/', join(views, `view-${dead}-${'b'.repeat(16)}`));
    assert.deepEqual([await left(true), await left(false)], [1, 1]);

    const layout = await findDatabase({ basePath, signal });
    const view = await prepareView({ layout, signal });
    assert.deepEqual([await left(true), await left(false)], [2, 1]);
    await view.discard();
    assert.equal(await left(true), 1);
  });
});
