/** The parts of the daemon that others talk to: socket, admin routes, readiness, watchdog, and the run that they all show. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, mock, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import { startAdminServer } from '@presync/runtime/http';
import { createSilentLogger, type LogFields } from '@presync/runtime/log';
import { createRegistry } from '@presync/runtime/metrics';
import { askRun, askStatus, type RunProgress } from '../src/ask-daemon.ts';
import type { RunRecord } from '../src/history.ts';
import { addAdminRoutes } from '../src/lib/admin-routes.ts';
import type { DaemonStatus } from '../src/lib/control-protocol.ts';
import { startControlServer } from '../src/lib/control-server.ts';
import { readiness } from '../src/lib/readiness.ts';
import type { CurrentRun, EndedRun, Runner } from '../src/lib/runner.ts';
import { startWatchdog } from '../src/lib/watchdog.ts';

const { signal } = new AbortController();
const root = mkdtempSync(join(tmpdir(), 'presync-parts-'));
after(() => rmSync(root, { recursive: true }));
let made = 0;
const stateDir = (): string => mkdtempSync(join(root, `${made++}-`));

const record = (changes: Partial<RunRecord> = {}): RunRecord => ({
  ...{
    id: 'run-1',
    cause: 'command',
    started: '2026-03-01T00:00:00.000Z',
    ended: '2026-03-01T00:01:00.000Z',
  },
  ...{
    outcome: 'published',
    code: null,
    reason: null,
    gates: [],
    channel: 'dev/rocksdb',
    sequence: 7,
    anchor: 5,
  },
  ...{ pauseSeconds: 0.1, phases: {}, bytes: null },
  ...changes,
});

const current: CurrentRun = {
  ...{ id: 'run-1', cause: 'command', started: '2026-03-01T00:00:00.000Z', phase: 'upload' },
  progress: { label: 'Snapshot of dev/rocksdb', done: 10, total: 100 },
};

/** A runner whose one run ends when the test says so. */
function oneRun(): { runner: Runner; end: (end: Partial<EndedRun>) => void } {
  const ended = Promise.withResolvers<EndedRun>();
  let begun = false;
  return {
    runner: {
      current: undefined,
      start() {
        if (begun) throw new PresyncError('LOCKED', 'run run-1 is under way', { hint: 'wait' });
        begun = true;
        return { run: current, ended: ended.promise };
      },
      idle: async () => {},
    },
    end: (end) => ended.resolve({ record: record(), phases: [], ...end }),
  };
}

const status: DaemonStatus = {
  ...{ pid: 1, version: '0', since: '2026-03-01T00:00:00.000Z', schedules: ['0 3 * * *'], timezone: 'UTC' },
  ...{ next: null, stalled: false, run: null, newest: null, runs: [record()] },
};

describe('the control socket', () => {
  async function serve(t: { after(fn: () => Promise<void>): void }, runner: Runner): Promise<string> {
    const dir = stateDir();
    const server = await startControlServer({
      stateDir: dir,
      runner,
      status: () => status,
      log: createSilentLogger(),
    });
    t.after(() => server.close());
    return dir;
  }

  test('tells the state, is for its owner only, and takes the place of one that a killed daemon left', async (t) => {
    const dir = stateDir();
    writeFileSync(join(dir, 'daemon.sock'), '');
    const server = await startControlServer({
      ...{ stateDir: dir, runner: oneRun().runner, status: () => status },
      log: createSilentLogger(),
    });
    t.after(() => server.close());
    assert.equal(statSync(join(dir, 'daemon.sock')).mode & 0o777, 0o600);
    assert.deepEqual(await askStatus({ stateDir: dir, signal }), status);
  });

  test('follows a run to its end, with its progress', async (t) => {
    const { runner, end } = oneRun();
    const dir = await serve(t, runner);
    const seen: RunProgress[] = [];
    const asked = askRun({
      ...{ stateDir: dir, signal },
      onProgress: (progress) => {
        seen.push(progress);
        end({});
      },
    });
    assert.deepEqual(await asked, record());
    assert.equal(seen[0]?.phase, 'upload');
    assert.equal(seen[0]?.done, 10);
  });

  test('a run that ends badly ends the caller with its code and hint', async (t) => {
    for (const [changes, code, exitCode] of [
      [{ outcome: 'skipped', code: 'GATE_SHUT', reason: 'no peers', gates: ['peers'] }, 'GATE_SHUT', 3],
      [{ outcome: 'failed', code: 'STORE_UNREACHABLE', reason: 'it is away' }, 'STORE_UNREACHABLE', 7],
      [{ outcome: 'failed', code: 'NO_SUCH_CODE', reason: 'x' }, 'INTERNAL', 1],
    ] as const) {
      const { runner, end } = oneRun();
      const dir = await serve(t, runner);
      end({
        record: record({ ...changes, gates: [] }),
        error: new PresyncError('LOCKED', 'x', { hint: 'do this' }),
      });
      await assert.rejects(askRun({ stateDir: dir, signal, onProgress: () => {} }), (error) => {
        assert.ok(isPresyncError(error, code), String(error));
        assert.equal(error.exitCode, exitCode);
        assert.equal(error.message, changes.reason);
        assert.equal(error.hint, 'do this');
        return true;
      });
    }
  });

  test('a second run is refused, and one that is left alone goes on', async (t) => {
    const { runner, end } = oneRun();
    const dir = await serve(t, runner);
    const stopped = new AbortController();
    const first = askRun({ stateDir: dir, signal: stopped.signal, onProgress: () => stopped.abort() });
    await assert.rejects(first, (error) => isPresyncError(error, 'ABORTED'));
    await assert.rejects(
      askRun({ stateDir: dir, signal, onProgress: () => {} }),
      (error) => isPresyncError(error, 'LOCKED') && error.hint === 'wait',
    );
    end({});
    await sleep(20);
    assert.deepEqual(await askStatus({ stateDir: dir, signal }), status);
  });

  test('nonsense is answered and harms nothing, and nobody waits for ever', async (t) => {
    const dir = await serve(t, oneRun().runner);
    const raw = (text: string): Promise<string> =>
      new Promise((resolve, reject) => {
        let answer = '';
        const socket = connect(join(dir, 'daemon.sock'), () => socket.write(text));
        socket.setEncoding('utf8').on('data', (chunk: string) => {
          answer += chunk;
        });
        socket.on('error', reject).on('close', () => resolve(answer));
      });
    assert.match(await raw('{"ask":"format"}\n'), /"is":"refused".*"USAGE"/);
    assert.match(await raw('x\n'), /"USAGE"/);
    assert.match(await raw('x'.repeat(100_000)), /too long/);
    assert.deepEqual(await askStatus({ stateDir: dir, signal }), status);
  });

  test('without a daemon there is an error that says so, also when its socket is still there', async () => {
    const dir = stateDir();
    const notFound = (error: unknown): boolean =>
      isPresyncError(error, 'DAEMON_NOT_FOUND') && error.exitCode === 5;
    await assert.rejects(askStatus({ stateDir: dir, signal }), notFound);
    const server = await startControlServer({
      ...{ stateDir: dir, runner: oneRun().runner, status: () => status },
      log: createSilentLogger(),
    });
    await server.close();
    await assert.rejects(askStatus({ stateDir: dir, signal }), notFound);
    await assert.rejects(
      startControlServer({
        ...{ stateDir: join(dir, 'x'.repeat(120)), runner: oneRun().runner, status: () => status },
        log: createSilentLogger(),
      }),
      (error) => isPresyncError(error, 'CONFIG_INVALID'),
    );
  });
});

describe('the admin server', () => {
  async function serve(
    t: { after(fn: () => Promise<void>): void },
    {
      token,
      runner = oneRun().runner,
      runs = [record()],
    }: { token?: string; runner?: Runner; runs?: RunRecord[] },
  ): Promise<string> {
    const server = await startAdminServer({
      ...{ listen: { host: '127.0.0.1', port: 0 }, metrics: createRegistry(), signal },
      ...{ health: () => ({ ok: true }), ready: () => ({ ok: true }) },
      routes: (app) => addAdminRoutes(app, { history: { runs }, runner, token }),
    });
    t.after(() => server.close());
    return server.url;
  }

  test('shows runs, the newest first', async (t) => {
    const runs = Array.from({ length: 60 }, (_, index) => record({ id: `r${index}` }));
    const url = await serve(t, { runs });
    const shown = async (path: string): Promise<string[]> => {
      const body = (await (await fetch(url + path)).json()) as { runs: RunRecord[] };
      return body.runs.map(({ id }) => id);
    };
    assert.deepEqual((await shown('/runs')).slice(0, 2), ['r59', 'r58']);
    assert.equal((await shown('/runs')).length, 50);
    assert.equal((await shown('/runs?limit=1000')).length, 60);
    for (const limit of ['0', '-1', '1001', 'x', '1e3']) {
      assert.equal((await fetch(`${url}/runs?limit=${limit}`)).status, 400, limit);
    }
    assert.equal(((await (await fetch(`${url}/runs/latest`)).json()) as RunRecord).id, 'r59');
    assert.equal((await fetch(`${await serve(t, { runs: [] })}/runs/latest`)).status, 404);
  });

  test('begins a run for the token only', async (t) => {
    const url = await serve(t, { token: 'a long random text' });
    const post = async (authorization?: string): Promise<number> =>
      (
        await fetch(`${url}/run`, {
          method: 'POST',
          headers: authorization === undefined ? {} : { authorization },
        })
      ).status;
    assert.equal(await post(), 401);
    assert.equal(await post('Bearer wrong'), 401);
    assert.equal(await post('Basic a long random text'), 401);
    assert.equal(await post('Bearer a long random text'), 202);
    assert.equal(await post('Bearer a long random text'), 409);
    assert.equal((await fetch(`${url}/run`)).status, 404, 'a GET begins nothing');
  });

  test('without a token there is no route', async (t) => {
    const url = await serve(t, {});
    assert.equal(
      (await fetch(`${url}/run`, { method: 'POST', headers: { authorization: 'Bearer ' } })).status,
      404,
    );
  });

  test('does not answer to a name that a web page has pointed at it', async (t) => {
    const url = new URL(await serve(t, { token: 'x' }));
    const get = (path: string, host: string): Promise<number | undefined> =>
      new Promise((resolve, reject) => {
        httpRequest({ host: '127.0.0.1', port: url.port, path, headers: { host } }, (response) => {
          response.resume();
          resolve(response.statusCode);
        })
          .on('error', reject)
          .end();
      });
    for (const path of ['/runs', '/metrics', '/healthz']) {
      for (const host of ['evil.example', `evil.example:${url.port}`, '127.0.0.1.evil.example']) {
        assert.equal(await get(path, host), 421, `${path} as ${host}`);
      }
      for (const host of [url.host, `localhost:${url.port}`, 'LOCALHOST', '[::1]:80']) {
        assert.equal(await get(path, host), 200, `${path} as ${host}`);
      }
    }
  });
});

test('readiness: the newest good snapshot must be young enough, or the last run must not have failed', () => {
  const now = Date.parse('2026-03-01T10:00:00.000Z');
  const ok = (runs: RunRecord[], maxAgeMs?: number): boolean => readiness(runs, { maxAgeMs, now }).ok;
  const hour = 3_600_000;
  assert.equal(ok([]), true);
  assert.equal(ok([], hour), false);
  assert.equal(ok([record()], 11 * hour), true);
  assert.equal(ok([record()], 10 * hour), true);
  assert.equal(ok([record()], 9 * hour), false);
  assert.equal(ok([record(), record({ outcome: 'failed' })], 11 * hour), true);
  assert.equal(ok([record(), record({ outcome: 'failed' })]), false);
  assert.equal(ok([record({ outcome: 'failed' }), record({ outcome: 'skipped' })]), true);
});

describe('the watchdog', () => {
  function watch(t: { after(fn: () => void): void }, { systemd = true } = {}) {
    mock.timers.enable({ apis: ['setInterval'] });
    const state = {
      now: 0,
      movedAt: 0,
      fed: 0,
      current: undefined as CurrentRun | undefined,
      stalled: [] as boolean[],
    };
    const clock = mock.method(performance, 'now', () => state.now);
    const events: string[] = [];
    const say = (event: string, _message: string, _fields?: LogFields): void => void events.push(event);
    const watchdog = startWatchdog({
      ...{
        feedMs: systemd ? 20_000 : undefined,
        stallMs: () => 60_000,
        current: () => state.current,
        movedAt: () => state.movedAt,
      },
      feed: () => {
        state.fed += 1;
      },
      onStalled: (stalled) => state.stalled.push(stalled),
      log: { ...createSilentLogger(), info: say, error: say },
    });
    t.after(() => {
      watchdog.stop();
      clock.mock.restore();
      mock.timers.reset();
    });
    const pass = (ms: number): void => {
      for (let passed = 0; passed < ms; passed += 1000) {
        state.now += 1000;
        mock.timers.tick(1000);
      }
    };
    return { state, watchdog, events, pass };
  }

  test('is fed in time while nothing is under way, however long', (t) => {
    const { state, pass } = watch(t);
    pass(3_600_000);
    assert.ok(state.fed >= 3600 / 10 && state.fed < 3600, String(state.fed));
  });

  test('is fed no more when a run stands still, and again when it moves', (t) => {
    const { state, watchdog, events, pass } = watch(t);
    state.current = current;
    pass(59_000);
    assert.ok(!watchdog.stalled);
    pass(10_000);
    assert.ok(watchdog.stalled);
    const { fed } = state;
    pass(600_000);
    assert.equal(state.fed, fed);
    state.movedAt = state.now;
    pass(10_000);
    assert.ok(!watchdog.stalled);
    assert.ok(state.fed > fed);
    assert.deepEqual(events, ['run.stalled', 'run.moved']);
    assert.deepEqual(state.stalled, [true, false]);
  });

  test('tells of a stall where there is no systemd', (t) => {
    const { state, watchdog, pass } = watch(t, { systemd: false });
    state.current = current;
    pass(70_000);
    assert.ok(watchdog.stalled);
    assert.equal(state.fed, 0);
  });
});
