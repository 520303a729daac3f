/** What is read of a node's unit, against what systemd really hands to the program. */
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { Finding } from '@presync/bootstrap/preflight';
import { type ConfiguredNode, parseNodeArguments } from '@presync/node/node-arguments';
import { hasMachine, type Machine, startMachine } from '../support/machine.ts';
import { needs } from '../support/needs.ts';

const can = needs('root, systemd-nspawn and a Debian tree', hasMachine());
const CHECKOUT = '/opt/checkout';
const DROP_IN = '/etc/systemd/system/relay@.service.d/20-arguments.conf';

/** printf under a node's name: it writes its arguments, each with a line of its own. */
const PROGRAM = "/usr/local/bin/polkadot '%%s\\n'";

const FILES: Record<string, string> = {
  '/etc/systemd/system/relay@.service': `[Service]
Type=oneshot
StandardOutput=truncate:/run/arguments
User=keeper
LimitNOFILE=1024:5000
WorkingDirectory=/srv
Environment=BASE=/data/%i "CHAIN=my chain" OPTS=--wrong NOTHING=
EnvironmentFile=-/etc/default/absent
EnvironmentFile=/etc/default/relay
ExecStart=${PROGRAM} --chain wrong
`,
  '/etc/systemd/system/relay@.service.d/10-other.conf': '[Service]\nExecStart=\nExecStart=/bin/false\n',
  [DROP_IN]: `[Service]
ExecStart=
ExecStart=-${PROGRAM} --chain "\${CHAIN}" --base-path \${BASE}/full \\
  --database=paritydb $OPTS $NOTHING $ABSENT --rpc-port "99\${ABSENT}44" --sync 'a$$b$BASE' -- -d '%n "x"'
`,
  '/etc/default/relay': `# Options of the node
OPTS=--state-pruning 256 "--blocks-pruning=archive canonical"
; CHAIN=not this
 QUOTED = "a \\"b\\" \\$c \\d"
`,
  '/etc/systemd/system/literal.service': `[Service]
Type=oneshot
StandardOutput=truncate:/run/arguments
Environment=CHAIN=dev
ExecStart=:${PROGRAM} --chain \${CHAIN} --base-path $CHAIN
`,
  '/etc/systemd/system/shell.service': `[Service]
Type=oneshot
StandardOutput=truncate:/run/arguments
EnvironmentFile=/etc/default/relay
Environment="CHAIN=my chain"
ExecStart=/bin/sh -c 'D="$$CHAIN"; exec nice -n 1 /usr/local/bin/polkadot "%%s\\n" --chain "$CHAIN" -d"/x/$$D" --sync "$QUOTED" $OPTS'
`,
  '/etc/systemd/system/script.service': `[Service]
Type=oneshot
StandardOutput=truncate:/run/arguments
ExecStart=/usr/local/bin/start-node --rpc-port 9955
`,
  '/usr/local/bin/start-node': `#!/bin/sh
# Starts the node.
set -e
BASE=/data
exec /usr/local/bin/polkadot '%s\\n' --chain dev --base-path "$BASE/it's" "$@"
`,
};

describe('a unit of a node', () => {
  let machine: Machine;

  before(async () => {
    if (can.skip !== false) return;
    machine = await startMachine({
      binds: [
        { from: resolve(import.meta.dirname, '../..'), to: CHECKOUT, readOnly: true },
        { from: process.execPath, to: '/usr/local/bin/node', readOnly: true },
      ],
    });
    for (const [path, text] of Object.entries(FILES)) {
      await mkdir(dirname(join(machine.root, path)), { recursive: true });
      await writeFile(join(machine.root, path), text, { mode: path.startsWith('/usr') ? 0o755 : 0o644 });
    }
    await machine.ok('cp', '/usr/bin/printf', '/usr/local/bin/polkadot');
    await machine.ok('useradd', '--uid', '4242', '--create-home', 'keeper');
    await machine.ok('systemctl', 'daemon-reload');
  });
  after(() => machine?.end());

  interface Seen {
    node?: Omit<ConfiguredNode, 'environment'>;
    error?: string;
    findings: Finding[];
  }

  async function look(unit: string, base: string, { owner = '', path = '' } = {}): Promise<Seen> {
    const program = `${CHECKOUT}/test/machine/programs/look-at-unit.ts`;
    const environment = path === '' ? [] : ['env', `PATH=${path}`];
    const command = [...environment, '/usr/local/bin/node', program, unit, base, owner].filter(Boolean);
    return JSON.parse(await machine.ok(...command));
  }

  /** Starts it, and gives the arguments that the program was given. */
  async function given(unit: string): Promise<string[]> {
    await machine.ok('systemctl', 'start', unit);
    return (await machine.ok('cat', '/run/arguments')).split('\n').slice(0, -1);
  }

  for (const unit of ['relay@one.service', 'literal.service', 'shell.service', 'script.service']) {
    it(`says the same as systemd hands over: ${unit}`, can, async () => {
      const args = await given(unit);
      assert.ok(args.length >= 4, args.join('\n'));
      const { node } = await look(unit, '/data');
      assert.equal(node?.obstacle, undefined);
      assert.equal(node?.executable, '/usr/local/bin/polkadot');
      // By way of JSON, which leaves out what is undefined.
      assert.deepEqual(node?.arguments, JSON.parse(JSON.stringify(parseNodeArguments(args))));
    });
  }

  it('says the same where there is no bus to ask', can, async () => {
    await machine.ok('mkdir', '-p', '/opt/few');
    await machine.ok('ln', '-sf', '/usr/bin/systemctl', '/usr/bin/getent', '/opt/few');
    const asked = await look('relay@one', '/data');
    const { node } = await look('relay@one', '/data', { path: '/opt/few' });
    // Blanks in a word are kept by the bus only: "-d '%n "x"'" is one word there.
    assert.deepEqual({ ...node?.arguments, relay: null }, { ...asked.node?.arguments, relay: null });
    for (const key of ['name', 'where', 'user', 'openFiles', 'cwd', 'home'] as const)
      assert.deepEqual(node?.[key], asked.node?.[key], key);
  });

  it('tells its user, its limits, its folder, and the file to change', can, async () => {
    const { node } = await look('relay@one.service', '/data');
    assert.equal(node?.where, `in ExecStart= of ${DROP_IN}`);
    assert.equal(node?.openFiles, 5000);
    assert.equal(node?.cwd, '/srv');
    assert.deepEqual([node?.user?.name, node?.user?.uid, node?.home], ['keeper', 4242, '/home/keeper']);
  });

  it('is held against what would be restored', can, async () => {
    const of = ({ findings }: Seen) =>
      findings.filter(({ verdict }) => verdict !== 'pass').map(({ check, verdict }) => `${check} ${verdict}`);
    const wrong = await look('relay@one', '/elsewhere');
    for (const expected of [
      'pruning refusal',
      'paths refusal',
      'owner refusal',
      'files warning',
      'chain warning',
    ])
      assert.ok(of(wrong).includes(expected), `${expected}: ${of(wrong)}`);
    const hints = wrong.findings.map(({ hint }) => hint).join('\n');
    assert.match(hints, /--base-path \/data\/one\/full/);
    assert.match(hints, /say --owner 4242:4242/);
    assert.match(hints, /LimitNOFILE=65536 into \[Service\] of relay@one\.service/);
    assert.ok(hints.includes(`--state-pruning archive in ExecStart= of ${DROP_IN}`), hints);
    const right = await look('relay@one', '/data/one/full', { owner: '4242:4242' });
    assert.ok(!of(right).some((line) => /paths refusal|owner/.test(line)), of(right).join());
  });

  it('that is not there, or masked, is refused', can, async () => {
    await machine.ok('systemctl', 'mask', 'hidden.service');
    for (const [unit, message] of [
      ['none.service', /there is no unit none\.service/],
      ['hidden.service', /hidden\.service is masked/],
    ] as const) {
      for (const path of ['', '/opt/few']) {
        const { error, findings } = await look(unit, '/data', { path });
        assert.equal(error, 'CONFIG_INVALID');
        const [found] = findings.filter(({ check }) => check === 'arguments');
        assert.equal(found?.code, 'TARGET_NODE');
        assert.match(found?.message ?? '', message);
      }
    }
  });
});
