/**
 * What every strategy must keep, on real processes: the node stands still, and comes back whoever dies.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import { createPauser, type PauseSettings, recoverPauses, withPause } from '../../src/pause.ts';
import { createNursery, deadmenOf, until, untilItSpeaks } from './processes.ts';

export interface PauseScene {
  settings: PauseSettings;
  /** The node stands still, or is down, as the strategy wants it. */
  isHeld(): boolean;
  /** The node runs. */
  isRunning(): boolean;
  /** Lets the node go behind presync's back. */
  letGo?: () => void;
  end(): Promise<void>;
}

const { signal } = new AbortController();
const BUDGET_MS = 60_000;

/** `canBeLetGo`: presync can tell when somebody else lets the node go, so the scene has `letGo`. */
export function testPauseContract(start: () => Promise<PauseScene>, canBeLetGo = true): void {
  const scene = async (
    work: (scene: PauseScene & { stateDir: string; kill: ReturnType<typeof createNursery> }) => Promise<void>,
  ): Promise<void> => {
    const stateDir = mkdtempSync(join(tmpdir(), 'presync-pause-'));
    const kill = createNursery();
    const started = await start();
    try {
      assert.ok(started.isRunning() && !started.isHeld(), 'the scene is not ready');
      await work({ ...started, stateDir, kill });
    } finally {
      await kill.killAll();
      await started.end();
      rmSync(stateDir, { recursive: true, force: true });
    }
  };
  const pauserOf = ({ settings, stateDir }: PauseScene & { stateDir: string }, budgetMs = BUDGET_MS) =>
    createPauser({ ...settings, budgetMs, databases: [], stateDir });
  /** A presync of its own process that has paused the node. */
  const pauseFromChild = async (
    { settings, stateDir, kill }: PauseScene & { stateDir: string; kill: ReturnType<typeof createNursery> },
    budgetMs = BUDGET_MS,
  ) => {
    const script = join(import.meta.dirname, 'pausing-child.ts');
    const options = { ...settings, budgetMs, databases: [], stateDir };
    const child = kill.start(process.execPath, [script, JSON.stringify(options)]);
    await untilItSpeaks(child);
    return child;
  };

  test('holds the node with the intent on disk, and leaves nothing', async () => {
    await scene(async (given) => {
      const { result } = await withPause(pauserOf(given), { signal }, async () => {
        assert.ok(given.isHeld());
        assert.equal(readdirSync(given.stateDir).filter((name) => name.endsWith('.json')).length, 1);
        assert.equal(deadmenOf(given.stateDir).length, 1);
        return 7;
      });
      assert.equal(result, 7);
      await until('the node runs', () => given.isRunning() && !given.isHeld());
      assert.deepEqual(readdirSync(given.stateDir), []);
      await until('the deadman is gone', () => deadmenOf(given.stateDir).length === 0);
    });
  });

  test('brings the node back when the work fails', async () => {
    await scene(async (given) => {
      const work = withPause(pauserOf(given), { signal }, async () => {
        assert.ok(given.isHeld());
        throw new Error('no');
      });
      await assert.rejects(work, /^Error: no$/);
      assert.ok(given.isRunning() && !given.isHeld());
      assert.deepEqual(readdirSync(given.stateDir), []);
    });
  });

  test('the deadman brings it back when presync is killed', async () => {
    await scene(async (given) => {
      const presync = await pauseFromChild(given);
      assert.ok(given.isHeld());
      presync.kill('SIGKILL');
      await until('the node runs', () => given.isRunning() && !given.isHeld());
      await until('the deadman is gone', () => deadmenOf(given.stateDir).length === 0);
      const recovered = await recoverPauses({ stateDir: given.stateDir, signal });
      assert.deepEqual(
        recovered.map(({ outcome, byDeadman }) => ({ outcome, byDeadman })),
        [{ outcome: 'running', byDeadman: true }],
      );
      assert.ok(given.isRunning() && !given.isHeld());
      assert.deepEqual(readdirSync(given.stateDir), []);
    });
  });

  test('the deadman brings it back when the budget is over, though presync lives', async () => {
    await scene(async (given) => {
      await pauseFromChild(given, 3000);
      await until('the node runs', () => given.isRunning() && !given.isHeld());
      await until('the deadman is gone', () => deadmenOf(given.stateDir).length === 0);
    });
  });

  test('recoverPauses brings it back when the deadman was killed as well', async () => {
    await scene(async (given) => {
      const presync = await pauseFromChild(given);
      for (const deadman of deadmenOf(given.stateDir)) process.kill(-deadman, 'SIGKILL');
      const gone = new Promise((resolve) => presync.once('exit', resolve));
      presync.kill('SIGKILL');
      await gone;
      assert.ok(given.isHeld());
      const recovered = await recoverPauses({ stateDir: given.stateDir, signal });
      assert.deepEqual(
        recovered.map(({ outcome }) => outcome),
        ['resumed'],
      );
      assert.ok(given.isRunning() && !given.isHeld());
      assert.deepEqual(readdirSync(given.stateDir), []);
    });
  });

  test('another presync does not touch it meanwhile', async () => {
    await scene(async (given) => {
      const presync = await pauseFromChild(given);
      await assert.rejects(pauserOf(given).pause({ signal }), (error) => isPresyncError(error, 'LOCKED'));
      assert.deepEqual(await recoverPauses({ stateDir: given.stateDir, signal }), []);
      assert.ok(given.isHeld());
      presync.kill('SIGKILL');
      await until('the node runs', () => given.isRunning() && !given.isHeld());
      await until('the deadman is gone', () => deadmenOf(given.stateDir).length === 0);
    });
  });

  if (!canBeLetGo) return;
  test('what was read while somebody else let the node go is thrown away', async () => {
    await scene(async (given) => {
      const work = withPause(pauserOf(given), { signal }, async () => {
        given.letGo?.();
        await until('the node runs', () => given.isRunning() && !given.isHeld());
      });
      await assert.rejects(work, (error) => isPresyncError(error, 'NODE_PAUSE_BUDGET'));
    });
  });
}
