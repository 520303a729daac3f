/**
 * A source node as it is installed, paused by signals. Hundreds of kills under each way to pause a unit are commands of their own:
 * `npm run campaign -- unit-pauses` and `npm run campaign -- machine`.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { hasMachine } from '../support/machine.ts';
import { needs } from '../support/needs.ts';
import { hasProgram } from '../support/package.ts';
import { hasNode } from '../support/real-node.ts';
import { playScene, SCENES, verifyAll } from './scenes.ts';
import {
  BUDGET_MS,
  bootstrapSecond,
  deadmanUnits,
  leftByPauses,
  NODE,
  now,
  overrideUnit,
  PRESYNC,
  pendingIntents,
  readManifest,
  SECOND,
  SLACK_MS,
  type SourceMachine,
  startSource,
  until,
  untilMoment,
} from './source-machine.ts';

const can = needs(
  'root, systemd-nspawn, a Debian tree, dpkg-deb and a node',
  hasMachine() && hasNode() && (await hasProgram('dpkg-deb')),
);

let source: SourceMachine;

before(async () => {
  if (can.skip !== false) return;
  const dir = await mkdtemp(join(tmpdir(), 'presync-source-'));
  source = await startSource({ backend: 'rocksdb', dir, schedule: '*/10 * * * * *' });
});
after(() => source?.end());

test('the units are confined well enough for "OK", and cannot lose what they need', can, async () => {
  for (const unit of [PRESYNC, 'presync-bootstrap.service']) {
    const { stdout } = await source.machine.run('systemd-analyze', 'security', '--no-pager', unit);
    assert.match(stdout, /Overall exposure level for .*: \d\.\d (OK|SAFE|PERFECT)/, stdout);
    // The tree has no reader for the manual pages, which have a test of their own.
    const verified = await source.machine.run('systemd-analyze', 'verify', '--man=no', unit);
    assert.equal(verified.stdout + verified.stderr, '');
    assert.equal(verified.code, 0);
  }
  // With the very powers of the unit, on something else than the node.
  const { machine } = source;
  await machine.ok('systemd-run', '--unit=target', 'sleep', '600');
  const powers = [
    'CapabilityBoundingSet',
    'NoNewPrivileges',
    'ProtectSystem',
    'PrivateDevices',
    'SystemCallFilter',
  ];
  const shown = await machine.ok('systemctl', 'show', PRESYNC, ...powers.map((name) => `--property=${name}`));
  const confined = (...command: string[]) =>
    machine.ok(
      ...['systemd-run', '--quiet', '--wait', '--pipe'],
      ...shown
        .trim()
        .split('\n')
        .map((line) => `--property=${line}`),
      ...command,
    );
  const state = async () =>
    (await machine.ok('systemctl', 'show', '--property=FreezerState', '--value', 'target')).trim();
  await confined('systemctl', 'freeze', 'target.service');
  assert.equal(await state(), 'frozen');
  await confined('systemctl', 'thaw', 'target.service');
  assert.equal(await state(), 'running');
  await confined('systemd-run', '--on-active=1h', '--unit=deadman', 'true');
  await confined('systemctl', 'stop', 'target.service');
});

test('snapshots land on schedule, no block is late, and the journal reads well', can, async () => {
  const since = now();
  const known = await source.snapshots();
  await until(
    'three snapshots have landed',
    async () => (await source.snapshots()).length >= known.length + 3,
  );
  const { seconds, blocks } = await source.longestHole(since);
  assert.ok(seconds <= (BUDGET_MS + SLACK_MS) / 1000, `the node made no block for ${seconds} s`);
  assert.ok(blocks > 10, `${blocks} blocks`);
  const sequence = (await source.snapshots()).at(-1) ?? 0;
  const manifest = await readManifest(source, sequence);
  assert.match(manifest, /"backend":"rocksdb"/);
  assert.match(manifest, /"strategy":"signal"/);
  const events = await source.events(since);
  const done = events.filter(({ event }) => event === 'run.done');
  assert.ok(done.length >= 2, events.map(({ event }) => event).join(' '));
  assert.deepEqual(
    events.filter(({ level }) => level === 'error').map(({ msg }) => msg),
    [],
  );
  assert.match(await source.metrics(), /presync_snapshot_runs_total\{outcome="published"\} [1-9]/);
  // Links, not copies: the view and the database lie in one mount, also from within the unit's confinement.
  assert.doesNotMatch(JSON.stringify(events), /EXDEV/);
});

for (const scene of SCENES)
  test(`the node makes blocks and snapshots land after this: ${scene.name}`, can, async () => {
    const { violations } = await playScene(source, scene, 'paused');
    assert.deepEqual(violations, []);
  });

/** Kills all of the daemon's unit while the node stands still. Gives the pause's id, and when that was. */
async function killInPause(): Promise<{ id: string; since: number }> {
  const deadline = now() + 300;
  while (now() < deadline) {
    await untilMoment(source, 'paused');
    const since = now();
    source.machine.kill(PRESYNC);
    const [id] = pendingIntents(source);
    if (id !== undefined && source.isHeld()) return { id, since };
    // It was resumed just before; the daemon comes again by itself.
  }
  throw new Error('no kill came while the node stood still');
}

/** For who is to come before the timer, however busy the machine is. */
const LATE_TIMER = 'Environment=PRESYNC_PAUSE_BUDGET=10m';
const isBack = () => until('the node is back', async () => !source.isHeld());
const said = async (unit: string, since: number) =>
  (await source.machine.journal(unit)).filter(({ at }) => at >= since).map(({ message }) => message);

test('what the unit runs when it has ended brings the node back, and takes the timer away', can, async () => {
  const restore = await overrideUnit(source, LATE_TIMER);
  try {
    const { id, since } = await killInPause();
    await until('the pause is settled', async () => !leftByPauses(source).some((name) => name.includes(id)));
    const units = await deadmanUnits(source);
    assert.deepEqual(
      units.filter((unit) => unit.includes(id)),
      [],
    );
    assert.match((await said(PRESYNC, since)).join('\n'), /^process \d+ was still paused; it runs again\.$/m);
    assert.match((await said(`presync-deadman-${id}.timer`, since)).join('\n'), /^Stopped /m);
  } finally {
    await restore();
  }
});

test('the start of the daemon brings the node back when nothing else has', can, async () => {
  const restore = await overrideUnit(source, LATE_TIMER, 'ExecStopPost=', 'RestartSec=100ms');
  try {
    const { since } = await killInPause();
    await isBack();
    await until('the daemon has started', async () =>
      (await source.events(since)).some(({ event }) => event === 'daemon.started'),
    );
    // Before the start is done, so that it does not wait for the next run.
    const [first] = await source
      .events(since)
      .then((events) =>
        events.filter(({ event }) => event === 'pause.recovered' || event === 'daemon.started'),
      );
    assert.match(JSON.stringify(first), /"event":"pause.recovered"/);
    assert.match(JSON.stringify(first), /"outcome":"resumed"/);
  } finally {
    await restore();
  }
});

test('the timer brings the node back in time when presync does not come again', can, async () => {
  const restore = await overrideUnit(source, 'ExecStopPost=', 'Restart=no');
  try {
    const { id, since } = await killInPause();
    await isBack();
    const { seconds } = await source.longestHole(since);
    assert.ok(seconds <= (BUDGET_MS + SLACK_MS) / 1000, `the node made no block for ${seconds} s`);
    await until('the intent is marked', async () =>
      leftByPauses(source).includes(`pause-${id}.json.resumed-by-deadman`),
    );
    assert.match((await said(`presync-deadman-${id}.service`, since)).join('\n'), /^Started /m);
  } finally {
    await restore();
  }
  await until('the pause is settled', async () => leftByPauses(source).length === 0);
});

test('every snapshot that is visible is whole', can, async () => {
  assert.deepEqual(await verifyAll(source), []);
});

test('the bootstrap unit brings a second node up from the snapshots', can, async () => {
  const { machine } = source;
  await bootstrapSecond(source);
  for (const unit of ['presync-bootstrap.service', SECOND])
    assert.equal((await machine.run('systemctl', 'is-active', unit)).stdout.trim(), 'active');
  const owners = await machine.ok('find', '/srv/second/chains', '-printf', '%u\\n');
  assert.deepEqual([...new Set(owners.trim().split('\n'))], ['polkadot']);
});

test('an upgrade leaves agent and node alone, and a restart of the agent the node', can, async () => {
  const { machine } = source;
  const pid = async (unit: string) =>
    (await machine.ok('systemctl', 'show', '--property=MainPID', unit)).trim();
  const [agent, node] = [await pid('presync-bootstrap.service'), await pid(SECOND)];
  assert.notEqual(node, 'MainPID=0');
  await machine.ok('dpkg', '--install', '/opt/presync.deb');
  assert.equal(await pid('presync-bootstrap.service'), agent);
  await machine.ok('systemctl', 'restart', 'presync-bootstrap.service');
  assert.notEqual(await pid('presync-bootstrap.service'), agent);
  assert.equal(await pid(SECOND), node);
  await machine.ok('systemctl', 'stop', 'presync-bootstrap.service');
  assert.equal(await pid(SECOND), node);
  await machine.ok('systemctl', 'stop', SECOND);
});

test('removal leaves the node running, a purge takes the state and leaves the keys', can, async () => {
  const { machine } = source;
  await untilMoment(source, 'paused');
  await machine.ok('dpkg', '--remove', 'presync');
  assert.equal((await machine.run('systemctl', 'is-active', PRESYNC)).stdout.trim(), 'inactive');
  const best = await source.best();
  await until('the node makes blocks', async () => (await source.best()) > Math.max(best, 0));
  assert.equal((await machine.run('systemctl', 'is-active', NODE)).stdout.trim(), 'active');
  assert.ok(existsSync(join(machine.root, 'etc/presync/presync.yaml')), 'removal keeps the configuration');
  await writeFile(join(source.state, 'left-behind'), '');
  await machine.ok('dpkg', '--purge', 'presync');
  assert.ok(!existsSync(join(source.state, 'left-behind')));
  assert.ok(!existsSync(join(machine.root, 'etc/presync/presync.yaml')));
  assert.ok(existsSync(join(machine.root, 'etc/presync/keys/snapshots')));
});
