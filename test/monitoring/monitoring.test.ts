/** Alert rules and dashboard name only metrics, labels and label values that presync has, and promtool finds them right. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { GATES } from '../../packages/node/src/gate.ts';
import { createRegistry, listMetrics } from '../../packages/runtime/src/metrics.ts';
import { needs } from '../support/needs.ts';
import { findTool } from '../support/tools.ts';

const FOLDER = join(import.meta.dirname, '../../deploy/monitoring');
const RULES = readFileSync(join(FOLDER, 'presync.rules.yml'), 'utf8');
const DASHBOARD: unknown = JSON.parse(readFileSync(join(FOLDER, 'dashboard.json'), 'utf8'));

/** What Prometheus itself adds to every series. */
const OWN_LABELS = ['instance', 'job', 'le'];

/** What Node tells of the process; labels of these are asked for nowhere. */
const OF_NODE = createRegistry()
  .getMetricsAsArray()
  .map(({ name, type }) => ({ name, type: String(type), labels: [] as readonly string[] }));

/** Each metric, with the names under which a histogram is asked for. */
const SERIES = new Map(
  [...OF_NODE, ...listMetrics()].flatMap(({ name, type, labels }) =>
    (type === 'histogram' ? ['_bucket', '_sum', '_count'] : ['']).map((ending) => [name + ending, labels]),
  ),
);

/** Everything in a PromQL expression that does not exist. */
function strangers(expression: string): string[] {
  const found: string[] = [];
  const labels = new Set(OWN_LABELS);
  for (const [, name = '', selector = ''] of expression.matchAll(/\b(presync_\w+)(?:\{([^}]*)\})?/g)) {
    const known = SERIES.get(name);
    if (known === undefined) {
      found.push(name);
      continue;
    }
    for (const label of known) labels.add(label);
    for (const [, label = '', value = ''] of selector.matchAll(/(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"/g)) {
      if (!known.includes(label) && !OWN_LABELS.includes(label)) found.push(`${name}{${label}}`);
      if (label === 'gate') found.push(...value.split('|').filter((gate) => !Object.hasOwn(GATES, gate)));
    }
  }
  for (const [, list = ''] of expression.matchAll(/\b(?:by|on|without|ignoring)\s*\(([^)]*)\)/g)) {
    for (const label of list.split(',').map((part) => part.trim())) {
      if (!labels.has(label)) found.push(label);
    }
  }
  return found;
}

/** Every text under that key, at any depth. */
function textsOf(document: unknown, key: string): string[] {
  if (typeof document !== 'object' || document === null) return [];
  return Object.entries(document).flatMap(([name, value]) =>
    name === key && typeof value === 'string' ? [value] : textsOf(value, key),
  );
}

function ruleExpressions(): string[] {
  return [...RULES.matchAll(/^ {8}expr: (?:\|\n((?: {10}.*\n)+)|(.+))$/gm)].map(
    ([, block, line]) => block ?? line ?? '',
  );
}

describe('alert rules', () => {
  test('name only what presync has', () => {
    const expressions = ruleExpressions();
    assert.equal(expressions.length, RULES.match(/- alert:/g)?.length);
    assert.deepEqual(expressions.flatMap(strangers), []);
  });

  test('use in their texts only labels that their alerts have', () => {
    const labels = new Set([...OWN_LABELS, ...[...SERIES.values()].flat()]);
    for (const [, label = ''] of RULES.matchAll(/\$labels\.(\w+)/g)) assert.ok(labels.has(label), label);
  });

  test('ask for every metric that tells of a failure', () => {
    const silent = listMetrics()
      .map(({ name }) => name)
      .filter((name) => !RULES.includes(name));
    // Sizes, times and counts that are good or bad only beside others; what fails in them has an alert of its own.
    assert.deepEqual(silent, [
      'presync_bootstrap_phase_seconds',
      'presync_bootstrap_to_ready_seconds',
      'presync_cloud_notice_deadline_timestamp_seconds',
      'presync_cloud_notices_total',
      'presync_config_reloads_total',
      'presync_repository_removed_bytes_total',
      'presync_restore_bytes_total',
      'presync_restore_seconds',
      'presync_serve_sent_bytes_total',
      'presync_snapshot_bytes_total',
      'presync_snapshot_gate_shut_total',
      'presync_snapshot_last_anchor_block',
      'presync_snapshot_last_bytes',
      'presync_snapshot_last_sequence',
      'presync_snapshot_last_stored_ratio',
      'presync_snapshot_next_run_timestamp_seconds',
      'presync_snapshot_phase_seconds',
      'presync_snapshot_run_seconds',
      'presync_snapshot_running',
      'presync_snapshot_runs_total',
      'presync_store_call_seconds',
      'presync_store_transferred_bytes_total',
    ]);
  });

  const promtool = findTool('promtool', 'PRESYNC_TEST_PROMTOOL');
  for (const args of [
    ['check', 'rules', '--lint=all', '--lint-fatal', 'presync.rules.yml'],
    ['test', 'rules', 'presync.rules.test.yml'],
  ]) {
    test(`promtool ${args.slice(0, 2).join(' ')}`, needs('promtool', promtool !== undefined), () => {
      const { status, stdout, stderr } = spawnSync(promtool ?? '', args, { cwd: FOLDER, encoding: 'utf8' });
      assert.equal(status, 0, `${stdout}${stderr}`);
    });
  }

  test('each has a test', () => {
    const tested = readFileSync(join(FOLDER, 'presync.rules.test.yml'), 'utf8');
    const untested = [...RULES.matchAll(/- alert: (\w+)/g)]
      .map(([, name = '']) => name)
      .filter((name) => !new RegExp(`alertname: ${name}\\n {8}exp_alerts:\\n`).test(tested));
    assert.deepEqual(untested, []);
  });
});

describe('the dashboard', () => {
  test('names only what presync has', () => {
    const expressions = [...textsOf(DASHBOARD, 'expr'), ...textsOf(DASHBOARD, 'query')];
    assert.ok(expressions.length > 20);
    assert.deepEqual(expressions.flatMap(strangers), []);
  });

  test('shows every metric of the daemon', () => {
    const shown = textsOf(DASHBOARD, 'expr').join('\n');
    const hidden = listMetrics()
      .map(({ name }) => name)
      .filter((name) => !shown.includes(name) && !/^presync_(bootstrap|restore|serve|build)_/.test(name));
    // The bound of the age and the times of the last runs are for alerts.
    assert.deepEqual(hidden, [
      'presync_config_reloads_total',
      'presync_snapshot_last_run_timestamp_seconds',
      'presync_snapshot_max_age_seconds',
      'presync_snapshot_run_seconds',
    ]);
  });

  test('has panels that do not overlap, with ids of their own', () => {
    const { panels } = DASHBOARD as {
      panels: { id: number; gridPos: { x: number; y: number; w: number; h: number } }[];
    };
    assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length);
    const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
      Array.from({ length: w * h }, (_, cell) => `${x + (cell % w)},${y + Math.floor(cell / w)}`),
    );
    assert.equal(new Set(cells).size, cells.length);
    assert.ok(panels.every(({ gridPos: { x, w } }) => x + w <= 24));
  });
});

test('the search finds metrics, labels and gates that are none', () => {
  assert.deepEqual(strangers('rate(presync_nothing_total[5m])'), ['presync_nothing_total']);
  assert.deepEqual(strangers('presync_snapshot_pause_seconds'), ['presync_snapshot_pause_seconds']);
  assert.deepEqual(strangers('presync_gate_shut{door="x"}'), ['presync_gate_shut{door}']);
  assert.deepEqual(strangers('presync_gate_shut{gate=~"peers|moon"}'), ['moon']);
  assert.deepEqual(strangers('sum by (colour) (presync_gate_shut)'), ['colour']);
  assert.deepEqual(strangers('sum by (gate, instance) (presync_gate_shut{gate!="disk"})'), []);
});
