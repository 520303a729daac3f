import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import { type DockerEngine, startDockerEngine } from '../../../test/support/docker-engine.ts';
import { needs } from '../../../test/support/needs.ts';
import { createContainerHold } from '../src/lib/container-hold.ts';
import { createPauser, type PauserOptions, withPause } from '../src/pause.ts';
import { testPauseContract } from './support/pause-contract.ts';
import { hasCommand, isStopped } from './support/processes.ts';

const { signal } = new AbortController();
const linux = needs('Linux', process.platform === 'linux');
let dir = '';
let engine: DockerEngine;

async function startEngine(): Promise<DockerEngine> {
  return startDockerEngine({
    socket: join(mkdtempSync(join(dir, 'engine-')), 'docker.sock'),
    name: 'node',
    command: [process.execPath, '-e', 'setInterval(() => {}, 1)'],
  });
}

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'presync-docker-'));
  engine = await startEngine();
});
afterEach(async () => {
  await engine.close();
  rmSync(dir, { recursive: true });
});

for (const dockerAction of ['pause', 'stop'] as const) {
  describe(`pausing by the container engine: ${dockerAction}`, linux, () => {
    testPauseContract(async () => {
      const scene = await startEngine();
      const pid = () => scene.pid();
      return {
        settings: { strategy: 'docker', container: 'node', dockerSocket: scene.socket, dockerAction },
        isHeld: () => {
          const now = pid();
          return dockerAction === 'stop' ? now === undefined : now !== undefined && isStopped(now);
        },
        isRunning: () => {
          const now = pid();
          return now !== undefined && !isStopped(now);
        },
        letGo: () => {
          const undo = dockerAction === 'stop' ? 'start' : 'unpause';
          request({ socketPath: scene.socket, method: 'POST', path: `/containers/node/${undo}` }).end();
        },
        end: () => scene.close(),
      };
    });
  });
}

describe('pausing by the container engine', linux, () => {
  const pauserOf = (more: Partial<PauserOptions> = {}) =>
    createPauser({
      strategy: 'docker',
      container: 'node',
      dockerSocket: engine.socket,
      databases: [],
      stateDir: join(dir, 'state'),
      budgetMs: 60_000,
      ...more,
    });
  const refuses = async (more: Partial<PauserOptions>, expected: Parameters<typeof isPresyncError>[1]) => {
    await assert.rejects(pauserOf(more).pause({ signal }), (error) => {
      assert.ok(isPresyncError(error, expected), String(error));
      assert.ok(error.hint !== undefined);
      return true;
    });
    const state = join(dir, 'state');
    assert.deepEqual(existsSync(state) ? readdirSync(state) : [], []);
  };

  test('asks for what the engine has, by the id that it told', async () => {
    await withPause(pauserOf(), { signal }, async () => {});
    assert.ok(engine.requests.includes(`POST /containers/${engine.id}/pause`));
    assert.ok(engine.requests.includes(`POST /containers/${engine.id}/unpause`));
  });

  test('refuses what it must not or cannot pause', async () => {
    await refuses({ container: 'other' }, 'NODE_NOT_RUNNING');
    await refuses({ dockerSocket: join(dir, 'none.sock') }, 'NODE_PAUSE_FAILED');
    await refuses({ holder: { pid: process.pid } }, 'NODE_PAUSE_FAILED');
    assert.throws(() => pauserOf({ container: undefined }), /needs --container/);
    assert.ok(!engine.requests.some((request) => request.startsWith('POST')));
  });

  test('refuses a container that somebody else has paused, and one that does not run', async () => {
    const paused = await pauserOf({ stateDir: join(dir, 'other') }).pause({ signal });
    await refuses({}, 'NODE_PAUSE_FAILED');
    assert.ok(engine.isPaused());
    await paused.resume();
    process.kill(engine.pid() ?? 0, 'SIGKILL');
    while (engine.pid() !== undefined) await new Promise((resolve) => setTimeout(resolve, 5));
    await refuses({}, 'NODE_NOT_RUNNING');
  });

  test('an engine that fails leaves the intent and the deadman, which tries until it succeeds', async () => {
    const paused = await pauserOf({ budgetMs: 1500 }).pause({ signal });
    engine.fail(true);
    await assert.rejects(paused.resume(), (error) => isPresyncError(error, 'NODE_RESUME_FAILED'));
    assert.equal(readdirSync(join(dir, 'state')).length, 1);
    await new Promise((resolve) => setTimeout(resolve, 3000));
    assert.ok(engine.isPaused());
    engine.fail(false);
    const deadline = performance.now() + 30_000;
    while (engine.isPaused()) {
      assert.ok(performance.now() < deadline, 'the deadman has given up');
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });

  test('a pause that fails, and a node that then does not come back, are both told', async () => {
    const stop = new AbortController();
    const work = withPause(pauserOf(), { signal: stop.signal }, async () => {
      engine.fail(true);
      throw new Error('the disk is gone');
    });
    await assert.rejects(work, (error) => {
      assert.ok(isPresyncError(error, 'NODE_RESUME_FAILED'));
      assert.match(error.message, /unpause.*out of order.*; before that: the disk is gone/);
      assert.match(String(error.cause), /the disk is gone/);
      return true;
    });
    engine.fail(false);
  });
});

describe('the emergency request to the engine', linux, () => {
  /** Only what is linked there is found. */
  function pathWith(...commands: string[]): string {
    const bin = mkdtempSync(join(dir, 'bin-'));
    for (const command of commands) {
      const found = spawnSync('sh', ['-c', `command -v ${command}`], { encoding: 'utf8' }).stdout.trim();
      symlinkSync(found, join(bin, command));
    }
    return bin;
  }
  const emergency = (id = engine.id) =>
    createContainerHold({ kind: 'container', action: 'pause', socket: engine.socket, id }).emergency;
  async function run(path: string, given = emergency()): Promise<number | null> {
    // Not synchronously: the engine answers from this very process.
    const child = spawn('/bin/sh', ['-c', `f() {\n${given.script}\n}\nf "$@"`, 'sh', ...given.args], {
      env: { PATH: path },
      stdio: 'inherit',
    });
    return new Promise((resolve) => child.once('exit', resolve));
  }

  for (const [name, commands, found] of [
    ['curl', ['curl'], hasCommand('curl', '--version')],
    ['Node itself', [], true],
  ] as const) {
    test(`by ${name}`, needs(name, found), async () => {
      const path = pathWith(...commands);
      await createPauser({
        strategy: 'docker',
        container: 'node',
        dockerSocket: engine.socket,
        databases: [],
        stateDir: join(dir, 'state'),
        budgetMs: 60_000,
      }).pause({ signal });
      assert.equal(await run(path), 0);
      assert.ok(!engine.isPaused());
      assert.equal(await run(path), 0, 'a second time');
      assert.equal(await run(path, emergency('f'.repeat(64))), 0, 'a container that is gone');
      engine.fail(true);
      assert.notEqual(await run(path), 0);
      engine.fail(false);
    });
  }
});
