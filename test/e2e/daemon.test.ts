/** The daemon on a schedule: it takes snapshots, tells of them, lets no second one in, and drains on the first signal. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { needs } from '../support/needs.ts';
import { freePort } from '../support/ports.ts';
import {
  type PresyncOutcome,
  presync,
  presyncOk,
  type RunningPresync,
  startPresync,
} from '../support/presync.ts';
import { devChainSpec, hasNode, startNode } from '../support/real-node.ts';
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

/** The development chain, which then says of itself that it is a live one. */
async function liveChainSpec(dir: string): Promise<string> {
  const spec: Record<string, unknown> = JSON.parse(await readFile(await devChainSpec(), 'utf8'));
  const path = join(dir, 'live-spec.json');
  await writeFile(path, JSON.stringify({ ...spec, chainType: 'Live' }));
  return path;
}

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
