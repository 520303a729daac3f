import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, it } from 'node:test';
import { needs } from '../../../test/support/needs.ts';
import { presync } from '../../../test/support/presync.ts';
import {
  createNursery,
  deadmenOf,
  isStopped,
  states,
  untilItSpeaks,
} from '../../node/test/support/processes.ts';

const linux = needs('Linux', process.platform === 'linux');

describe('presync resume', linux, () => {
  it('brings back what an ended presync has left, and has nothing to do after that', async (t) => {
    const stateDir = await mkdtemp(join(tmpdir(), 'presync-resume-'));
    t.after(() => rm(stateDir, { recursive: true, force: true }));
    const nursery = createNursery();
    t.after(() => nursery.killAll());
    const node = nursery.start(process.execPath, ['-e', 'setInterval(() => {}, 1); console.log("up")']);
    await untilItSpeaks(node);
    const script = resolve(import.meta.dirname, '../../node/test/support/pausing-child.ts');
    const options = { strategy: 'signal', pid: node.pid, databases: [], stateDir, budgetMs: 600_000 };
    const earlier = nursery.start(process.execPath, [script, JSON.stringify(options)]);
    await untilItSpeaks(earlier);
    for (const deadman of deadmenOf(stateDir)) process.kill(-deadman, 'SIGKILL');

    const living = await presync(['resume', '--state-dir', stateDir]);
    assert.equal(living.code, 0, living.stderr);
    assert.match(living.stdout, /^No pause that an ended presync has left/);
    assert.ok(isStopped(node.pid), 'the node of a living presync was resumed');

    await nursery.kill(earlier);
    const outcome = await presync(['resume', '--state-dir', stateDir, '--json']);
    assert.equal(outcome.code, 0, outcome.stderr);
    const { nodes } = outcome.json as { nodes: { node: string; outcome: string }[] };
    assert.deepEqual(
      nodes.map((found) => [found.node, found.outcome]),
      [[`process ${node.pid}`, 'resumed']],
    );
    assert.ok(!states(node.pid).includes('T'));
    assert.deepEqual(await readdir(stateDir), []);
    assert.equal((await presync(['resume', '--state-dir', stateDir])).code, 0);
  });

  it('a node that does not come back is exit code 8, and its intent is kept', async (t) => {
    const stateDir = await mkdtemp(join(tmpdir(), 'presync-resume-'));
    t.after(() => rm(stateDir, { recursive: true, force: true }));
    const id = '00000000-0000-4000-8000-000000000000';
    const target = {
      ...{ kind: 'hooks', before: 'true', after: 'echo the volume is busy >&2; exit 1', timeoutMs: 5000 },
      ...{ view: null, databases: [], id, stateDir },
    };
    const intent = {
      ...{ id, bootId: 'an earlier one', target, owner: { pid: 4_000_000, startTime: '1' } },
      ...{ budgetMs: 1000, created: '2026-01-01T00:00:00.000Z' },
    };
    const name = `pause-${id}.json`;
    await writeFile(join(stateDir, name), JSON.stringify(intent));
    const { code, stderr } = await presync(['resume', '--state-dir', stateDir]);
    assert.equal(code, 8, stderr);
    assert.match(stderr, /the after hook ended with exit code 1: the volume is busy/);
    assert.match(stderr, /Try: .*presync resume/);
    assert.ok((await readdir(stateDir)).includes(name));
  });
});
