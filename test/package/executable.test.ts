import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { builtPackage } from '../support/package.ts';
import { freePorts } from '../support/ports.ts';
import { presyncOk } from '../support/presync.ts';
import { DEV_GENESIS, unpackFixture } from '../support/real-node.ts';

let scratch: string;
let executable: string;
let version: string;

before(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'presync-executable-'));
  ({ executable, version } = await builtPackage());
});
after(() => rm(scratch, { recursive: true, force: true }));

/** Neither Node, nor npm's folders, nor this shell's variables: as on a machine where only this file was put. */
const ENVIRONMENT = {
  PATH: '/usr/bin:/bin',
  HOME: '/nonexistent',
  AZURE_STORAGE_KEY: Buffer.alloc(64, 7).toString('base64'),
};
const CREDENTIALS = { AWS_ACCESS_KEY_ID: 'id', AWS_SECRET_ACCESS_KEY: 'secret' };

async function run(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(
      executable,
      args,
      { cwd: '/', env: { ...ENVIRONMENT, ...CREDENTIALS }, maxBuffer: 1 << 24 },
      (error, stdout, stderr) => {
        resolve({
          code: typeof error?.code === 'number' ? error.code : error === null ? 0 : -1,
          stdout,
          stderr,
        });
      },
    );
  });
}

async function digests(folder: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const name of (await readdir(folder)).toSorted())
    found[name] = createHash('sha256')
      .update(await readFile(join(folder, name)))
      .digest('hex');
  return found;
}

test('the executable tells its version and its commands', async () => {
  assert.deepEqual(await run('--version'), { code: 0, stdout: `${version}\n`, stderr: '' });
  const help = await run('help');
  assert.equal(help.code, 0);
  assert.match(help.stdout, /snapshotter .*bootstrap /s);
});

test('the executable takes a snapshot, verifies and restores it, with its own worker threads', async () => {
  const base = join(scratch, 'node');
  await unpackFixture('rocksdb', base);
  const store = `file://${join(scratch, 'store')}`;
  const config = join(scratch, 'presync.yaml');
  await writeFile(
    config,
    `store: ${store}\nstateDir: ${join(scratch, 'state')}\ngenesis: '${DEV_GENESIS}'\n`,
  );
  const key = join(scratch, 'key');
  for (const args of [
    ['keys', 'new', '--out', key],
    ['snapshot', '--config', config, '--base-path', base, '--sign-key', key],
  ]) {
    const outcome = await run(...args);
    assert.equal(outcome.code, 0, outcome.stderr);
  }
  const trusted = (await run('keys', 'public', key)).stdout.trim();
  const verified = await run('verify', '--config', config, '--trust', trusted);
  assert.equal(verified.code, 0, verified.stderr);
  const target = join(scratch, 'restored');
  const restored = await run('restore', '--config', config, '--trust', trusted, '--base-path', target);
  assert.equal(restored.code, 0, restored.stderr);
  const database = 'chains/dev/db/full';
  const before = await digests(join(base, database));
  for (const name of Object.keys(before)) if (/^(LOCK|LOG)/.test(name)) delete before[name];
  assert.deepEqual(await digests(join(target, database)), before);
});

test('each cloud is reached with the library that is in the executable', async () => {
  const [port] = await freePorts(1);
  const endpoint = encodeURIComponent(`http://127.0.0.1:${port}`);
  const stores = [
    `s3://bucket/prefix?region=eu-central-1&endpoint=${endpoint}`,
    `azure://account/container/prefix?endpoint=${endpoint}`,
    `gs://bucket/prefix?endpoint=${endpoint}`,
  ];
  await Promise.all(
    stores.map(async (store) => {
      const { code, stderr } = await run('list', '--store', store);
      // Refused by the system, so the library was there and did its work.
      assert.match(stderr, /ECONNREFUSED/, store);
      assert.match(stderr, /Code: STORE_UNREACHABLE \(exit code 7\)/, store);
      assert.equal(code, 7, store);
    }),
  );
});

test('user data is made with the files that are in the executable', async () => {
  const args = [
    ...['cloud-init', 'render', '--base-path', '/data', '--store', 's3://bucket/prefix', '--unit', 'node'],
    ...['--insecure-no-verify', '--executable-url', 'https://files.example/presync'],
    ...['--executable-sha256', 'ab'.repeat(32)],
  ];
  const rendered = await run(...args);
  assert.equal(rendered.code, 0, rendered.stderr);
  assert.equal(rendered.stdout, (await presyncOk(args)).stdout);
});

test('a node is asked over WebSocket with the library that is in the executable', async () => {
  const [port] = await freePorts(1);
  const { stdout } = await run('doctor', '--rpc', `ws://127.0.0.1:${port}`);
  assert.match(stdout, /FAIL {2}node: .*the connection failed/);
});

test('a daemon has a pool of threads that is large enough, and memory that is given back', async () => {
  const base = join(scratch, 'daemon');
  await mkdir(base);
  const child = spawn(
    executable,
    [
      'snapshotter',
      '--base-path',
      base,
      '--store',
      `file://${scratch}/daemon-store`,
      '--state-dir',
      join(scratch, 'daemon-state'),
      '--schedule',
      '0 0 1 1 *',
      '--insecure-no-sign',
      '--admin-listen',
      'none',
    ],
    { cwd: '/', env: ENVIRONMENT, stdio: ['ignore', 'ignore', 'pipe'] },
  );
  try {
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    while (!said.includes('daemon.started')) {
      assert.equal(child.exitCode, null, said);
      await sleep(20);
    }
    const variables = (await readFile(`/proc/${child.pid}/environ`, 'utf8')).split('\0');
    assert.ok(variables.includes('UV_THREADPOOL_SIZE=16'), variables.join(' '));
    assert.ok(
      variables.some((variable) => variable.startsWith('GLIBC_TUNABLES=glibc.malloc.mmap_threshold')),
    );
    // Its process is the one that was started, so that whoever supervises it signals the right one.
    child.kill('SIGTERM');
    const [code] = await once(child, 'exit');
    assert.equal(code, 143);
  } finally {
    child.kill('SIGKILL');
  }
});
