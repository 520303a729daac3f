/** From first boot to serving, with real cloud-init, systemd, S3 server and node: `presync cloud-init render` and what comes of it. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { hasMachine, type JournalEntry, type Machine } from '../support/machine.ts';
import { needs } from '../support/needs.ts';
import { hasProgram } from '../support/package.ts';
import { hasNode } from '../support/real-node.ts';
import { findS3Server } from '../support/s3-server.ts';
import {
  AGENT,
  BASE_PATH,
  type Cloud,
  createCloud,
  discard,
  INSTALLER,
  metrics,
  multipart,
  readiness,
} from './boot-machine.ts';
import { NODE, until } from './source-machine.ts';

const can = needs(
  'root, systemd-nspawn, a Debian tree, iproute2, python3, versitygw and a node',
  hasMachine() &&
    hasNode() &&
    findS3Server() !== undefined &&
    (await hasProgram('ip')) &&
    (await hasProgram('python3')),
);

let dir: string;
let cloud: Cloud;
let machine: Machine;

before(async () => {
  if (can.skip !== false) return;
  dir = await mkdtemp(join(tmpdir(), 'presync-boot-'));
  cloud = await createCloud(dir, 'rocksdb');
});
after(async () => {
  await machine?.end();
  await cloud?.end();
  if (dir !== undefined) await discard(dir);
});

const pinned = (sha256 = cloud.executable.sha256): string[] => [
  ...['--executable-url', cloud.executable.url, '--executable-sha256', sha256],
];

async function untilReady(): Promise<void> {
  await until('the instance is ready', async () => (await readiness(machine))?.ok === true).catch(
    async (error: Error) => {
      const lines = (await machine.journal()).slice(-60).map(({ unit, message }) => `${unit} ${message}`);
      throw new Error(`${error.message}; the end of its journal:\n${lines.join('\n')}`);
    },
  );
}

const show = async (unit: string, property: string): Promise<string> =>
  (await machine.ok('systemctl', 'show', '--value', `--property=${property}`, unit)).trim();

/** Entries of the journal, of all boots, that match. */
async function entries(unit: string, pattern: RegExp): Promise<JournalEntry[]> {
  return (await machine.journal(unit)).filter(({ message }) => pattern.test(message));
}

/** What must be the same after another boot: of each file its path, inode, size and time, and who the node is. */
async function identity(): Promise<string> {
  const files = await machine.ok(
    'find',
    ...['/usr/local/bin/presync', '/usr/local/lib/presync', '/etc/presync', '/etc/systemd/system'],
    ...['-not', '-type', 'd', '-printf', '%p %i %s %T@ %m %u\\n'],
  );
  const keys = await machine.ok('sha256sum', `${BASE_PATH}/chains/dev/network/secret_ed25519`);
  return `${files.split('\n').toSorted().join('\n')}\n${keys}`;
}

test('an instance restores, starts its node when the database is whole, and serves', can, async () => {
  const own = '#cloud-config\nruncmd:\n  - [touch, /own-part]\n';
  machine = await cloud.launch(multipart(own, await cloud.userData(...pinned())));
  await untilReady();

  // The node was enabled in the image, and has not begun anything before.
  assert.equal((await entries(NODE, /^polkadot\.service - the node was skipped/)).length, 1);
  const starts = await entries(NODE, /^Started polkadot\.service/);
  const [sealed] = await entries(AGENT, /^Started presync-bootstrap\.service/);
  const [restored] = await entries(AGENT, /"event":"restore\.done"/);
  assert.equal(starts.length, 1);
  assert.ok((restored?.at ?? 0) > 0 && (restored?.at ?? 0) <= (sealed?.at ?? 0));
  assert.ok((sealed?.at ?? 0) <= (starts[0]?.at ?? 0));

  // cloud-init is through with all of it, and with the other part, and did not wait for any of this.
  const status = JSON.parse(await machine.ok('cloud-init', 'status', '--wait', '--format=json'));
  assert.equal(status.status, 'done', JSON.stringify(status));
  assert.deepEqual(status.errors, []);
  assert.ok(existsSync(join(machine.root, 'own-part')));

  assert.equal(cloud.downloads(), 1);
  const report = JSON.parse(await readFile(join(machine.root, 'var/lib/presync/report.json'), 'utf8'));
  const phases: string[] = report.phases.map(({ phase }: { phase: string }) => phase);
  assert.deepEqual(phases, ['resolve', 'preflight', 'lease', 'restore', 'start', 'catch-up', 'join']);
  const told = await metrics(machine);
  for (const phase of phases)
    assert.match(told, new RegExp(`^presync_bootstrap_phase_seconds\\{phase="${phase}"\\} `, 'm'));
  assert.match(told, /^presync_bootstrap_ready 1$/m);
  const owners = await machine.ok('find', `${BASE_PATH}/chains`, '-printf', '%u\\n');
  assert.deepEqual([...new Set(owners.trim().split('\n'))], ['polkadot']);
});

test('restarting the agent leaves the node alone', can, async () => {
  const pid = await show(NODE, 'MainPID');
  const agent = await show(AGENT, 'MainPID');
  await machine.ok('systemctl', 'restart', AGENT);
  await untilReady();
  assert.equal(await show(NODE, 'MainPID'), pid);
  assert.notEqual(await show(AGENT, 'MainPID'), agent);
});

test('another first run of cloud-init, after a loss of power, changes nothing', can, async () => {
  const before = await identity();
  const [executable, requests] = [cloud.downloads(), await restores()];
  await machine.ok('cloud-init', 'clean', '--logs');
  await machine.crash();
  await untilReady();
  await until('cloud-init is done', async () =>
    /"status": "done"/.test((await machine.run('cloud-init', 'status', '--format=json')).stdout),
  );
  assert.equal(await identity(), before);
  assert.equal(cloud.downloads(), executable);
  assert.equal(await restores(), requests);
  await machine.end();
});

const restores = async (): Promise<number> => (await entries(AGENT, /"event":"restore\.done"/)).length;

test(
  'an executable with another digest is not run, and the node does not start, at no boot',
  can,
  async () => {
    const known = cloud.downloads();
    machine = await cloud.launch(await cloud.userData(...pinned('ab'.repeat(32))));
    for (let boots = 1; boots <= 2; boots++) {
      await until(
        'the installer has given up',
        async () => (await show(INSTALLER, 'ActiveState')) === 'failed',
      );
      await until('the boot is done', async () =>
        ['running', 'degraded'].includes((await machine.run('systemctl', 'is-system-running')).stdout.trim()),
      );
      assert.equal(await show(INSTALLER, 'ExecMainStatus'), '4');
      assert.equal(cloud.downloads(), known + boots);
      assert.deepEqual(await machine.ok('ls', '/usr/local/bin'), 'polkadot-omni-node\n');
      assert.equal(await show(AGENT, 'ActiveState'), 'inactive');
      assert.equal(await show(NODE, 'ActiveState'), 'inactive');
      assert.equal(await show(NODE, 'ConditionResult'), 'no');
      assert.ok(!existsSync(join(machine.root, BASE_PATH)));
      if (boots === 1) await machine.reboot();
    }
  },
);
