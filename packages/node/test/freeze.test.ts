import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, test } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import { needs } from '../../../test/support/needs.ts';
import { createPauser } from '../src/pause.ts';
import { freezerRoot, makeCgroup } from './support/cgroups.ts';
import { type PauseScene, testPauseContract } from './support/pause-contract.ts';
import { createNursery, until } from './support/processes.ts';

const { signal } = new AbortController();
const nursery = createNursery();
let number = 0;

afterEach(() => nursery.killAll());

const cgroupName = () => `presync-test-${process.pid}-${++number}`;

async function start(): Promise<number> {
  const child = nursery.start(process.execPath, ['-e', 'setInterval(() => {}, 1); console.log("up")']);
  await new Promise((resolve) => child.stdout?.once('data', resolve));
  return child.pid;
}

/** A process that is seen to run: its CPU time grows. */
async function startIn(version: 1 | 2): Promise<PauseScene & { pid: number; dir: string }> {
  const cgroup = makeCgroup(version, cgroupName());
  const pid = await start();
  cgroup.add(pid);
  return {
    pid,
    dir: cgroup.dir,
    settings: { strategy: 'freeze', pid },
    isHeld: cgroup.isFrozen,
    isRunning: () => !cgroup.isFrozen(),
    letGo: cgroup.thaw,
    end: async () => {
      cgroup.thaw();
      await nursery.killAll();
      await until('the cgroup is empty', () => {
        try {
          cgroup.remove();
          return true;
        } catch {
          return false;
        }
      });
    },
  };
}

const pauserOf = (pid: number, stateDir: string) =>
  createPauser({ strategy: 'freeze', pid, databases: [], stateDir, budgetMs: 60_000 });
const code = (expected: Parameters<typeof isPresyncError>[1], text: RegExp) => (error: unknown) => {
  assert.ok(isPresyncError(error, expected), String(error));
  assert.match(error.message, text);
  return true;
};

for (const version of [1, 2] as const) {
  const there = needs(`root and the freezer of cgroup v${version}`, freezerRoot(version) !== undefined);
  describe(`pausing by the freezer of cgroup v${version}`, there, () => {
    testPauseContract(() => startIn(version));

    test('refuses a cgroup that holds anybody but the node', async () => {
      const stateDir = mkdtempSync(join(tmpdir(), 'presync-freeze-'));
      const scene = await startIn(version);
      try {
        const stranger = await start();
        writeFileSync(join(scene.dir, 'cgroup.procs'), String(stranger));
        await assert.rejects(
          pauserOf(scene.pid, stateDir).pause({ signal }),
          code('NODE_PAUSE_FAILED', /process \d+ \(.*\) is in it, which the node has not started/),
        );
        assert.ok(!scene.isHeld());
        assert.deepEqual(readdirSync(stateDir), []);
      } finally {
        await scene.end();
        rmSync(stateDir, { recursive: true });
      }
    });

    test('refuses one that somebody else has frozen, and leaves it so', async () => {
      const stateDir = mkdtempSync(join(tmpdir(), 'presync-freeze-'));
      const scene = await startIn(version);
      try {
        const [file, word] = version === 2 ? ['cgroup.freeze', '1'] : ['freezer.state', 'FROZEN'];
        writeFileSync(join(scene.dir, file), word);
        await until('it is frozen', scene.isHeld);
        await assert.rejects(
          pauserOf(scene.pid, stateDir).pause({ signal }),
          code('NODE_PAUSE_FAILED', /frozen already/),
        );
        assert.ok(scene.isHeld());
      } finally {
        await scene.end();
        rmSync(stateDir, { recursive: true });
      }
    });

    test('a node that has ended is told', async () => {
      const stateDir = mkdtempSync(join(tmpdir(), 'presync-freeze-'));
      const scene = await startIn(version);
      await scene.end();
      await assert.rejects(
        pauserOf(scene.pid, stateDir).pause({ signal }),
        code('NODE_NOT_RUNNING', /no process/),
      );
      rmSync(stateDir, { recursive: true });
    });
  });
}

describe('pausing by the freezer', needs('Linux', process.platform === 'linux'), () => {
  test('refuses a node that shares its cgroup with presync, or has none of its own', async () => {
    const stateDir = mkdtempSync(join(tmpdir(), 'presync-freeze-'));
    const pid = await start();
    await assert.rejects(
      pauserOf(pid, stateDir).pause({ signal }),
      code('NODE_PAUSE_FAILED', /in no cgroup of its own|presync itself/),
    );
    rmSync(stateDir, { recursive: true });
  });
});
