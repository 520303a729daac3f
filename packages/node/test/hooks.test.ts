import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import { needs } from '../../../test/support/needs.ts';
import { unpackFixture } from '../../../test/support/real-node.ts';
import { findDatabase } from '../src/layout.ts';
import { createHooksHold } from '../src/lib/hooks-hold.ts';
import { createPauser, type PauserOptions, recoverPauses, withPause } from '../src/pause.ts';
import { openCopy } from '../src/view.ts';
import { hasFileSystem, makeFileSystem } from './support/filesystems.ts';
import { testPauseContract } from './support/pause-contract.ts';
import { createNursery, deadmenOf, hasCommand, isStopped, until } from './support/processes.ts';

const { signal } = new AbortController();
const there = needs(
  'flock and timeout',
  hasCommand('flock', '--version') && hasCommand('timeout', '--version'),
);
const nursery = createNursery();
let dir = '';
let stateDir = '';
let log = '';

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'presync-hooks-'));
  stateDir = join(dir, 'state');
  log = join(dir, 'log');
  writeFileSync(log, '');
});
afterEach(async () => {
  await nursery.killAll();
  rmSync(dir, { recursive: true, force: true });
});

const lines = () => readFileSync(log, 'utf8').split('\n').filter(Boolean);
const note = (text: string) => `echo ${text} >> '${log}'`;
const optionsOf = (more: Partial<PauserOptions> = {}): PauserOptions => ({
  strategy: 'hooks',
  hookBefore: note('before'),
  hookAfter: note('after'),
  hookTimeoutMs: 60_000,
  databases: [],
  stateDir,
  ...more,
});
const pauserOf = (more: Partial<PauserOptions> = {}) => createPauser(optionsOf(more));
const code = (expected: Parameters<typeof isPresyncError>[1], text: RegExp) => (error: unknown) => {
  assert.ok(isPresyncError(error, expected), String(error));
  assert.match(error.message, text);
  return true;
};
/** A presync of its own process with these hooks. */
function startChild(more: Partial<PauserOptions>) {
  const script = join(import.meta.dirname, 'support/pausing-child.ts');
  return nursery.start(process.execPath, [script, JSON.stringify(optionsOf(more))]);
}

describe('pausing by hooks', there, () => {
  testPauseContract(async () => {
    const child = nursery.start(process.execPath, ['-e', 'setInterval(() => {}, 1); console.log("up")']);
    await new Promise((done) => child.stdout?.once('data', done));
    const { pid } = child;
    return {
      settings: {
        strategy: 'hooks',
        // Each thread stops in its own time.
        hookBefore: `kill -STOP ${pid}; while grep -L '^State:.T' /proc/${pid}/task/*/status | grep -q .; do sleep 0.01; done`,
        hookAfter: `kill -CONT ${pid}; while grep -q '^State:.T' /proc/${pid}/task/*/status; do sleep 0.01; done`,
        hookTimeoutMs: 60_000,
      },
      isHeld: () => isStopped(pid),
      isRunning: () => !isStopped(pid),
      end: () => nursery.killAll(),
    };
  }, false);

  test('hooks are told what they are for, the same in an emergency, and what they say is told', async () => {
    const said: string[] = [];
    const tell = 'env | sort | grep ^PRESYNC_HOOK; echo oops >&2';
    const more: Partial<PauserOptions> = {
      hookBefore: tell,
      hookAfter: `${tell}; env | sort | grep -v ^_= | grep -v ^PWD= | grep -v ^SHLVL= >> '${log}'`,
      databases: [{ dir: '/srv/a b', backend: 'rocksdb' }],
    };
    await withPause(pauserOf({ ...more, onOutput: (line) => said.push(line) }), { signal }, async () => {
      assert.ok(said.includes('PRESYNC_HOOK_PHASE=before'));
      assert.ok(said.includes('PRESYNC_HOOK_DATABASES=/srv/a b'));
      assert.ok(said.includes('oops'));
    });
    assert.ok(said.includes('PRESYNC_HOOK_PHASE=after'));
    const normally = lines().filter((line) => !line.startsWith('PRESYNC_HOOK_ID='));
    writeFileSync(log, '');
    const child = startChild(more);
    await new Promise((done) => child.stdout?.once('data', done));
    child.kill('SIGKILL');
    await until('the deadman is gone', () => deadmenOf(stateDir).length === 0);
    assert.deepEqual(
      lines().filter((line) => !line.startsWith('PRESYNC_HOOK_ID=')),
      normally,
    );
  });

  test('after runs when before fails, and what before said is in the error', async () => {
    const pauser = pauserOf({ hookBefore: 'echo no such volume >&2; exit 3' });
    await assert.rejects(pauser.pause({ signal }), code('NODE_PAUSE_FAILED', /exit code 3: no such volume/));
    assert.deepEqual(lines(), ['after']);
    assert.deepEqual(readdirSync(stateDir), []);
  });

  test('a before that hangs is ended with all that it has started, then after runs', async () => {
    const pidFile = join(dir, 'pid');
    const pauser = pauserOf({
      hookBefore: `trap '' TERM; sleep 600 & echo $! > '${pidFile}'; wait; sleep 600`,
      budgetMs: 1000,
    });
    await assert.rejects(pauser.pause({ signal }), code('NODE_PAUSE_FAILED', /did not end within 1000 ms/));
    assert.deepEqual(lines(), ['after']);
    assert.equal(existsSync(`/proc/${readFileSync(pidFile, 'utf8').trim()}`), false);
  });

  test('an after that fails is told, and its intent stays until it succeeds', async () => {
    const more = { hookAfter: `[ -e '${dir}/go' ] || { echo busy >&2; exit 1; }; ${note('after')}` };
    const paused = await pauserOf(more).pause({ signal });
    await assert.rejects(paused.resume(), code('NODE_RESUME_FAILED', /exit code 1: busy/));
    assert.equal(readdirSync(stateDir).filter((name) => name.endsWith('.json')).length, 1);
    for (const deadman of deadmenOf(stateDir)) process.kill(-deadman, 'SIGKILL');
    const [name = ''] = readdirSync(stateDir).filter((entry) => entry.endsWith('.json'));
    const intent = JSON.parse(readFileSync(join(stateDir, name), 'utf8'));
    // As if the machine had been started anew: what hooks have done outlives that.
    writeFileSync(join(stateDir, name), JSON.stringify({ ...intent, bootId: 'another' }));
    await assert.rejects(recoverPauses({ stateDir, signal }), code('NODE_RESUME_FAILED', /busy/));
    writeFileSync(join(dir, 'go'), '');
    const [recovered] = await recoverPauses({ stateDir, signal });
    assert.equal(recovered?.outcome, 'resumed');
    assert.deepEqual(lines(), ['before', 'after']);
    assert.deepEqual(readdirSync(stateDir), []);
  });

  test('a before that outlives its presync is waited for, and after runs once, whoever else wants to', async () => {
    const child = startChild({
      hookBefore: `${note('before')}; while [ ! -e '${dir}/go' ]; do sleep 0.05; done; ${note('made')}`,
      hookAfter: `${note('after')}; sleep 1`,
    });
    await until('before runs', () => lines().includes('before'));
    child.kill('SIGKILL');
    const recovering = recoverPauses({ stateDir, signal });
    await new Promise((done) => setTimeout(done, 500));
    assert.deepEqual(lines(), ['before']);
    writeFileSync(join(dir, 'go'), '');
    // Either the deadman or this one.
    await recovering;
    await until('the deadman is gone', () => deadmenOf(stateDir).length === 0);
    await recoverPauses({ stateDir, signal });
    assert.deepEqual(lines(), ['before', 'made', 'after']);
    assert.deepEqual(
      readdirSync(stateDir).filter((name) => name.startsWith('pause-')),
      [],
    );
  });

  test('without both hooks nothing begins', () => {
    assert.throws(() => pauserOf({ hookBefore: undefined }), code('CONFIG_INVALID', /--hook-before/));
    assert.throws(() => pauserOf({ hookAfter: undefined }), code('CONFIG_INVALID', /--hook-after/));
  });
});

describe('hooks that leave a copy', there, () => {
  test('the copy stays after the pause until it is given back', async () => {
    const { result, release } = await withPause(
      pauserOf({ hookView: join(dir, 'copy'), budgetMs: 100 }),
      { signal },
      async ({ copy }) => copy,
    );
    assert.equal(result, join(dir, 'copy'));
    await new Promise((done) => setTimeout(done, 500));
    assert.deepEqual(lines(), ['before']);
    await release();
    await release();
    assert.deepEqual(lines(), ['before', 'after']);
    assert.deepEqual(readdirSync(stateDir), []);
  });

  test('presync dies while it reads: the deadman takes the copy away', async () => {
    const child = startChild({ hookView: join(dir, 'copy') });
    await new Promise((done) => child.stdout?.once('data', done));
    child.kill('SIGKILL');
    await until('after has run', () => lines().includes('after'));
  });

  test('an emergency that comes when all is over does nothing, and leaves nothing', async () => {
    const { emergency } = createHooksHold({
      ...{
        kind: 'hooks',
        before: 'true',
        after: note('after'),
        timeoutMs: 60_000,
        view: null,
        databases: [],
      },
      ...{ id: randomUUID(), stateDir: dir },
    });
    const script = `f() {\n${emergency.script}\n}\nf "$@"`;
    const { status } = spawnSync('sh', ['-c', script, 'sh', ...emergency.args]);
    assert.equal(status, 0);
    assert.deepEqual(lines(), []);
    assert.deepEqual(
      readdirSync(dir).filter((name) => name.startsWith('hook-')),
      [],
    );
  });

  test('what a presync that was killed at the very end has left is swept away, and nothing that is in use', async () => {
    const paused = await pauserOf().pause({ signal });
    const left = randomUUID();
    for (const ending of ['lock', 'done']) writeFileSync(join(stateDir, `hook-${left}.${ending}`), '');
    assert.deepEqual(await recoverPauses({ stateDir, signal }), []);
    const names = readdirSync(stateDir).filter((name) => name.startsWith('hook-'));
    assert.equal(names.length, 1, names.join());
    assert.ok(!names[0]?.includes(left));
    await paused.resume();
    await paused.release();
    assert.deepEqual(readdirSync(stateDir), []);
  });

  test('a copy that somebody else has taken away spoils what was read of it', async () => {
    const { release } = await withPause(
      pauserOf({ hookView: join(dir, 'copy') }),
      { signal },
      async () => {},
    );
    const [name = ''] = readdirSync(stateDir).filter((entry) => entry.endsWith('.json'));
    writeFileSync(join(stateDir, name.replace(/^pause-(.*)\.json$/, 'hook-$1.done')), '');
    await assert.rejects(release(), code('NODE_CHANGED', /taken away/));
  });

  test('what is no copy of the database is refused', async () => {
    const base = join(dir, 'base');
    await unpackFixture('rocksdb', base);
    const layout = await findDatabase({ basePath: base, signal });
    await assert.rejects(
      openCopy(layout, join(dir, 'none'), { signal }),
      code('NODE_PAUSE_FAILED', /no copy/),
    );
    await assert.rejects(openCopy(layout, base, { signal }), code('NODE_PAUSE_FAILED', /live database/));
    const other = join(dir, 'other');
    spawnSync('cp', ['-a', base, other]);
    const view = await openCopy(layout, other, { signal });
    assert.equal(view.files[0]?.archivePath, `${layout.archivePrefix}/${view.files[0]?.name}`);
    writeFileSync(join(other, layout.archivePrefix, 'IDENTITY'), 'another');
    await assert.rejects(openCopy(layout, other, { signal }), code('NODE_PAUSE_FAILED', /another database/));
  });
});

describe('the btrfs recipe', needs('btrfs on a loop device', hasFileSystem('btrfs')), () => {
  test('the copy stands still while the database goes on, and is gone after', async () => {
    const fileSystem = makeFileSystem('btrfs');
    try {
      const base = join(fileSystem.dir, 'node');
      const copy = join(fileSystem.dir, 'snapshot');
      assert.equal(spawnSync('btrfs', ['subvolume', 'create', base]).status, 0);
      await unpackFixture('paritydb', base);
      const layout = await findDatabase({ basePath: base, signal });
      const recipe = resolve(import.meta.dirname, '../../../deploy/hooks/btrfs.sh');
      const pauser = pauserOf({
        hookBefore: `'${recipe}' before '${base}' '${copy}'`,
        hookAfter: `'${recipe}' after '${base}' '${copy}'`,
        hookView: copy,
      });
      const live = join(layout.dir, 'metadata');
      const before = readFileSync(live);
      const { result: view, release } = await withPause(pauser, { signal }, ({ copy: at, signal: inner }) =>
        openCopy(layout, at ?? '', { signal: inner }),
      );
      appendFileSync(live, 'later');
      const frozen = view.files.find(({ name }) => name === 'metadata');
      assert.deepEqual(readFileSync(frozen?.viewPath ?? ''), before);
      await release();
      assert.equal(existsSync(copy), false);
    } finally {
      fileSystem.remove();
    }
  });
});
