/** The daemon on a schedule: it takes snapshots, tells of them, lets no second one in, and drains on the first signal. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, open, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { needs } from '../support/needs.ts';
import { hasNotify, openNotifySocket } from '../support/notify-socket.ts';
import { freePort } from '../support/ports.ts';
import {
  COMMAND,
  type PresyncOutcome,
  presync,
  presyncOk,
  type RunningPresync,
  startPresync,
} from '../support/presync.ts';
import { DEV_GENESIS, hasNode, liveChainSpec, startNode } from '../support/real-node.ts';
import { createSource } from '../support/world.ts';

describe('presync snapshotter', () => {
  it('takes snapshots on its schedule, shows health and metrics, and stops in good order', async (t) => {
    const { dir, base, takeArgs } = await createSource(t);
    const port = await freePort();
    const args = [
      ...['snapshotter', ...takeArgs],
      ...['--schedule', '* * * * * *', '--admin-listen', `127.0.0.1:${port}`],
    ];
    const daemon = startPresync(args);
    t.after(() => daemon.child.kill('SIGKILL'));
    const metric = async (name: string): Promise<number> => {
      const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
      return Number(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'm').exec(text)?.[1] ?? 0);
    };
    await until(async () => (await metric('presync_snapshot_last_sequence')) >= 2);
    assert.equal((await fetch(`http://127.0.0.1:${port}/healthz`)).status, 200);
    assert.ok((await metric('presync_snapshot_last_bytes')) > 8_000_000);

    const second = await presync(args);
    assert.equal(second.code, 9, second.stderr);
    assert.match(second.stderr, /LOCKED/);

    daemon.child.kill('SIGTERM');
    const { code, stderr } = await daemon.done;
    assert.equal(code, 143, stderr);
    for (const event of ['daemon.started', 'snapshot.promoted', 'run.done', 'daemon.stopped']) {
      assert.ok(stderr.includes(`"event":"${event}"`), `the log has no ${event}`);
    }
    const left = (await readdir(join(dir, 'source-state'))).filter(
      (name) => name.startsWith('snapshot-') || name.startsWith('pause-'),
    );
    assert.deepEqual(left, [], 'scratch files were left behind');
    assert.ok(!existsSync(join(base, 'chains/dev/db/.presync')), 'a view was left behind');
  });

  it('goes on after a run that failed, and says why', async (t) => {
    const { dir, takeArgs } = await createSource(t);
    // The parent of the store's folder is missing until the first run has failed.
    const parent = join(dir, 'later');
    const daemon = startPresync([
      ...['snapshotter', ...takeArgs, '--store', `file://${join(parent, 'store')}`],
      ...['--schedule', '* * * * * *', '--admin-listen', 'none'],
    ]);
    t.after(() => daemon.child.kill('SIGKILL'));
    let log = '';
    daemon.child.stderr?.on('data', (text) => {
      log += String(text);
    });
    await until(async () => log.includes('"event":"run.failed"'));
    assert.match(log, /STORE_NOT_FOUND/);
    await mkdir(parent);
    await until(async () => log.includes('"event":"run.done"'));
    daemon.child.kill('SIGINT');
    assert.equal((await daemon.done).code, 130);
  });
});

describe('presync snapshotter as a service', () => {
  /** A daemon with a configuration file that the test rewrites. */
  async function service(t: TestContext, env: NodeJS.ProcessEnv = {}) {
    const { dir, base, takeArgs, store, storeDir } = await createSource(t);
    const stateDir = join(dir, 'source-state');
    const config = join(dir, 'presync.json');
    const configure = (changes: object): Promise<void> =>
      writeFile(
        config,
        JSON.stringify({
          ...{ basePath: base, store, stateDir, pause: 'none', genesis: DEV_GENESIS, adminListen: 'none' },
          ...{ signKey: takeArgs[takeArgs.indexOf('--sign-key') + 1], schedule: '0 0 1 1 *' },
          ...changes,
        }),
      );
    await configure({});
    const started = { log: '' };
    const begin = async (): Promise<RunningPresync> => {
      started.log = '';
      const daemon = startPresync(['snapshotter', '--config', config], { env });
      t.after(() => daemon.child.kill('SIGKILL'));
      daemon.child.stderr?.on('data', (text) => {
        started.log += String(text);
      });
      await until(async () => started.log.includes('"daemon.started"'));
      return daemon;
    };
    return { stateDir, storeDir, started, begin, configure };
  }

  it(
    'tells systemd of its state, feeds the watchdog, and reloads on SIGHUP',
    needs('systemd-notify and python3', hasNotify()),
    async (t) => {
      const dir = await mkdtemp(join(tmpdir(), 'presync-notify-'));
      t.after(() => rm(dir, { recursive: true }));
      const path = join(dir, 'notify');
      const socket = await openNotifySocket(t, path);
      const told = (text: string): Promise<void> => until(async () => socket.said.join('\n').includes(text));
      // Fed each half of it, so that one comes soon.
      const { begin, configure, started, stateDir } = await service(t, {
        NOTIFY_SOCKET: path,
        WATCHDOG_USEC: '4000000',
      });
      const daemon = await begin();
      await told('READY=1\nSTATUS=no run yet; next in');
      await told('WATCHDOG=1');

      await configure({ schedule: '0 0 1 2 *', store: 'file:///elsewhere', verbose: true });
      daemon.child.kill('SIGHUP');
      await told('RELOADING=1');
      await until(async () => started.log.includes('"daemon.reloaded"'));
      assert.match(started.log, /"schedules":\["0 0 1 2 \*"\].*"daemon.reloaded"/);
      assert.match(started.log, /"options":\["store"\].*"daemon.restart_needed"/);
      await until(
        async () => socket.said.at(-1)?.startsWith('READY=1') === true || socket.said.at(-1) === 'WATCHDOG=1',
      );

      await configure({ schedule: '0 0 1 13 *' });
      daemon.child.kill('SIGHUP');
      await until(async () => started.log.includes('"daemon.reload_refused"'));
      await configure({ colour: 'blue' });
      daemon.child.kill('SIGHUP');
      await until(async () => started.log.includes('CONFIG_UNKNOWN_KEY'));
      assert.equal(daemon.child.exitCode, null);
      const status = await presyncOk(['status', '--state-dir', stateDir, '--json']);
      assert.match(
        status.stdout,
        /"schedules": \[\s*"0 0 1 2 \*"\s*\]/,
        'the last good configuration is in force',
      );
      assert.match(status.stdout, /"next": "\d{4}-02-01T00:00:00.000Z"/);

      daemon.child.kill('SIGTERM');
      assert.equal((await daemon.done).code, 143);
      await told('STOPPING=1');
    },
  );

  it('catches up once what it missed while it was away, and nothing at its first start', async (t) => {
    const { begin, configure, started, stateDir } = await service(t);
    await configure({ schedule: '* * * * * *', jitter: '24h' });
    let daemon = await begin();
    await sleep(2500);
    assert.ok(!started.log.includes('"run.started"'), 'jitter lets the first run wait');
    const run = await presyncOk(['snapshot', '--via-daemon', '--state-dir', stateDir, '--json']);
    assert.equal((run.json as { cause: string }).cause, 'command');
    daemon.child.kill('SIGKILL');
    await daemon.done;
    await sleep(2000);
    daemon = await begin();
    await until(async () => started.log.includes('"event":"run.done"'));
    assert.match(started.log, /"event":"schedule.missed"/);
    assert.equal(started.log.split('"event":"run.started"').length, 2);
    daemon.child.kill('SIGTERM');
    await daemon.done;

    // With a schedule that was not missed nothing is caught up.
    await configure({ schedule: '0 0 1 1 *' });
    daemon = await begin();
    await sleep(1500);
    assert.ok(!started.log.includes('"run.started"'));
    const status = await presyncOk(['status', '--state-dir', stateDir, '--json']);
    const { runs } = status.json as { runs: { cause: string; outcome: string }[] };
    assert.deepEqual(
      runs.map(({ cause, outcome }) => `${cause} ${outcome}`),
      ['catch-up published', 'command published'],
    );
    daemon.child.kill('SIGTERM');
    await daemon.done;
  });

  it('refuses what has no meaning together, before anything is asked', async (t) => {
    const { stateDir } = await service(t);
    const idle = await presync(['snapshot', '--via-daemon', '--state-dir', stateDir, '--base-path', '/x']);
    assert.equal(idle.code, 2);
    assert.match(idle.stderr, /--base-path means nothing with --via-daemon/);
    const alone = await presync(['status', '--state-dir', stateDir]);
    assert.equal(alone.code, 5, alone.stderr);
    assert.match(alone.stderr, /DAEMON_NOT_FOUND/);
  });
});

describe('presync snapshot', () => {
  it('sends a trace with a span a phase, also of a run that fails', async (t) => {
    const { takeArgs } = await createSource(t);
    const sent: string[] = [];
    const server = createServer((request, response) => {
      let body = '';
      request.setEncoding('utf8').on('data', (chunk: string) => {
        body += chunk;
      });
      request.on('end', () => {
        sent.push(body);
        response.end('{}');
      });
    });
    const port = await freePort();
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
    t.after(() => void server.close());
    const args = ['snapshot', ...takeArgs, '--trace-otlp', `http://127.0.0.1:${port}`];
    const spansOf = (body: string | undefined): { name: string; status?: { code: number } }[] =>
      JSON.parse(body ?? '').resourceSpans[0].scopeSpans[0].spans;

    await presyncOk(args);
    assert.deepEqual(
      spansOf(sent[0]).map(({ name }) => name),
      ['', '.gate', '.store', '.prepare', '.anchor', '.pause', '.upload', '.publish', '.prove', '.after'].map(
        (phase) => `snapshot${phase}`,
      ),
    );
    assert.equal(spansOf(sent[0])[0]?.status?.code, 1);
    assert.equal((await presync([...args, '--quiet-hours', '00:00-00:00'])).code, 3);
    assert.deepEqual(
      spansOf(sent[1]).map(({ name, status }) => `${name} ${status?.code}`),
      ['snapshot 2', 'snapshot.gate undefined'],
    );
  });

  it('begins each line with its priority when stderr is the journal', async (t) => {
    const dir = await mkdtemp(join(tmpdir(), 'presync-journal-'));
    t.after(() => rm(dir, { recursive: true }));
    await using journal = await open(join(dir, 'journal'), 'w+');
    const { dev, ino } = await journal.stat({ bigint: true });
    const run = (stream: string): string => {
      const { status } = spawnSync(process.execPath, [COMMAND, 'keys', 'new', '--out', join(dir, stream)], {
        stdio: ['ignore', 'ignore', journal.fd],
        env: { ...process.env, JOURNAL_STREAM: stream },
      });
      assert.equal(status, 0);
      return readFileSync(join(dir, 'journal'), 'utf8').trimEnd().split('\n').at(-1) ?? '';
    };
    assert.match(run(`${dev}:${ino}`), /^<6>\{.*"keys.created"/);
    // The variable is inherited by what writes elsewhere.
    assert.match(run(`${dev}:${ino + 1n}`), /^\{.*"keys.created"/);
  });
});

describe('presync snapshotter with the real node', needs('a node', hasNode()), () => {
  it('takes orders, reads its configuration again, tells what stops it, and catches up after kill -9', async (t) => {
    const { dir, base, takeArgs, store, storeDir } = await createSource(t);
    const node = await startNode({
      basePath: base,
      backend: 'rocksdb',
      chainSpec: await liveChainSpec(dir),
      signal: t.signal,
    });
    t.after(() => node.kill());
    const port = await freePort();
    const admin = `http://127.0.0.1:${port}`;
    const stateDir = join(dir, 'source-state');
    const token = join(dir, 'token');
    await writeFile(token, 'a long random text\n');
    const key = takeArgs[takeArgs.indexOf('--sign-key') + 1] ?? '';
    const config = join(dir, 'presync.json');
    const configure = (changes: object): Promise<void> =>
      writeFile(
        config,
        JSON.stringify({
          ...{ basePath: base, store, stateDir, signKey: key, rpc: node.wsUrl, pause: 'signal' },
          ...{ minPeers: 0, anchorAge: '0s', schedule: '0 0 1 1 *', timezone: 'Europe/Berlin' },
          ...{ adminListen: `127.0.0.1:${port}`, adminTokenFile: token, maxAge: '1h' },
          ...changes,
        }),
      );
    await configure({});

    let log = '';
    const begin = async (): Promise<RunningPresync> => {
      log = '';
      const daemon = startPresync(['snapshotter', '--config', config]);
      t.after(() => daemon.child.kill('SIGKILL'));
      daemon.child.stderr?.on('data', (text) => {
        log += String(text);
      });
      await until(async () => log.includes('"daemon.started"'));
      return daemon;
    };
    let daemon = await begin();
    const runNow = (): Promise<PresyncOutcome> =>
      presync(['snapshot', '--via-daemon', '--state-dir', stateDir, '--json', '--config', config]);
    const reload = async (changes: object, event = 'daemon.reloaded'): Promise<void> => {
      const before = log.split(`"${event}"`).length;
      await configure(changes);
      daemon.child.kill('SIGHUP');
      await until(async () => log.split(`"${event}"`).length > before);
    };
    const metric = async (line: string): Promise<number> => {
      const text = await (await fetch(`${admin}/metrics`)).text();
      return Number(
        text
          .split('\n')
          .find((found) => found.startsWith(`${line} `))
          ?.split(' ')[1] ?? Number.NaN,
      );
    };
    const ready = async (): Promise<number> => (await fetch(`${admin}/readyz`)).status;
    const shut = async (gate: string): Promise<void> => {
      const { code, stdout } = await runNow();
      assert.equal(code, 3, stdout);
      assert.match(stdout, /"GATE_SHUT"/);
      assert.equal(await metric(`presync_gate_shut{gate="${gate}"}`), 1);
      assert.match(log, new RegExp(`"gates":\\["${gate}"\\].*"event":"gate.shut"`));
    };

    // On a live chain this node is a validator, whose blocks would be missed.
    await shut('validator');
    assert.equal(await ready(), 503, 'there is no snapshot yet');
    await reload({ allowValidator: true, quietHours: ['00:00-00:00'] });
    await shut('quiet-hours');
    assert.equal(await metric('presync_gate_shut{gate="validator"}'), 0);

    // A configuration that is wrong changes nothing.
    await reload({ allowValidator: true, schedule: 'at noon sharp of a day' }, 'daemon.reload_refused');
    assert.equal(await metric('presync_config_last_reload_ok'), 0);
    await shut('quiet-hours');

    await reload({ allowValidator: true });
    const first = await runNow();
    assert.equal(first.code, 0, first.stderr);
    assert.equal((first.json as { sequence: number }).sequence, 1);
    assert.equal(await ready(), 200);
    assert.equal(await metric('presync_snapshot_last_sequence'), 1);
    assert.ok((await metric('presync_snapshot_source_bloat_ratio')) > 0.5);

    const post = (authorization: string): Promise<Response> =>
      fetch(`${admin}/run`, { method: 'POST', headers: { authorization } });
    assert.equal((await post('Bearer no')).status, 401);
    assert.equal((await post('Bearer a long random text')).status, 202);
    await until(async () => (await metric('presync_snapshot_last_sequence')) === 2);

    // A store that is away, and comes back.
    await rename(storeDir, `${storeDir}-away`);
    await writeFile(storeDir, 'no folder');
    const failed = await runNow();
    assert.equal(failed.code, 7, failed.stdout);
    const code = /"code": "(\w+)"/.exec(failed.stdout)?.[1] ?? '';
    assert.equal(await metric(`presync_snapshot_runs_total{outcome="${code}"}`), 1);
    assert.match(log, new RegExp(`"code":"${code}".*"event":"run.failed"`));
    assert.equal(await ready(), 200, 'the last good snapshot is young enough still');
    await rename(storeDir, `${storeDir}-wrong`);
    await rename(`${storeDir}-away`, storeDir);

    // The schedule comes into force without a restart.
    await reload({ allowValidator: true, schedule: ['0 0 1 1 *', '*/3 * * * * *'] });
    await until(async () => (await metric('presync_snapshot_last_sequence')) >= 3);

    // Killed in the middle of a run, the node goes on and the run is caught up.
    const seen = log.split('"run.started"').length;
    await until(async () => log.split('"run.started"').length > seen);
    daemon.child.kill('SIGKILL');
    await daemon.done;
    const head = await node.best();
    await until(async () => (await node.best()) > head);
    await configure({ allowValidator: true });
    const before = await presyncOk(['status', '--state-dir', stateDir, '--config', config]);
    assert.match(before.stdout, /The daemon does not run\./);
    daemon = await begin();
    await until(async () => log.includes('"event":"run.done"'));
    assert.match(log, /"event":"schedule.missed"/);
    const { runs } = (await (await fetch(`${admin}/runs`)).json()) as {
      runs: { outcome: string; cause: string }[];
    };
    assert.deepEqual(
      runs.slice(0, 2).map(({ outcome, cause }) => `${cause} ${outcome}`),
      ['catch-up published', 'schedule interrupted'],
    );
    assert.ok(runs.some(({ outcome }) => outcome === 'failed'));
    assert.match(
      (await presyncOk(['status', '--state-dir', stateDir, '--config', config])).stdout,
      /The daemon runs/,
    );

    daemon.child.kill('SIGTERM');
    assert.equal((await daemon.done).code, 143);
    assert.equal((await runNow()).code, 5);
    await presyncOk(['verify', '--store', store, '--insecure-no-verify']);
  });
});

async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 90_000;
  for (;;) {
    if (await condition().catch(() => false)) return;
    assert.ok(performance.now() < deadline, 'it did not come to that in 90 s');
    await sleep(100);
  }
}
