import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isPresyncError } from '@presync/runtime/errors';
import { needs } from '../../../test/support/needs.ts';
import { startDeadman } from '../src/lib/deadman.ts';
import { ownProcess, processStatus } from '../src/lib/proc.ts';
import { createProcessHold } from '../src/lib/process-hold.ts';
import { createPauser, recoverPauses, watchBlocksAdvance, withPause } from '../src/pause.ts';
import { createNursery, deadmenOf, hasCommand, isStopped, states, until } from './support/processes.ts';

const { signal } = new AbortController();
const linux = needs('Linux', process.platform === 'linux');
const nursery = createNursery();
let stateDir = '';
beforeEach(() => {
  stateDir = mkdtempSync(join(tmpdir(), 'presync-pause-'));
});
afterEach(async () => {
  await nursery.killAll();
  rmSync(stateDir, { recursive: true, force: true });
});

/** A process with several threads that are always busy with something. */
async function startVictim(): Promise<number> {
  const child = nursery.start(process.execPath, ['-e', 'setInterval(() => {}, 1); console.log("up")']);
  await new Promise((resolve) => child.stdout?.once('data', resolve));
  return child.pid;
}

const pauserOf = (pid: number, budgetMs = 60_000) =>
  createPauser({ strategy: 'signal', pid, databases: [], stateDir, budgetMs });
const code = (expected: Parameters<typeof isPresyncError>[1]) => (error: unknown) => {
  assert.ok(isPresyncError(error, expected), String(error));
  return true;
};

describe('pausing by signal', linux, () => {
  test('all threads stop, the intent is on disk, and after resuming nothing is left', async () => {
    const pid = await startVictim();
    const paused = await pauserOf(pid).pause({ signal });
    assert.ok(isStopped(pid), states(pid));
    assert.ok(states(pid).length > 1);
    const [name = ''] = readdirSync(stateDir);
    const intent = JSON.parse(readFileSync(join(stateDir, name), 'utf8'));
    assert.deepEqual(intent.target, {
      kind: 'process',
      node: { pid, startTime: processStatus(pid)?.startTime },
    });
    assert.deepEqual(intent.owner, ownProcess());
    assert.equal(deadmenOf(stateDir).length, 1);
    await sleep(100);
    const { seconds, inTime } = await paused.resume();
    assert.ok(seconds >= 0.1 && inTime);
    assert.ok(!states(pid).includes('T'));
    assert.deepEqual(readdirSync(stateDir), []);
    assert.deepEqual(deadmenOf(stateDir), []);
    assert.deepEqual(await paused.resume(), { seconds, inTime });
  });

  test('withPause resumes when the work fails and when it is stopped from outside', async () => {
    const pid = await startVictim();
    await assert.rejects(
      withPause(pauserOf(pid), { signal }, async () => {
        assert.ok(isStopped(pid));
        throw new Error('no');
      }),
      /^Error: no$/,
    );
    assert.ok(!states(pid).includes('T'));
    const stop = new AbortController();
    const work = withPause(pauserOf(pid), { signal: stop.signal }, async ({ signal: inner }) => {
      stop.abort();
      await sleep(60_000, undefined, { signal: inner });
    });
    await assert.rejects(work, { name: 'AbortError' });
    assert.ok(!states(pid).includes('T'));
    assert.deepEqual(readdirSync(stateDir), []);
  });

  test('work that hears its signal ends with the budget', async () => {
    const pid = await startVictim();
    const work = withPause(pauserOf(pid, 200), { signal }, async ({ signal: inner }) => {
      await new Promise((_, reject) => inner.addEventListener('abort', () => reject(inner.reason)));
    });
    await assert.rejects(work, code('NODE_PAUSE_BUDGET'));
    assert.ok(!states(pid).includes('T'));
  });

  test('work that is deaf ends with NODE_PAUSE_BUDGET too, after the deadman has resumed the node', async () => {
    const pid = await startVictim();
    let resumedBy = '';
    const work = withPause(pauserOf(pid, 300), { signal }, async () => {
      // Nothing of this process runs meanwhile, as if it hung: only the deadman can act.
      const end = performance.now() + 5000;
      while (isStopped(pid) && performance.now() < end);
      await sleep(200);
      resumedBy = readdirSync(stateDir).join();
      return 'result';
    });
    await assert.rejects(work, code('NODE_PAUSE_BUDGET'));
    assert.match(resumedBy, /^pause-.*\.json\.resumed-by-deadman$/);
    assert.deepEqual(readdirSync(stateDir), []);
  });

  test('a node that somebody resumed during the work spoils the result', async () => {
    const pid = await startVictim();
    const work = withPause(pauserOf(pid), { signal }, async () => {
      process.kill(pid, 'SIGCONT');
      await until('it runs', () => !isStopped(pid));
    });
    await assert.rejects(work, code('NODE_PAUSE_BUDGET'));
  });

  test('a node that ends during the pause is reported, and nothing is left', async () => {
    const pid = await startVictim();
    const work = withPause(pauserOf(pid), { signal }, async () => {
      await nursery.killAll();
    });
    await assert.rejects(work, code('NODE_RESUME_FAILED'));
    assert.deepEqual(readdirSync(stateDir), []);
    assert.deepEqual(deadmenOf(stateDir), []);
  });

  test('refuses what cannot be the node', async () => {
    const victim = await startVictim();
    for (const pid of [1, process.pid, process.ppid]) {
      await assert.rejects(pauserOf(pid).pause({ signal }), code('NODE_PAUSE_FAILED'), String(pid));
    }
    const other = createPauser({
      strategy: 'signal',
      pid: victim,
      holder: { pid: process.pid },
      databases: [],
      stateDir,
      budgetMs: 1000,
    });
    await assert.rejects(other.pause({ signal }), code('NODE_PAUSE_FAILED'));
    const gone = await startVictim();
    await nursery.killAll();
    await assert.rejects(pauserOf(gone).pause({ signal }), code('NODE_NOT_RUNNING'));
    const pidFile = join(stateDir, 'node.pid');
    const byFile = createPauser({ strategy: 'signal', pidFile, databases: [], stateDir, budgetMs: 1000 });
    await assert.rejects(byFile.pause({ signal }), code('NODE_NOT_RUNNING'));
    writeFileSync(pidFile, 'twelve');
    await assert.rejects(byFile.pause({ signal }), code('NODE_PAUSE_FAILED'));
    const nobody = createPauser({ strategy: 'signal', databases: [], stateDir, budgetMs: 1000 });
    await assert.rejects(nobody.pause({ signal }), code('NODE_NOT_RUNNING'));
    const unseen = createPauser({
      strategy: 'signal',
      holder: {},
      databases: [],
      stateDir,
      budgetMs: 1000,
    });
    await assert.rejects(unseen.pause({ signal }), code('NODE_PAUSE_FAILED'));
    assert.throws(
      () => createPauser({ strategy: 'signal', pid: 5, databases: [], stateDir, budgetMs: 0 }),
      code('CONFIG_INVALID'),
    );
  });

  test('leaves a process alone that somebody else has stopped', async () => {
    const pid = await startVictim();
    process.kill(pid, 'SIGSTOP');
    await until('it is stopped', () => isStopped(pid));
    await assert.rejects(pauserOf(pid).pause({ signal }), code('NODE_PAUSE_FAILED'));
    assert.ok(isStopped(pid));
    assert.deepEqual(readdirSync(stateDir), []);
  });

  test('two presyncs never pause the same node', async () => {
    const pid = await startVictim();
    const paused = await pauserOf(pid).pause({ signal });
    await assert.rejects(pauserOf(pid).pause({ signal }), code('LOCKED'));
    assert.ok(isStopped(pid));
    await paused.resume();
  });

  test('without a shell for the deadman the node is not paused', async () => {
    const pid = await startVictim();
    for (const shell of [['/nonexistent/sh'], ['false']]) {
      const pauser = createPauser({
        strategy: 'signal',
        pid,
        databases: [],
        stateDir,
        budgetMs: 1000,
        shell,
      });
      await assert.rejects(pauser.pause({ signal }), code('NODE_PAUSE_FAILED'));
      assert.ok(!states(pid).includes('T'));
      assert.deepEqual(readdirSync(stateDir), []);
    }
  });
});

const python = hasCommand('python3', '--version');
describe('a node that does not stop at once', needs('python3', python), () => {
  test('is not taken for paused, and is not left with a stop that takes effect later', async () => {
    // A process that spawns another one cannot be stopped until the other has opened its input: a FIFO, which waits.
    const fifo = join(stateDir, 'fifo');
    spawnSync('mkfifo', [fifo]);
    const program = `import os
print('up', flush=True)
os.posix_spawn('/bin/true', ['true'], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 0, ${JSON.stringify(fifo)}, os.O_RDONLY, 0)])`;
    const child = nursery.start('python3', ['-c', program]);
    const exit = new Promise((resolve) => child.once('exit', resolve));
    await new Promise((resolve) => child.stdout?.once('data', resolve));
    // It may wait for the disk for a moment, too; in the spawning it stays.
    let hanging = 0;
    await until('it hangs in the spawning', () => {
      hanging = states(child.pid) === 'D' ? hanging + 1 : 0;
      return hanging > 50;
    });
    await assert.rejects(pauserOf(child.pid, 300).pause({ signal }), code('NODE_PAUSE_FAILED'));
    assert.deepEqual(readdirSync(stateDir), ['fifo']);
    writeFileSync(fifo, '');
    assert.equal(await Promise.race([exit, sleep(30_000, 'still stopped', { ref: false })]), 0);
  });
});

/** Starts a presync of its own process that pauses the victim. */
async function pauseFromChild(pid: number, budgetMs: number, shell: string[]) {
  const script = join(import.meta.dirname, 'support/pausing-child.ts');
  const options = { strategy: 'signal', pid, databases: [], stateDir, budgetMs };
  const child = nursery.start(process.execPath, [
    script,
    JSON.stringify(shell.length === 0 ? options : { ...options, shell }),
  ]);
  await new Promise((resolve) => child.stdout?.once('data', resolve));
  assert.ok(isStopped(pid));
  return child;
}

const SHELLS: [string, string[], boolean][] = [
  ['sh', ['sh'], true],
  ['dash', ['dash'], hasCommand('dash', '-c', ':')],
  ['busybox', ['busybox', 'sh'], hasCommand('busybox', 'true')],
  ['bash', ['bash'], hasCommand('bash', '-c', ':')],
];

describe('the deadman', linux, () => {
  for (const [name, shell, found] of SHELLS) {
    test(`${name}: resumes the node when presync is killed`, needs(name, found), async () => {
      const pid = await startVictim();
      const presync = await pauseFromChild(pid, 600_000, shell);
      presync.kill('SIGKILL');
      await until('the node runs', () => !states(pid).includes('T'));
      await until('the deadman is gone', () => deadmenOf(stateDir).length === 0);
      assert.match(readdirSync(stateDir).join(), /^pause-[^,]*\.json\.resumed-by-deadman$/);
      const [recovered] = await recoverPauses({ stateDir, signal });
      assert.deepEqual(
        { ...recovered, intentPath: '' },
        { intentPath: '', node: `process ${pid}`, outcome: 'running', byDeadman: true },
      );
      assert.deepEqual(readdirSync(stateDir), []);
    });

    test(
      `${name}: resumes the node when the budget is over, though presync is alive`,
      needs(name, found),
      async () => {
        const pid = await startVictim();
        await pauseFromChild(pid, 500, shell);
        await until('the node runs', () => !states(pid).includes('T'));
        await until('the deadman is gone', () => deadmenOf(stateDir).length === 0);
      },
    );
  }

  test('a presync that is dead but not yet reaped counts as dead', async () => {
    const pid = await startVictim();
    // Its parent sleeps and never waits for it, so it stays a zombie.
    const script = join(import.meta.dirname, 'support/pausing-child.ts');
    const parent = nursery.start('sh', [
      '-c',
      '"$0" "$@" & exec sleep 600',
      process.execPath,
      script,
      JSON.stringify({ strategy: 'signal', pid, databases: [], stateDir, budgetMs: 600_000 }),
    ]);
    await until('it is paused', () => isStopped(pid));
    const [name = ''] = readdirSync(stateDir).filter((file) => file.endsWith('.json'));
    const presync: number = JSON.parse(readFileSync(join(stateDir, name), 'utf8')).owner.pid;
    assert.equal(processStatus(presync)?.parent, parent.pid);
    process.kill(presync, 'SIGKILL');
    await until('the node runs', () => !states(pid).includes('T'));
    assert.equal(processStatus(presync)?.state, 'Z');
  });

  test('it signals nobody when the node’s pid was given to another process, and leaves by itself', async () => {
    const pid = await startVictim();
    process.kill(pid, 'SIGSTOP');
    await until('it is stopped', () => isStopped(pid));
    const intentPath = join(stateDir, 'pause-intent');
    writeFileSync(intentPath, '');
    const dead = { pid: 4_000_000, startTime: '1' };
    const startTime = processStatus(pid)?.startTime ?? '';
    const start = (node: { pid: number; startTime: string }) =>
      startDeadman({
        id: 'test',
        intentPath,
        emergency: createProcessHold(node).emergency,
        owner: dead,
        budgetMs: 600_000,
        endless: false,
        shell: ['sh'],
        signal,
      });
    const wrong = await start({ pid, startTime: `${startTime}0` });
    await until('it is gone', () => deadmenOf(stateDir).length === 0);
    assert.ok(isStopped(pid));
    await wrong.stop();
    // The same with the right start time, so that the test above cannot pass for another reason.
    writeFileSync(intentPath, '');
    await start({ pid, startTime });
    await until('the node runs', () => !isStopped(pid));
  });

  test('SIGTERM to it and to its group does not end it', async () => {
    const pid = await startVictim();
    const presync = await pauseFromChild(pid, 600_000, []);
    const [deadman = 0] = deadmenOf(stateDir);
    for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.kill(-deadman, name);
    await sleep(200);
    presync.kill('SIGKILL');
    await until('the node runs', () => !states(pid).includes('T'));
  });
});

describe('recoverPauses', linux, () => {
  /** What a presync that was killed together with its deadman leaves behind. */
  async function orphanedPause(): Promise<number> {
    const pid = await startVictim();
    const presync = await pauseFromChild(pid, 600_000, []);
    for (const deadman of deadmenOf(stateDir)) process.kill(-deadman, 'SIGKILL');
    await until('the deadman is gone', () => deadmenOf(stateDir).length === 0);
    const gone = new Promise((resolve) => presync.once('exit', resolve));
    presync.kill('SIGKILL');
    await gone;
    await sleep(200);
    assert.ok(isStopped(pid));
    return pid;
  }

  test('resumes the node of a dead presync', async () => {
    const pid = await orphanedPause();
    const recovered = await recoverPauses({ stateDir, signal });
    assert.deepEqual(
      recovered.map(({ node, outcome, byDeadman }) => ({ node, outcome, byDeadman })),
      [{ node: `process ${pid}`, outcome: 'resumed', byDeadman: false }],
    );
    assert.ok(!states(pid).includes('T'));
    assert.deepEqual(readdirSync(stateDir), []);
  });

  test('a pause after such a death first brings the node back, then pauses it', async () => {
    const pid = await orphanedPause();
    const paused = await pauserOf(pid).pause({ signal });
    assert.equal(readdirSync(stateDir).length, 1);
    await paused.resume();
    assert.ok(!states(pid).includes('T'));
  });

  test('leaves the intent of a living presync alone', async () => {
    const pid = await startVictim();
    const paused = await pauserOf(pid).pause({ signal });
    assert.deepEqual(await recoverPauses({ stateDir, signal }), []);
    assert.ok(isStopped(pid));
    await paused.resume();
  });

  test('never signals a process that merely has the pid, and clears what is unreadable or of another boot', async () => {
    const pid = await startVictim();
    const paused = await pauserOf(pid).pause({ signal });
    const [own = ''] = readdirSync(stateDir);
    const intent = JSON.parse(readFileSync(join(stateDir, own), 'utf8'));
    const other = (index: number, content: string) =>
      writeFileSync(join(stateDir, `pause-00000000-0000-4000-8000-00000000000${index}.json`), content);
    const dead = { pid: 4_000_000, startTime: '1' };
    other(
      1,
      JSON.stringify({ ...intent, owner: dead, target: { kind: 'process', node: { pid, startTime: '1' } } }),
    );
    other(2, JSON.stringify({ ...intent, bootId: 'another' }));
    other(3, '{"id":');
    const recovered = await recoverPauses({ stateDir, signal });
    assert.deepEqual(
      recovered.map(({ outcome }) => outcome),
      ['gone', 'gone', 'unreadable'],
    );
    assert.ok(isStopped(pid));
    assert.deepEqual(readdirSync(stateDir), [own]);
    await paused.resume();
  });

  test('a folder that is not there holds no pauses', async () => {
    assert.deepEqual(await recoverPauses({ stateDir: join(stateDir, 'none'), signal }), []);
  });
});

test('strategy none runs the work and measures it', async () => {
  const { result, seconds } = await withPause(
    createPauser({ strategy: 'none', databases: [], stateDir }),
    { signal },
    async () => 7,
  );
  assert.equal(result, 7);
  assert.ok(seconds >= 0);
});

test('watchBlocksAdvance resolves with the next block, and fails when there is none', async () => {
  let number = 10;
  const rpc = { best: async () => ({ number: number++ }) };
  assert.equal(await watchBlocksAdvance(rpc, { since: 11, timeoutMs: 10_000, intervalMs: 1, signal }), 12);
  const still = { best: async () => ({ number: 5 }) };
  await assert.rejects(
    watchBlocksAdvance(still, { since: 5, timeoutMs: 30, intervalMs: 5, signal }),
    code('NODE_NOT_READY'),
  );
  await assert.rejects(
    watchBlocksAdvance(still, { since: 5, timeoutMs: 60_000, signal: AbortSignal.timeout(20) }),
    code('ABORTED'),
  );
});
