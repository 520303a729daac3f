import assert from 'node:assert/strict';
import { chmod, open, readFile, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { COMMAND_NAMES, commandOf, exitsOf } from '@presync/runtime/commands';
import { flagOf } from '@presync/runtime/options';
import { HANDLERS } from '../src/handlers.ts';
import { helpPages, readCommandLine } from '../src/program.ts';
import { outcomeOf, presync, scratch, spawnPresync } from './support.ts';

const QUIET = { version: '1', writeOut: () => {} };

test('--version and help end with 0 and write to stdout', async () => {
  const { version } = JSON.parse(await readFile(join(import.meta.dirname, '../package.json'), 'utf8'));
  assert.deepEqual(await presync(['--version']), { code: 0, stdout: `${version}\n`, stderr: '' });
  const help = await presync(['help']);
  assert.equal(help.code, 0);
  assert.match(help.stdout, /^Usage: presync/);
  assert.equal((await presync(['help', 'restore'])).stdout, (await presync(['restore', '--help'])).stdout);
});

test('wrong usage ends with 2, names the nearest word, and leaves stdout empty', async () => {
  for (const [args, message, hint] of [
    [[], /no command is given/, /presync help/],
    [['lst'], /unknown command 'lst'/, /write list,/],
    [['snapshot', '--stor', 'x'], /unknown option '--stor'/, /write --store,/],
    [['snapshot', '--store'], /argument missing/, /presync snapshot --help/],
    [['list', 'extra'], /too many arguments/, /presync list --help/],
    [['keys'], /keys needs one of new, public/, /presync keys --help/],
    [['keys', 'nwe'], /unknown command 'nwe'/, /write new,/],
    [['keys', 'public'], /missing required argument 'file'/, /presync keys public --help/],
    [['config', 'check', 'snapshoter'], /no command "snapshoter"/, /write snapshotter,/],
    [['bootstrap', 'polkadot'], /unexpected argument "polkadot"/, /after --/],
  ] as const) {
    const { code, stdout, stderr } = await presync(args);
    assert.equal(code, 2, `${args.join(' ')}: ${stderr}`);
    assert.equal(stdout, '');
    assert.match(stderr, message);
    assert.match(stderr, hint);
    assert.match(stderr, /^Code: USAGE \(exit code 2\)$/m);
  }
});

test('with --json an error is one document on stdout', async () => {
  const usage = await presync(['list', '--json', '--nope']);
  assert.equal(usage.code, 2);
  assert.equal(JSON.parse(usage.stdout).error.code, 'USAGE');
  const missing = await presync(['list', '--json']);
  assert.deepEqual(JSON.parse(missing.stdout).error, {
    code: 'CONFIG_INVALID',
    message: 'list needs --store',
    hint: 'give --store URL, or set PRESYNC_STORE_URL, or store in the configuration file',
    exitCode: 2,
  });
});

test('file < environment < flag', async (t) => {
  const file = join(await scratch(t), 'presync.toml');
  await writeFile(file, 'store = "file:///file"\nchannel = "file/x"\nminPeers = 4\n');
  const { code, stdout } = await presync(
    ['config', 'print', '--config', file, '--store', 'file:///flag', '--json'],
    { PRESYNC_STORE_URL: 'file:///environment', PRESYNC_CHANNEL: 'environment/x' },
  );
  assert.equal(code, 0);
  const { options } = JSON.parse(stdout);
  assert.deepEqual(options.store, {
    value: 'file:///flag',
    source: { kind: 'command line', flag: '--store' },
  });
  assert.deepEqual(options.channel, {
    value: 'environment/x',
    source: { kind: 'environment', variable: 'PRESYNC_CHANNEL' },
  });
  assert.deepEqual(options.minPeers, { value: 4, source: { kind: 'file', path: file } });
  assert.deepEqual(options.prove, { value: 'sample', source: { kind: 'default' } });
});

test('config print hides secrets, config check finds what is missing, config schema is a schema', async () => {
  const printed = await presync(['config', 'print', 'list'], {
    PRESYNC_STORE_URL: 's3://AKIA:hunter2@bucket/x',
  });
  assert.equal(printed.code, 0);
  assert.match(printed.stdout, /^store +s3:\/\/\[hidden\]@bucket\/x +environment \(PRESYNC_STORE_URL\)$/m);
  assert.doesNotMatch(printed.stdout, /hunter2|basePath/);
  assert.equal((await presync(['config', 'check'])).code, 0);
  const check = await presync(['config', 'check', 'snapshot', '--store', 'memory:']);
  assert.equal(check.code, 2);
  assert.match(check.stderr, /snapshot needs --base-path/);
  const unknown = await presync(['config', 'check'], { PRESYNC_BASE_PTH: '/x' });
  assert.equal(unknown.code, 2);
  assert.match(unknown.stderr, /CONFIG_UNKNOWN_KEY/);
  assert.match(unknown.stderr, /write PRESYNC_BASE_PATH,/);
  assert.equal(JSON.parse((await presync(['config', 'schema'])).stdout).additionalProperties, false);
  assert.match((await presync(['config', 'reference'])).stdout, /^# Configuration/);
});

test('keys new writes a private file once, and keys public prints what --trust takes', async (t) => {
  const file = join(await scratch(t), 'key.pem');
  const made = await presync(['keys', 'new', '--out', file]);
  assert.equal(made.code, 0);
  assert.match(made.stdout, /^[0-9a-f]{16}\n$/);
  assert.equal((await stat(file)).mode & 0o777, 0o600);
  const content = await readFile(file, 'utf8');

  const again = await presync(['keys', 'new', '--out', file]);
  assert.equal(again.code, 2);
  assert.equal(await readFile(file, 'utf8'), content);

  const shown = await presync(['keys', 'public', file, '--json']);
  assert.equal(JSON.parse(shown.stdout).keyId, made.stdout.trim());
  const plain = await presync(['keys', 'public', file]);
  assert.match(plain.stdout, /^ed25519:[A-Za-z0-9_-]{43}\n$/);
  assert.equal(plain.stderr, '');

  await chmod(file, 0o644);
  assert.match((await presync(['keys', 'public', file])).stderr, /keys\.exposed/);
  assert.equal((await presync(['keys', 'public', join(file, '..', 'absent')])).code, 2);
  await writeFile(join(file, '..', 'bad.pem'), 'hunter2');
  const bad = await presync(['keys', 'public', join(file, '..', 'bad.pem')]);
  assert.equal(bad.code, 2);
  assert.doesNotMatch(bad.stderr, /hunter2/);
});

for (const [signal, expected] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  test(`a command that waits for a store ends with ${expected} on ${signal}`, async (t) => {
    // A server that takes connections and never answers.
    const server = createServer(() => {});
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()));
    t.after(() => void server.close());
    const address = server.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    const connected = new Promise<void>((resolve) => {
      server.once('connection', (socket) => {
        socket.on('error', () => socket.destroy());
        resolve();
      });
    });
    const child = spawnPresync(
      ['list', '--store', `s3://bucket/x?region=us-east-1&pathStyle=1&endpoint=http://127.0.0.1:${port}`],
      { AWS_ACCESS_KEY_ID: 'a', AWS_SECRET_ACCESS_KEY: 'b' },
    );
    const ended = outcomeOf(child);
    await Promise.race([connected, ended.then(({ stderr }) => assert.fail(`it ended early: ${stderr}`))]);
    child.kill(signal);
    const { code, stdout, stderr } = await ended;
    assert.equal(code, expected, stderr);
    assert.equal(stdout, '');
    assert.match(stderr, new RegExp(`${signal} received`));
  });
}

test('what follows -- is the node command, whatever it looks like', () => {
  const read = readCommandLine(
    ['bootstrap', '--base-path', '/x', '--', 'polkadot', '--chain', 'x', '--json'],
    QUIET,
  );
  assert.deepEqual(read, {
    command: 'bootstrap',
    args: [],
    commandLine: { basePath: '/x', nodeCommand: ['polkadot', '--chain', 'x', '--json'] },
  });
  assert.throws(() => readCommandLine(['bootstrap', '--node-command', '["a"]', '--', 'b'], QUIET), {
    code: 'USAGE',
  });
});

test('repeatable flags are collected, others hold the last value', () => {
  const read = readCommandLine(
    ['snapshot', '--sign-key', 'a', '--sign-key', 'b', '--store', 'x', '--store', 'y'],
    QUIET,
  );
  assert.deepEqual(read?.commandLine, { signKey: ['a', 'b'], store: 'y' });
});

test('every command has a handler, and help that names its options and exit codes', async () => {
  const pages = new Map(helpPages({ ...QUIET, width: 100 }).map(({ title, help }) => [title, help]));
  for (const name of COMMAND_NAMES) {
    const help = pages.get(`presync ${name}`) ?? '';
    for (const option of commandOf(name).options)
      assert.ok(help.includes(flagOf(option)), `${name} ${option}`);
    for (const code of exitsOf(name)) assert.match(help, new RegExp(`^ +${code}  `, 'm'), `${name} ${code}`);
    assert.equal(typeof (await HANDLERS[name]?.()), 'function', name);
  }
});

test('the programs are not loaded for a command that does not need them', async (t) => {
  // Into a file: what the runtime traces to a pipe is lost in part when the process ends before the pipe is read.
  const path = join(await scratch(t), 'trace');
  const file = await open(path, 'w');
  const { code } = await outcomeOf(spawnPresync(['config', 'schema'], { NODE_DEBUG: 'esm' }, file.fd));
  await file.close();
  assert.equal(code, 0);
  const trace = await readFile(path, 'utf8');
  // It tells what is loaded; without this line the next one could not fail.
  assert.match(trace, /packages\/runtime\/src\/reference\.ts/);
  assert.doesNotMatch(trace, /@aws-sdk|fastify|prom-client|packages\/transfer/);
});
