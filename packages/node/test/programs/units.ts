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

function systemctl(...args: string[]): string {
  return spawnSync('systemctl', args, { encoding: 'utf8' }).stdout.trim();
}

function which(program: string): string {
  return spawnSync('sh', ['-c', 'command -v "$1"', 'sh', program], { encoding: 'utf8' }).stdout.trim();
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
      const script = join(import.meta.dirname, '../support/pausing-child.ts');
      const options = { ...scene.settings, budgetMs: 5000, databases: [], stateDir };
      const presync = nursery.start(process.execPath, [script, JSON.stringify(options)]);
      await untilItSpeaks(presync);
      // It must outlive that as well: systemd then reads all units again.
      systemctl('daemon-reload');
      for (const deadman of deadmenOf(stateDir)) process.kill(-deadman, 'SIGKILL');
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

    /** A presync that was killed with its deadman while it held the unit, long before its budget is over. */
    const leavePause = async ({ settings }: PauseScene): Promise<void> => {
      const script = join(import.meta.dirname, '../support/pausing-child.ts');
      const options = { ...settings, budgetMs: 60_000, databases: [], stateDir };
      const presync = nursery.start(process.execPath, [script, JSON.stringify(options)]);
      await untilItSpeaks(presync);
      for (const deadman of deadmenOf(stateDir)) process.kill(-deadman, 'SIGKILL');
      await nursery.kill(presync);
    };

    test('whoever settles a pause that was left takes its timer away', async () => {
      const scene = startScene(strategy);
      const before = timers();
      for (const settle of [
        () => recoverPauses({ stateDir, signal }),
        () => withPause(pauserOf({ unit: scene.unit }), { signal }, async () => {}),
      ]) {
        await leavePause(scene);
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
      const slow = join(stateDir, 'bin');
      mkdirSync(slow);
      writeFileSync(
        join(slow, 'systemctl'),
        `#!/bin/sh\nif [ "$2" = ${strategy} ]; then : >'${stateDir}/asked'; sleep 1; fi\nexec '${which('systemctl')}' "$@"\n`,
        { mode: 0o755 },
      );
      const script = join(import.meta.dirname, '../support/pausing-child.ts');
      const options = { ...scene.settings, budgetMs: 5000, databases: [], stateDir };
      const command = ['env', `PATH=${slow}:${process.env.PATH}`, process.execPath, script] as const;
      const presync = nursery.start(command[0], [...command.slice(1), JSON.stringify(options)]);
      await until('systemd is about to be asked', () => existsSync(join(stateDir, 'asked')));
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

test('the timer leaves a copy alone that hooks have made, however long it is read', async () => {
  const copy = join(stateDir, 'copy');
  const before = timers();
  const pauser = createPauser({
    ...{ strategy: 'hooks', databases: [], stateDir, hookTimeoutMs: 1000 },
    ...{ hookBefore: `mkdir '${copy}'`, hookAfter: `rmdir '${copy}'`, hookView: copy },
  });
  const { release } = await withPause(pauser, { signal }, async () => {});
  assert.deepEqual(timers(), before);
  await sleep(2000);
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
    const frozen = () =>
      readFileSync(`/sys/fs/cgroup${property(unit, 'ControlGroup')}/cgroup.events`, 'utf8').includes(
        'frozen 1',
      );
    await until('it is thawed', () => !frozen());
    assert.ok(isHeld(), 'systemd knows of it');
    const pauser = createPauser({ strategy: 'freeze', unit, databases: [], stateDir });
    await withPause(pauser, { signal }, async () => assert.ok(frozen()));
    assert.ok(!frozen() && !isHeld());
    await end();
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
    spawnSync('sh', ['-c', `printf '[Service]\\nExecStart=/bin/false\\n' >/run/systemd/system/${unit}`]);
    systemctl('daemon-reload');
    await assert.rejects(paused.resume(), code('NODE_RESUME_FAILED', /was not started again/));
    assert.equal(readdirSync(stateDir).filter((name) => name.endsWith('.json')).length, 1);
    for (const deadman of deadmenOf(stateDir)) process.kill(-deadman, 'SIGKILL');
    await end();
  });
});
