/** Tests of the strategies that need systemd. Run by `units.test.ts` in a machine where systemd runs. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isPresyncError } from '@presync/runtime/errors';
import { createPauser, type PauserOptions, recoverPauses, withPause } from '../../src/pause.ts';
import { type PauseScene, testPauseContract } from '../support/pause-contract.ts';
import { createNursery, deadmenOf, until, untilItSpeaks } from '../support/processes.ts';

const { signal } = new AbortController();
const nursery = createNursery();
let number = 0;
let stateDir = '';

beforeEach(() => {
  stateDir = mkdtempSync(join(tmpdir(), 'presync-units-'));
});
afterEach(async () => {
  await nursery.killAll();
  rmSync(stateDir, { recursive: true, force: true });
});

/** A test may change the one that presync has. */
const PATH = process.env.PATH;

function systemctl(...args: string[]): string {
  return spawnSync('systemctl', args, { encoding: 'utf8', env: { ...process.env, PATH } }).stdout.trim();
}

function property(unit: string, name: string): string {
  return systemctl('show', '--value', '--property', name, unit);
}

/** A unit that runs, as an operator would write it: it is still known when it is stopped. */
function startUnit(): string {
  const unit = `presync-node-${++number}.service`;
  const path = `/run/systemd/system/${unit}`;
  const write = spawnSync('sh', [
    '-c',
    `printf '[Service]\\nExecStart=%s -e "setInterval(() => {}, 1)"\\nRestart=always\\n' "$1" >"$2"`,
    'sh',
    process.execPath,
    path,
  ]);
  assert.equal(write.status, 0);
  systemctl('daemon-reload');
  systemctl('start', unit);
  assert.equal(property(unit, 'ActiveState'), 'active');
  return unit;
}

function startScene(strategy: 'freeze' | 'stop'): PauseScene & { unit: string } {
  const unit = startUnit();
  return {
    unit,
    settings: { strategy, unit },
    isHeld: () =>
      strategy === 'stop'
        ? property(unit, 'ActiveState') === 'inactive'
        : property(unit, 'FreezerState') === 'frozen',
    isRunning: () =>
      property(unit, 'ActiveState') === 'active' && property(unit, 'FreezerState') === 'running',
    letGo: () => systemctl(strategy === 'stop' ? 'start' : 'thaw', unit),
    end: async () => {
      systemctl('thaw', unit);
      systemctl('stop', unit);
    },
  };
}

/** A presync of its own process that pauses the unit with these settings. */
function startPausing(
  { settings }: PauseScene,
  { budgetMs, path = PATH }: { budgetMs: number; path?: string | undefined },
): ReturnType<typeof nursery.start> {
  const script = join(import.meta.dirname, '../support/pausing-child.ts');
  const options = { ...settings, budgetMs, databases: [], stateDir };
  return nursery.start('env', [`PATH=${path}`, process.execPath, script, JSON.stringify(options)]);
}

function killDeadmen(): void {
  for (const deadman of deadmenOf(stateDir)) process.kill(-deadman, 'SIGKILL');
}

/** A PATH in which systemctl does something else first; `$2` is what it is asked for. */
function pathWith(first: string): string {
  const folder = join(stateDir, 'bin');
  mkdirSync(folder);
  const real = spawnSync('sh', ['-c', 'command -v systemctl'], { encoding: 'utf8' }).stdout.trim();
  writeFileSync(join(folder, 'systemctl'), `#!/bin/sh\n${first}\nexec ${real} "$@"\n`, { mode: 0o755 });
  return `${folder}:${PATH}`;
}

/** What the kernel says, which is what counts. */
function isFrozen(unit: string): boolean {
  const events = `/sys/fs/cgroup${property(unit, 'ControlGroup')}/cgroup.events`;
  return readFileSync(events, 'utf8').includes('frozen 1');
}

const timers = () => systemctl('list-units', '--plain', '--no-legend', 'presync-deadman-*.timer').split('\n');
const code = (expected: Parameters<typeof isPresyncError>[1], text: RegExp) => (error: unknown) => {
  assert.ok(isPresyncError(error, expected), String(error));
  assert.match(error.message, text);
  return true;
};

for (const strategy of ['freeze', 'stop'] as const) {
  describe(`pausing a unit: ${strategy}`, () => {
    testPauseContract(async () => startScene(strategy));

    const pauserOf = (more: Partial<PauserOptions>) =>
      createPauser({ strategy, databases: [], stateDir, budgetMs: 60_000, ...more });

    test('a timer of systemd stands by, and goes with the pause', async () => {
      const { unit, end } = startScene(strategy);
      const before = timers();
      await withPause(pauserOf({ unit }), { signal }, async () => {
        const [timer = ''] = timers().filter((line) => !before.includes(line));
        assert.match(timer, /^presync-deadman-\S+\.timer +loaded active waiting/);
      });
      assert.deepEqual(timers(), before);
      await end();
    });

    test('the timer brings the unit back when presync and the deadman process were killed', async () => {
      const scene = startScene(strategy);
      const presync = startPausing(scene, { budgetMs: 5000 });
      await untilItSpeaks(presync);
      // It must outlive that as well: systemd then reads all units again.
      systemctl('daemon-reload');
      killDeadmen();
      presync.kill('SIGKILL');
      assert.ok(scene.isHeld());
      await until('the unit runs', () => scene.isRunning() && !scene.isHeld());
      await until('the intent is marked', () =>
        readdirSync(stateDir).some((name) => name.endsWith('.resumed-by-deadman')),
      );
      const recovered = await recoverPauses({ stateDir, signal });
      assert.deepEqual(
        recovered.map(({ node, outcome, byDeadman }) => ({ node, outcome, byDeadman })),
        [{ node: `unit ${scene.unit}`, outcome: 'running', byDeadman: true }],
      );
      await scene.end();
    });

    test('the timer brings the unit back when the deadman process was killed and presync hangs', async () => {
      const scene = startScene(strategy);
      await untilItSpeaks(startPausing(scene, { budgetMs: 3000 }));
      killDeadmen();
      assert.ok(scene.isHeld());
      await until('the unit runs', () => scene.isRunning() && !scene.isHeld());
      await scene.end();
    });

    test('whoever settles a pause that was left takes its timer away', async () => {
      const scene = startScene(strategy);
      const before = timers();
      for (const settle of [
        () => recoverPauses({ stateDir, signal }),
        () => withPause(pauserOf({ unit: scene.unit }), { signal }, async () => {}),
      ]) {
        const presync = startPausing(scene, { budgetMs: 60_000 });
        await untilItSpeaks(presync);
        killDeadmen();
        await nursery.kill(presync);
        assert.ok(scene.isHeld());
        assert.equal(timers().filter((line) => !before.includes(line)).length, 1);
        await settle();
        assert.ok(scene.isRunning() && !scene.isHeld());
        assert.deepEqual(timers(), before);
        assert.deepEqual(readdirSync(stateDir), []);
      }
      await scene.end();
    });

    test('a command of a killed presync that takes effect late does not leave the unit held', async () => {
      const scene = startScene(strategy);
      const asked = join(stateDir, 'asked');
      const path = pathWith(`if [ "$2" = ${strategy} ]; then : >'${asked}'; sleep 1; fi`);
      const presync = startPausing(scene, { budgetMs: 5000, path });
      await until('systemd is about to be asked', () => existsSync(asked));
      await nursery.kill(presync);
      await until('the deadman has done its work', () => deadmenOf(stateDir).length === 0);
      await until('the command takes effect', () => scene.isHeld());
      await until('the unit runs', () => scene.isRunning() && !scene.isHeld());
      await scene.end();
    });

    test('refuses a unit that is not there, does not run, or is not the node’s', async () => {
      const { unit, end } = startScene(strategy);
      const refuses = async (
        more: Partial<PauserOptions>,
        expected: Parameters<typeof isPresyncError>[1],
        text: RegExp,
      ) => assert.rejects(pauserOf(more).pause({ signal }), code(expected, text));
      await refuses({ unit: 'presync-none.service' }, 'NODE_NOT_RUNNING', /there is no unit/);
      await refuses({ unit, holder: { pid: process.pid } }, 'NODE_PAUSE_FAILED', /which is not its/);
      systemctl('stop', unit);
      await refuses({ unit }, 'NODE_NOT_RUNNING', /has no running process|is inactive/);
      assert.deepEqual(readdirSync(stateDir), []);
      await end();
    });
  });
}

test('timer and deadman leave a copy alone that hooks have made, however long it is read', async () => {
  const copy = join(stateDir, 'copy');
  const before = timers();
  const pauser = createPauser({
    ...{ strategy: 'hooks', databases: [], stateDir, hookTimeoutMs: 3000 },
    ...{ hookBefore: `mkdir '${copy}'`, hookAfter: `rmdir '${copy}'`, hookView: copy },
  });
  const { release } = await withPause(pauser, { signal }, async () => {});
  assert.deepEqual(timers(), before);
  await sleep(4000);
  assert.ok(existsSync(copy));
  await release();
  assert.ok(!existsSync(copy));
});

describe('pausing a unit', () => {
  test('a unit that was frozen by somebody else is left frozen', async () => {
    const { unit, end } = startScene('freeze');
    systemctl('freeze', unit);
    const pauser = createPauser({ strategy: 'freeze', unit, databases: [], stateDir });
    await assert.rejects(pauser.pause({ signal }), code('NODE_PAUSE_FAILED', /frozen already/));
    assert.equal(property(unit, 'FreezerState'), 'frozen');
    await end();
  });

  test('a unit that was thawed behind systemd’s back is frozen all the same', async () => {
    const { unit, isHeld, end } = startScene('freeze');
    systemctl('freeze', unit);
    writeFileSync(`/sys/fs/cgroup${property(unit, 'ControlGroup')}/cgroup.freeze`, '0');
    await until('it is thawed', () => !isFrozen(unit));
    assert.ok(isHeld(), 'systemd knows of it');
    const pauser = createPauser({ strategy: 'freeze', unit, databases: [], stateDir });
    await withPause(pauser, { signal }, async () => assert.ok(isFrozen(unit)));
    assert.ok(!isFrozen(unit) && !isHeld());
    await end();
  });

  test('a unit is thawed although systemd does not do it: by presync, the deadman and whoever comes after', async () => {
    const scene = startScene('freeze');
    const { unit } = scene;
    const path = pathWith('[ "$2" != thaw ] || exit 1');
    process.env.PATH = path;
    try {
      const pauser = createPauser({ strategy: 'freeze', unit, databases: [], stateDir });
      await withPause(pauser, { signal }, async () => assert.ok(isFrozen(unit)));
      assert.ok(!isFrozen(unit));
      for (const alone of [false, true]) {
        systemctl('thaw', unit);
        const presync = startPausing(scene, { budgetMs: 60_000, path });
        await untilItSpeaks(presync);
        assert.ok(isFrozen(unit));
        if (alone) killDeadmen();
        await nursery.kill(presync);
        if (!alone) await until('it is thawed', () => !isFrozen(unit));
        await recoverPauses({ stateDir, signal });
        assert.ok(!isFrozen(unit));
      }
    } finally {
      process.env.PATH = PATH;
    }
    await scene.end();
  });

  test('never its own unit', async () => {
    const script = join(import.meta.dirname, '../support/pausing-child.ts');
    for (const strategy of ['freeze', 'stop'] as const) {
      const unit = `presync-self-${++number}.service`;
      const options = { strategy, unit, databases: [], stateDir };
      const ran = spawnSync(
        'systemd-run',
        ['--quiet', '--wait', '--pipe', `--unit=${unit}`, process.execPath, script, JSON.stringify(options)],
        { encoding: 'utf8' },
      );
      assert.notEqual(ran.status, 0);
      assert.match(ran.stderr, /presync itself/);
    }
  });

  test('a unit that does not come up again is told, and its intent stays', async () => {
    const { unit, end } = startScene('stop');
    const paused = await createPauser({ strategy: 'stop', unit, databases: [], stateDir }).pause({ signal });
    // It is up at first.
    writeFileSync(`/run/systemd/system/${unit}`, '[Service]\nType=exec\nExecStart=/bin/sleep 0.5\n');
    systemctl('daemon-reload');
    await assert.rejects(paused.resume(), code('NODE_RESUME_FAILED', /was not started again/));
    assert.equal(readdirSync(stateDir).filter((name) => name.endsWith('.json')).length, 1);
    killDeadmen();
    await end();
  });
});
