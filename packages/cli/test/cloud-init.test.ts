import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'yaml';
import { presync, scratch } from './support.ts';

const DIGEST = 'ab'.repeat(32);
const KEY = 'ed25519:p5BLKAr04AAkgi-vCOFD-RYG9MQmcP7eHUEsCxdDyEw';
const STORE = ['--base-path', '/var/lib/polkadot', '--store', 's3://bucket/prefix?region=eu-central-1'];
const BASE = [...STORE, '--trust', KEY];
const NODE = ['--unit', 'polkadot'];
const EXECUTABLE = ['--executable-url', 'https://files.example/presync', '--executable-sha256', DIGEST];
const PACKAGE = ['--deb-url', 'https://files.example/presync.deb', '--deb-sha256', DIGEST];

/** What cloud-init does not tell of: a top-level key that it does not know. */
const KEYS = ['bootcmd', 'merge_how', 'runcmd'];

interface Rendered {
  text: string;
  /** The unit that is started. */
  start: string;
  /** Content by path, and what the package has in its place. */
  files: Map<string, { mode: string; content: string; packaged: string }>;
}

async function render(...args: string[]): Promise<Rendered> {
  const { code, stdout, stderr } = await presync(['cloud-init', 'render', ...args]);
  assert.equal(code, 0, stderr);
  return read(stdout);
}

function read(text: string): Rendered {
  assert.ok(text.startsWith('#cloud-config\n'));
  // As cloud-init reads it.
  const document = parse(text, { version: '1.1' });
  assert.deepEqual(Object.keys(document).toSorted(), KEYS);
  const [shell, flag, , name, unit, ...places]: string[] = document.bootcmd[0];
  assert.deepEqual([shell, flag, name], ['/bin/sh', '-c', 'presync-prepare']);
  const files: Rendered['files'] = new Map();
  for (let at = 0; at < places.length; at += 4) {
    const [path = '', mode = '', content = '', packaged = ''] = places.slice(at, at + 4);
    files.set(path, { mode, content, packaged });
  }
  const [systemctl, block, start, started]: string[] = document.runcmd[0];
  assert.deepEqual([systemctl, block, start], ['systemctl', '--no-block', 'start']);
  assert.equal(started, unit);
  return { text, start: started ?? '', files };
}

const config = ({ files }: Rendered): Record<string, unknown> =>
  parse(files.get('/etc/presync/presync.yaml')?.content ?? '');

test('the configuration on the instance is what was given, and presync finds it sound', async (t) => {
  const dir = await scratch(t);
  const rendered = await render(
    ...BASE,
    ...['--existing', 'reuse', '--max-age', '36h', '--owner', '1000:1000', '--bandwidth', '200MB'],
    ...[
      '--source',
      'https://cdn.example/presync',
      '--source',
      'peer+http://10.0.0.5:9617',
      '--min-peers',
      '3',
    ],
    ...['--admin-listen', '0.0.0.0:9616', ...NODE],
  );
  assert.deepEqual(config(rendered), {
    basePath: '/var/lib/polkadot',
    store: 's3://bucket/prefix?region=eu-central-1',
    trust: [KEY],
    existing: 'reuse',
    maxAge: '36h',
    owner: '1000:1000',
    bandwidth: '200000000B',
    source: ['https://cdn.example/presync', 'peer+http://10.0.0.5:9617'],
    minPeers: 3,
    adminListen: '0.0.0.0:9616',
    unit: 'polkadot',
  });
  const file = join(dir, 'presync.yaml');
  await writeFile(file, rendered.files.get('/etc/presync/presync.yaml')?.content ?? '');
  const checked = await presync(['config', 'check', 'bootstrap', '--config', file]);
  assert.equal(checked.code, 0, checked.stderr);
});

test('an option of a file or of the environment is one that was given, and others than the agent takes stay here', async (t) => {
  const file = join(await scratch(t), 'presync.yaml');
  await writeFile(
    file,
    `basePath: /data\nstore: file:///mnt/store\nschedule: '0 3 * * *'\nsignKey: /etc/presync/keys/k\ntrust: '${KEY}'\n`,
  );
  const { code, stdout, stderr } = await presync(
    ['cloud-init', 'render', '--config', file, '--base-path', '/other', '--verbose'],
    { PRESYNC_UNIT: 'node.service' },
  );
  assert.equal(code, 0, stderr);
  assert.deepEqual(config(read(stdout)), {
    basePath: '/other',
    store: 'file:///mnt/store',
    trust: [KEY],
    unit: 'node.service',
    verbose: true,
  });
});

test('texts that YAML 1.1 or a shell would take for something else arrive as they are', async () => {
  const command = [
    '/opt/node',
    '--name',
    'on',
    'it\'s $HOME `x` "q"',
    '--port',
    '030',
    '0x1F',
    '1:30',
    '%n',
    'é\t',
  ];
  const rendered = await render(...BASE, '--node-command', JSON.stringify(command));
  assert.deepEqual(config(rendered).nodeCommand, command);
  assert.ok([...rendered.files.keys()].every((path) => !path.endsWith('10-presync.conf')));
});

test('with the package in the image there is a gate, and nothing comes from elsewhere', async () => {
  const { files, start } = await render(...BASE, ...NODE);
  assert.equal(start, 'presync-bootstrap.service');
  assert.deepEqual(
    [...files.keys()],
    ['/etc/presync/presync.yaml', '/etc/systemd/system/polkadot.service.d/10-presync.conf'],
  );
  const gate = files.get('/etc/systemd/system/polkadot.service.d/10-presync.conf');
  assert.equal(gate?.packaged, '/usr/share/presync/node-gate.conf');
  assert.match(gate?.content ?? '', /^ConditionPathExists=\/run\/presync\/sealed$/m);
});

test('an executable comes with its unit, a package brings its own', async () => {
  const executable = await render(...BASE, ...NODE, ...EXECUTABLE);
  assert.equal(executable.start, 'presync-install.service');
  const unit = executable.files.get('/etc/systemd/system/presync-bootstrap.service')?.content ?? '';
  assert.match(unit, /^ExecStart=\/usr\/local\/bin\/presync bootstrap$/m);
  assert.doesNotMatch(unit, /\/usr\/bin\/presync/);
  assert.deepEqual(JSON.parse(executable.files.get('/etc/presync/install.json')?.content ?? ''), {
    kind: 'executable',
    url: 'https://files.example/presync',
    sha256: DIGEST,
  });
  const debian = await render(...BASE, ...NODE, ...PACKAGE);
  assert.ok(!debian.files.has('/etc/systemd/system/presync-bootstrap.service'));
  assert.equal(JSON.parse(debian.files.get('/etc/presync/install.json')?.content ?? '').kind, 'package');
});

test('the same options give the same bytes, in whatever order, and --json has texts only', async () => {
  const first = await render(...BASE, ...NODE, ...EXECUTABLE);
  const second = await render(...EXECUTABLE, ...NODE, ...BASE);
  assert.equal(first.text, second.text);
  const { stdout } = await presync(['cloud-init', 'render', ...BASE, ...NODE, ...EXECUTABLE, '--json']);
  const document: Record<string, unknown> = JSON.parse(stdout);
  assert.equal(document.userData, first.text);
  assert.ok(Object.values(document).every((value) => typeof value === 'string'));
});

test('user data fits into the smallest cloud, and what does not fit is refused with the limit', async () => {
  const rendered = await render(...BASE, ...NODE, ...EXECUTABLE, '--cloud', 'aws');
  assert.ok(Buffer.byteLength(rendered.text) < 12_000, `${Buffer.byteLength(rendered.text)} bytes`);
  const sized = async (cloud: string, bytes: number) => {
    const command = ['/opt/node', ...Array.from({ length: bytes / 2000 }, () => 'x'.repeat(1990))];
    return presync(['cloud-init', 'render', ...BASE, '--cloud', cloud, ...EXECUTABLE], {
      PRESYNC_NODE_COMMAND: JSON.stringify(command),
    });
  };
  for (const [cloud, bytes, refused] of [
    ['aws', 4_000, false],
    ['aws', 8_000, true],
    ['auto', 8_000, true],
    ['azure', 8_000, false],
    ['azure', 60_000, true],
    ['gcp', 60_000, false],
    ['none', 60_000, false],
  ] as const) {
    const { code, stderr } = await sized(cloud, bytes);
    assert.equal(code, refused ? 2 : 0, `${cloud} ${bytes}: ${stderr}`);
    if (refused) assert.match(stderr, /USER_DATA_TOO_LARGE/);
    if (refused)
      assert.match(stderr, cloud === 'azure' ? /Azure takes at most 65535/ : /AWS takes at most 16384/);
  }
});

test('no secret gets into user data, and the refusal does not tell it', async (t) => {
  const pem = join(await scratch(t), 'key.pem');
  assert.equal((await presync(['keys', 'new', '--out', pem])).code, 0);
  const SECRET = 'hunter2hunter2';
  const cases: [args: string[], error: RegExp][] = [
    [[...STORE, ...NODE, '--trust', pem], /it is a private key/],
    [
      [...BASE, ...NODE, '--source', `https://me:${SECRET}@cdn.example/presync`],
      /--source holds a credential/,
    ],
    [
      [
        ...BASE,
        ...NODE,
        '--executable-url',
        `https://x.example/p?X-Amz-Signature=${SECRET}`,
        '--executable-sha256',
        DIGEST,
      ],
      /--executable-url holds/,
    ],
    [
      [...BASE, ...NODE, '--store-auth', `https://cdn.example bearer ${SECRET}`],
      /--store-auth is not the whole path/,
    ],
    [
      [...BASE, ...NODE, '--store-cert-key', `-----BEGIN PRIVATE KEY-----\n${SECRET}`],
      /--store-cert-key is not the whole path/,
    ],
    [
      [...BASE, '--node-command', JSON.stringify(['node', `--node-key=${SECRET}`])],
      /the node command has --node-key/,
    ],
    [
      [...BASE, '--node-command', JSON.stringify(['node', '--password', SECRET])],
      /the node command has --password/,
    ],
  ];
  for (const [args, error] of cases) {
    const { code, stdout, stderr } = await presync(['cloud-init', 'render', ...args]);
    assert.equal(code, 2, stderr);
    assert.equal(stdout, '');
    assert.match(stderr, error);
    assert.doesNotMatch(stderr, /hunter2/);
  }
  const { code } = await presync([
    'cloud-init',
    'render',
    ...BASE,
    ...NODE,
    '--store-auth',
    '/etc/presync/auth',
  ]);
  assert.equal(code, 0);
});

test('what would leave an instance without an agent, a node or trust is refused', async () => {
  for (const [args, error] of [
    [[...STORE, ...NODE], /no trusted key is given/],
    [BASE, /needs --unit or --node-command/],
    [
      [...BASE, ...NODE, '--executable-url', 'https://x.example/presync'],
      /--executable-url needs --executable-sha256/,
    ],
    [[...BASE, ...NODE, '--deb-sha256', DIGEST], /--deb-sha256 needs --deb-url/],
    [[...BASE, ...NODE, ...EXECUTABLE, ...PACKAGE], /contradict each other/],
    [[...BASE, ...NODE, '--state-dir', 'state'], /--state-dir is not the whole path/],
    [[...BASE, '--unit', '../../etc/x'], /--unit is/],
  ] as const) {
    const { code, stderr } = await presync(['cloud-init', 'render', ...args]);
    assert.equal(code, 2, stderr);
    assert.match(stderr, error);
  }
});
