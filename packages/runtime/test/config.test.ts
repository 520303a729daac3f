import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { COMMAND_NAMES, commandOf } from '../src/commands.ts';
import { describeSource, loadConfig } from '../src/config.ts';
import { isPresyncError, PresyncError } from '../src/errors.ts';
import { nearest } from '../src/nearest.ts';
import { environmentOf, flagOf, OPTION_NAMES, optionOf } from '../src/options.ts';
import { configReference, configSchema, errorReference } from '../src/reference.ts';
import { scratch } from './support.ts';

const NONE = { defaultFile: '/nonexistent/presync.yaml', environment: {} };

async function refusal(work: Promise<unknown>, code: PresyncError['code']): Promise<PresyncError> {
  try {
    await work;
  } catch (error) {
    assert.ok(error instanceof PresyncError && isPresyncError(error, code), String(error));
    return error;
  }
  assert.fail(`it was not refused with ${code}`);
}

test('file < environment < command line, and each value tells its source', async (t) => {
  const file = join(await scratch(t), 'presync.yaml');
  await writeFile(file, 'store: file:///file\nbasePath: /file\npauseBudget: 2s\nminPeers: 7\n');
  const { values, explained } = await loadConfig('snapshot', {
    defaultFile: file,
    environment: { PRESYNC_STORE_URL: 'file:///environment', PRESYNC_BASE_PATH: '/environment' },
    commandLine: { basePath: '/flag' },
  });
  assert.equal(values.store, 'file:///environment');
  assert.equal(values.basePath, '/flag');
  assert.equal(values.pauseBudget, 2000);
  assert.equal(values.minPeers, 7);
  assert.equal(values.prove, 'sample');
  const source = Object.fromEntries(explained.map((option) => [option.name, describeSource(option.source)]));
  assert.equal(source.store, 'environment (PRESYNC_STORE_URL)');
  assert.equal(source.basePath, 'command line (--base-path)');
  assert.equal(source.pauseBudget, file);
  assert.equal(source.prove, 'default');
});

test('YAML, JSON and TOML say the same', async (t) => {
  const dir = await scratch(t);
  const contents = {
    'a.yaml': 'store: file:///x\ntrust: [ed25519:a, b.pub]\nconcurrency: 4\nquiet: true\n',
    'a.json': '\uFEFF{"store":"memory:","trust":["ed25519:a","b.pub"],"concurrency":4,"quiet":true}',
    'a.toml': 'store = "memory:"\ntrust = ["ed25519:a", "b.pub"]\nconcurrency = 4\nquiet = true\n',
  };
  for (const [name, content] of Object.entries(contents)) {
    await writeFile(join(dir, name), content);
    const { values } = await loadConfig('verify', { ...NONE, commandLine: { config: join(dir, name) } });
    assert.deepEqual(values.trust, ['ed25519:a', 'b.pub'], name);
    assert.equal(values.concurrency, 4);
    assert.equal(values.quiet, true);
  }
});

test('a file that is named must be there and be readable; the default one need not be there', async (t) => {
  const dir = await scratch(t);
  await loadConfig('config check', NONE);
  const load = (path: string): Promise<unknown> =>
    loadConfig('config check', { ...NONE, environment: { PRESYNC_CONFIG: path } });
  await refusal(load(join(dir, 'absent.yaml')), 'CONFIG_UNREADABLE');
  for (const [name, content] of [
    ['a.yaml', 'store: [1\n'],
    ['twice.yaml', 'store: a\nstore: b\n'],
    ['a.json', '{'],
    ['a.toml', 'store = '],
    ['a.ini', 'store=x'],
    ['list.yaml', '- store\n'],
  ] as const) {
    await writeFile(join(dir, name), content);
    const error = await refusal(load(join(dir, name)), 'CONFIG_UNREADABLE');
    assert.ok(error.message.includes(name), error.message);
  }
  await writeFile(join(dir, 'empty.yaml'), '# nothing\n');
  await load(join(dir, 'empty.yaml'));
});

test('unknown keys and variables are refused with the nearest known one', async (t) => {
  const file = join(await scratch(t), 'presync.yaml');
  for (const [key, expected] of [
    ['basepath', 'basePath'],
    ['base-path', 'basePath'],
    ['pauseBudgt', 'pauseBudget'],
    ['stor', 'store'],
  ] as const) {
    await writeFile(file, `${key}: x\n`);
    const error = await refusal(
      loadConfig('config check', { ...NONE, defaultFile: file }),
      'CONFIG_UNKNOWN_KEY',
    );
    assert.ok(error.message.includes(`"${key}"`) && error.message.includes(file), error.message);
    assert.ok(error.hint?.startsWith(`write ${expected},`), error.hint ?? '');
  }
  await writeFile(file, '"__proto__": 1\n');
  await refusal(loadConfig('config check', { ...NONE, defaultFile: file }), 'CONFIG_UNKNOWN_KEY');
  await writeFile(file, 'config: other.yaml\n');
  await refusal(loadConfig('config check', { ...NONE, defaultFile: file }), 'CONFIG_UNKNOWN_KEY');
  for (const [variable, expected] of [
    ['PRESYNC_STORE', 'PRESYNC_STORE_URL'],
    ['PRESYNC_BASEPATH', 'PRESYNC_BASE_PATH'],
    ['PRESYNC_TRSUT', 'PRESYNC_TRUST'],
  ] as const) {
    const error = await refusal(
      loadConfig('config check', { ...NONE, environment: { [variable]: 'x' } }),
      'CONFIG_UNKNOWN_KEY',
    );
    assert.ok(error.hint?.startsWith(`write ${expected},`), error.hint ?? '');
  }
});

test('variables of the launcher, of tests and of Kubernetes are no options', async () => {
  const environment = {
    PRESYNC_LAUNCHED: '1',
    PRESYNC_TEST_REQUIRE: 'all',
    PRESYNC_NODE_BIN: '/x',
    PRESYNC_VERSITYGW: '/x',
    PRESYNC_MINIO: '/x',
    PRESYNC_SERVICE_HOST: '10.0.0.1',
    PRESYNC_SERVICE_PORT: '9616',
    PRESYNC_SERVICE_PORT_METRICS: '9616',
    PRESYNC_PORT: 'tcp://10.0.0.1:9616',
    PRESYNC_PORT_9616_TCP_ADDR: '10.0.0.1',
    PRESYNC_ADMIN_SERVICE_HOST: '10.0.0.1',
    PRESYNC_QUIET: '',
    OTHER: 'x',
  };
  const { explained } = await loadConfig('config print', { ...NONE, environment });
  assert.ok(explained.every(({ source }) => source.kind === 'default'));
});

test('a bad value names option, value, source and what is allowed', async (t) => {
  const file = join(await scratch(t), 'presync.yaml');
  await writeFile(file, 'pauseBudget: 10\n');
  const inFile = await refusal(loadConfig('config check', { ...NONE, defaultFile: file }), 'CONFIG_INVALID');
  assert.equal(
    inFile.message,
    `pauseBudget is 10 in ${file}; it must be a duration from 100ms to 1h, with its unit, such as 90s, 15m, 2h or 7d`,
  );
  const onCommandLine = await refusal(
    loadConfig('config check', { ...NONE, commandLine: { prove: 'all' } }),
    'CONFIG_INVALID',
  );
  assert.equal(
    onCommandLine.message,
    '--prove is "all" on the command line; it must be none, sample or full',
  );
  const inEnvironment = await refusal(
    loadConfig('config check', { ...NONE, environment: { PRESYNC_CHUNK_SIZE: '3MiB' } }),
    'CONFIG_INVALID',
  );
  assert.match(
    inEnvironment.message,
    /^PRESYNC_CHUNK_SIZE is "3MiB" in the environment; it must be a size .* power of two/,
  );
});

test('every option refuses what it cannot be', async () => {
  const bad: Record<string, string> = {
    chain: '../x',
    backend: 'leveldb',
    channel: 'polkadot',
    snapshot: '0',
    pid: '0',
    rpc: 'ftp://x',
    genesis: '0x12',
    expires: '1',
    maxAge: 'never',
    concurrency: '1.5',
    compressionLevel: '20',
    schedule: 'daily',
    timezone: 'Mars/Olympus',
    adminListen: '127.0.0.1:99999',
    minPeers: '-1',
    owner: 'root:root',
    nodeCommand: 'polkadot --chain x',
    unit: 'a b',
    quiet: 'maybe',
  };
  for (const [name, text] of Object.entries(bad)) {
    const variable = `PRESYNC_${name.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`;
    const error = await refusal(
      loadConfig('config check', { ...NONE, environment: { [variable]: text } }),
      'CONFIG_INVALID',
    );
    assert.ok(error.message.includes(variable), error.message);
  }
});

test('values are read into what programs use', async () => {
  const { values } = await loadConfig('config print', {
    ...NONE,
    environment: {
      PRESYNC_OWNER: '1000:1001',
      PRESYNC_ADMIN_LISTEN: '[::1]:0',
      PRESYNC_TRUST: 'ed25519:a, b.pub',
      PRESYNC_NODE_COMMAND: '["polkadot","--name","a b"]',
      PRESYNC_SNAPSHOT: '12',
      PRESYNC_GENESIS: `0x${'AB'.repeat(32)}`,
      PRESYNC_QUIET: 'yes',
      PRESYNC_CHUNK_SIZE: '1MiB',
    },
    commandLine: { signKey: ['a,b.pem', 'c.pem'] },
  });
  assert.deepEqual(values.owner, { uid: 1000, gid: 1001 });
  assert.deepEqual(values.adminListen, { host: '::1', port: 0 });
  assert.deepEqual(values.trust, ['ed25519:a', 'b.pub']);
  assert.deepEqual(values.nodeCommand, ['polkadot', '--name', 'a b']);
  assert.equal(values.snapshot, 12);
  assert.equal(values.genesis, `0x${'ab'.repeat(32)}`);
  assert.equal(values.quiet, true);
  assert.equal(values.chunkSize, 1024 ** 2);
  // A repeated flag holds one value each: a comma is part of it.
  assert.deepEqual(values.signKey, ['a,b.pem', 'c.pem']);
});

test('no secret is printed or told in an error', async () => {
  const { explained } = await loadConfig('config print', {
    ...NONE,
    environment: {
      PRESYNC_STORE_URL: 's3://AKIA:hunter2@bucket/p?X-Amz-Signature=hunter2&region=x',
      PRESYNC_RPC: 'http://user:hunter2@127.0.0.1:9944',
    },
  });
  assert.doesNotMatch(JSON.stringify(explained), /hunter2/);
  assert.match(JSON.stringify(explained), /region=x/);
  const pasted = '-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----'.repeat(100);
  const error = await refusal(
    loadConfig('config print', { ...NONE, commandLine: { signKey: [pasted] } }),
    'CONFIG_INVALID',
  );
  assert.doesNotMatch(`${error.message}${error.hint}`, /hunter2/);
  const url = await refusal(
    loadConfig('config print', { ...NONE, commandLine: { rpc: 'ftp://user:hunter2@h/' } }),
    'CONFIG_INVALID',
  );
  assert.doesNotMatch(`${url.message}${url.hint}`, /hunter2/);
});

test('of options that contradict each other the later source wins, and one source may not name both', async (t) => {
  const file = join(await scratch(t), 'presync.yaml');
  await writeFile(file, 'pidFile: /run/node.pid\ntrust: [ed25519:a]\n');
  const { values } = await loadConfig('config print', {
    ...NONE,
    defaultFile: file,
    commandLine: { pid: '12', insecureNoVerify: true },
  });
  assert.equal(values.pid, 12);
  assert.equal(values.pidFile, undefined);
  assert.equal(values.insecureNoVerify, true);
  assert.deepEqual(values.trust, []);
  const error = await refusal(
    loadConfig('config print', { ...NONE, commandLine: { quiet: true, verbose: true } }),
    'CONFIG_INVALID',
  );
  assert.match(error.message, /--quiet .* and --verbose .* contradict each other/);
});

test('what a command cannot begin without is asked for', async () => {
  const error = await refusal(
    loadConfig('snapshot', { ...NONE, commandLine: { store: 'memory:' } }),
    'CONFIG_INVALID',
  );
  assert.equal(error.message, 'snapshot needs --base-path');
  assert.match(error.hint ?? '', /PRESYNC_BASE_PATH/);
});

test('of the ways to use a command one is needed, the later source wins, and one source may not name both', async (t) => {
  const none = await refusal(loadConfig('serve', NONE), 'CONFIG_INVALID');
  assert.equal(none.message, 'serve needs --store or --base-path');
  assert.match(none.hint ?? '', /give --store URL, or set PRESYNC_STORE_URL.*; or give --base-path DIR/);

  const file = join(await scratch(t), 'presync.yaml');
  await writeFile(file, 'store: file:///store\nbasePath: /node\n');
  const both = await refusal(loadConfig('serve', { ...NONE, defaultFile: file }), 'CONFIG_INVALID');
  assert.match(both.message, /--store .* and --base-path .* contradict each other/);
  assert.match(both.hint ?? '', /command line/);
  const view = await loadConfig('serve', { ...NONE, defaultFile: file, commandLine: { basePath: '/other' } });
  assert.deepEqual([view.values.store, view.values.basePath], [undefined, '/other']);
  const store = await loadConfig('serve', { ...NONE, defaultFile: file, commandLine: { store: 'memory:' } });
  assert.deepEqual([store.values.store, store.values.basePath], ['memory:', undefined]);
  // What takes both is not concerned.
  const { values } = await loadConfig('snapshot', { ...NONE, defaultFile: file });
  assert.deepEqual([values.store, values.basePath], ['file:///store', '/node']);
});

test('the table of options is sound', () => {
  assert.equal(new Set(OPTION_NAMES.map(environmentOf)).size, OPTION_NAMES.length);
  assert.equal(flagOf('insecureNoVerify'), '--insecure-no-verify');
  assert.equal(environmentOf('store'), 'PRESYNC_STORE_URL');
  for (const name of OPTION_NAMES) {
    assert.doesNotMatch(
      environmentOf(name),
      /_(?:SERVICE_HOST|SERVICE_PORT|PORT)$/,
      'Kubernetes uses such names',
    );
    assert.match(optionOf(name).description, /^[A-Zz].*\.$/s, name);
    const takers = COMMAND_NAMES.filter((command) => commandOf(command).options.includes(name));
    assert.ok(takers.length > 2, `no command takes ${name}`);
  }
  for (const command of COMMAND_NAMES) {
    for (const name of [...commandOf(command).required, ...(commandOf(command).oneOf ?? []).flat()])
      assert.ok(commandOf(command).options.includes(name));
    assert.equal(new Set(commandOf(command).options).size, commandOf(command).options.length, command);
  }
});

test('schema and references name every option and code', () => {
  const schema = JSON.stringify(configSchema());
  const reference = configReference();
  for (const name of OPTION_NAMES) {
    assert.ok(reference.includes(`## ${name}\n`));
    assert.equal(schema.includes(`"${name}":`), optionOf(name).inFile !== false, name);
  }
  assert.ok(schema.includes('"additionalProperties":false'));
  assert.match(errorReference(), /\| `LOCKED` \| 9 \|/);
});

test('nearest finds slips, and no other words', () => {
  assert.equal(nearest('stroe', ['store', 'state']), 'store');
  assert.equal(nearest('STORE', ['store']), 'store');
  assert.equal(nearest('completely', ['store', 'prove']), undefined);
  assert.equal(nearest('x', []), undefined);
});
