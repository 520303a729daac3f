/** The daemon on a schedule: it takes snapshots, tells of them, lets no second one in, and drains on the first signal. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from '../support/ports.ts';
import { presync, startPresync } from '../support/presync.ts';
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

async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 90_000;
  for (;;) {
    if (await condition().catch(() => false)) return;
    assert.ok(performance.now() < deadline, 'it did not come to that in 90 s');
    await sleep(100);
  }
}
