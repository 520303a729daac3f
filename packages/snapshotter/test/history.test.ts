/** The run history: torn lines, bounds, a full disk, and what a killed daemon leaves. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import { needs } from '../../../test/support/needs.ts';
import { openHistory, type RunRecord, readRuns } from '../src/history.ts';

const root = mkdtempSync(join(tmpdir(), 'presync-history-'));
after(() => rmSync(root, { recursive: true }));

let made = 0;
const stateDir = (): string => join(root, `state-${made++}`);
const fileOf = (dir: string): string => join(dir, 'runs.jsonl');

function run(id: string, outcome: RunRecord['outcome'] = 'published'): RunRecord {
  return {
    ...{
      id,
      cause: 'schedule',
      started: '2026-03-01T00:00:00.000Z',
      ended: '2026-03-01T00:01:00.000Z',
      outcome,
    },
    ...{
      code: null,
      reason: null,
      gates: [],
      channel: 'dev/rocksdb',
      sequence: 1,
      anchor: 5,
      pauseSeconds: 0.1,
    },
    ...{ phases: { gate: 0.1 }, bytes: null },
  };
}

const ids = (runs: readonly RunRecord[]): string[] => runs.map(({ id, outcome }) => `${id} ${outcome}`);

test('runs survive a restart, for their owner only', async () => {
  const dir = stateDir();
  const history = await openHistory(dir);
  await history.begin({ id: 'a', cause: 'schedule', started: '2026-03-01T00:00:00.000Z' });
  await history.end(run('a'));
  await history.close();
  assert.equal(statSync(fileOf(dir)).mode & 0o777, 0o600);
  const again = await openHistory(dir);
  assert.deepEqual(again.runs, [run('a')]);
  await again.close();
});

test('a run that has begun and not ended was interrupted', async () => {
  const dir = stateDir();
  const history = await openHistory(dir);
  await history.end(run('a'));
  await history.begin({ id: 'b', cause: 'command', started: '2026-03-01T00:00:00.000Z' });
  await history.close();
  assert.deepEqual(ids((await readRuns(dir)).runs), ['a published', 'b interrupted']);
  const again = await openHistory(dir);
  await again.end(run('c', 'failed'));
  await again.close();
  assert.deepEqual(ids((await readRuns(dir)).runs), ['a published', 'b interrupted', 'c failed']);
});

test('cut at every byte, the file gives every run that was whole', async () => {
  const dir = stateDir();
  const history = await openHistory(dir);
  for (const id of ['a', 'b']) {
    await history.begin({ id, cause: 'schedule', started: '2026-03-01T00:00:00.000Z' });
    await history.end(run(id));
  }
  await history.close();
  const whole = readFileSync(fileOf(dir));
  const firstEnd = whole.indexOf('\n', whole.indexOf('\n') + 1);
  for (let size = whole.length; size >= 0; size -= 7) {
    writeFileSync(fileOf(dir), whole);
    truncateSync(fileOf(dir), size);
    const { runs } = await readRuns(dir);
    if (size > firstEnd) assert.equal(ids(runs)[0], 'a published', `cut at ${size}`);
    const reopened = await openHistory(dir);
    await reopened.end(run('z'));
    await reopened.close();
    assert.equal(ids((await readRuns(dir)).runs).at(-1), 'z published', `cut at ${size}`);
  }
});

test('lines that are none are counted and passed over', async () => {
  const dir = stateDir();
  const history = await openHistory(dir);
  await history.end(run('a'));
  await history.close();
  appendFileSync(fileOf(dir), '{"id":"x"}\nnull\n\u0000\u0000\n');
  const again = await openHistory(dir);
  assert.equal(again.unreadable, 3);
  assert.deepEqual(ids(again.runs), ['a published']);
  await again.close();
  assert.equal((await readRuns(dir)).unreadable, 0, 'they are gone after the start');
});

test('only so many runs are kept, in memory and on disk', async () => {
  const dir = stateDir();
  const history = await openHistory(dir, 5);
  for (let index = 0; index < 40; index++) {
    await history.begin({ id: `r${index}`, cause: 'schedule', started: '2026-03-01T00:00:00.000Z' });
    await history.end(run(`r${index}`));
    assert.ok(history.runs.length <= 5);
    assert.ok(readFileSync(fileOf(dir), 'utf8').split('\n').length <= 13);
  }
  assert.deepEqual(
    ids(history.runs),
    [35, 36, 37, 38, 39].map((index) => `r${index} published`),
  );
  await history.close();
  const again = await openHistory(dir, 5);
  assert.deepEqual(ids(again.runs).at(-1), 'r39 published');
  assert.ok(again.runs.length <= 5);
  await again.close();
});

test('the last run that published is kept over any number of others', async () => {
  const dir = stateDir();
  const history = await openHistory(dir, 5);
  await history.end(run('old'));
  await history.end(run('good'));
  for (let index = 0; index < 30; index++) await history.end(run(`r${index}`, 'skipped'));
  await history.close();
  const again = await openHistory(dir, 5);
  assert.deepEqual(ids(again.runs), [
    'good published',
    ...[26, 27, 28, 29].map((index) => `r${index} skipped`),
  ]);
  await again.end(run('better'));
  await again.end(run('r30', 'skipped'));
  assert.deepEqual(ids(again.runs), [
    ...[27, 28, 29].map((index) => `r${index} skipped`),
    'better published',
    'r30 skipped',
  ]);
  await again.close();
});

test('a file that is no history is refused, not read into memory', async () => {
  const dir = stateDir();
  await (await openHistory(dir)).close();
  truncateSync(fileOf(dir), 64 * 1024 * 1024);
  await assert.rejects(openHistory(dir), (error) => isPresyncError(error, 'IO_FAILED'));
});

const mayMount = process.platform === 'linux' && process.getuid?.() === 0;

test(
  'on a full disk the run is remembered in memory, and the next one is written whole',
  needs('root, to mount', mayMount),
  async (t) => {
    const dir = stateDir();
    spawnSync('mkdir', ['-p', dir]);
    assert.equal(spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', dir]).status, 0);
    t.after(() => spawnSync('umount', ['-l', dir]));
    const history = await openHistory(dir);
    await history.end(run('a'));
    spawnSync('dd', ['if=/dev/zero', `of=${join(dir, 'fill')}`, 'bs=1k']);
    // Fills the last page of the file, and is cut off there.
    await assert.rejects(history.end({ ...run('b'), reason: 'x'.repeat(8000) }), (error) =>
      isPresyncError(error, 'NO_SPACE'),
    );
    assert.deepEqual(ids(history.runs), ['a published', 'b published']);
    rmSync(join(dir, 'fill'));
    await history.end(run('c'));
    await history.close();
    assert.deepEqual(ids((await readRuns(dir)).runs), ['a published', 'c published']);
  },
);
