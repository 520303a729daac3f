/** User data before a machine boots from it: cloud-init's own schema, and what its scripts do in a Debian tree. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdir, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { createServer, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { parse } from 'yaml';
import { hasTree, openTree, type Tree } from '../support/debian-tree.ts';
import { needs } from '../support/needs.ts';
import { builtPackage, hasProgram } from '../support/package.ts';
import { presyncOk } from '../support/presync.ts';

const can = needs('root and a Debian tree', hasTree());
const canInstall = needs('root, a Debian tree and dpkg-deb', hasTree() && (await hasProgram('dpkg-deb')));

const RENDER = [
  ...['cloud-init', 'render', '--base-path', '/var/lib/polkadot', '--store', 's3://b/p?region=eu-central-1'],
  ...['--trust', 'ed25519:p5BLKAr04AAkgi-vCOFD-RYG9MQmcP7eHUEsCxdDyEw', '--unit', 'polkadot'],
];
const INSTALLER = '/usr/local/lib/presync/install.py';
const EXECUTABLE = '/usr/local/bin/presync';
const PROGRAM = '#!/bin/sh\necho 1.0.0\n';

async function scene(t: TestContext): Promise<Tree> {
  const tree = await openTree();
  t.after(() => tree.end());
  // Does what systemctl does on a machine that is not booted, and writes down what it was asked.
  const systemctl = join(tree.root, 'usr/bin/systemctl');
  await rename(systemctl, `${systemctl}.real`);
  await writeFile(
    systemctl,
    '#!/bin/sh\necho "$@" >>/asked\ncase $* in *start*|daemon-reload) ;; *) exec systemctl.real "$@" ;; esac\n',
  );
  await chmod(systemctl, 0o755);
  return tree;
}

/** What systemctl was asked for since the last call. */
async function asked({ root }: Tree): Promise<string[]> {
  const path = join(root, 'asked');
  const lines = existsSync(path) ? (await readFile(path, 'utf8')).trim().split('\n') : [];
  await writeFile(path, '');
  return lines.filter(Boolean);
}

interface Place {
  url: string;
  sha256: string;
  requests: () => number;
}

type Answer = (answer: ServerResponse) => void;

/** A server that gives each of the answers once, and then the content. */
async function serve(t: TestContext, content: string | Buffer, answers: Answer[] = []): Promise<Place> {
  let requests = 0;
  const server = createServer((_, answer) => {
    const special = answers[requests++];
    if (special === undefined) answer.end(content);
    else special(answer);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const address = server.address();
  return {
    url: `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}/presync`,
    sha256: createHash('sha256').update(content).digest('hex'),
    requests: () => requests,
  };
}

/** Does what cloud-init does with `bootcmd`. */
async function prepare(tree: Tree, more: readonly string[]): Promise<void> {
  const { stdout } = await presyncOk([...RENDER, ...more]);
  for (const command of parse(stdout, { version: '1.1' }).bootcmd) {
    const { code, stderr } = await tree.run(command);
    assert.equal(code, 0, stderr);
  }
}

async function prepareFor(tree: Tree, { url, sha256 }: Place, kind = 'executable'): Promise<void> {
  await prepare(tree, [`--${kind}-url`, url, `--${kind}-sha256`, sha256]);
  await asked(tree);
}

const install = (tree: Tree) =>
  tree.run(['python3', '-I', INSTALLER], ['STATE_DIRECTORY=/var/lib/presync-install']);

/** Sets a constant of the installer, whose own would make a test long. */
async function setConstant({ root }: Tree, name: string, value: number): Promise<void> {
  const path = join(root, INSTALLER);
  const text = await readFile(path, 'utf8');
  const changed = text.replace(new RegExp(`^${name} = .*$`, 'm'), `${name} = ${value}`);
  assert.notEqual(changed, text);
  await writeFile(path, changed);
}

async function assertNothingRan(tree: Tree): Promise<void> {
  assert.deepEqual(await asked(tree), []);
  assert.deepEqual(await readdir(join(tree.root, 'usr/local/bin')), []);
}

test("cloud-init's schema accepts the user data of each cloud, and would tell", can, async (t) => {
  const tree = await openTree();
  t.after(() => tree.end());
  const file = join(tree.root, 'user-data');
  const check = () => tree.run(['cloud-init', 'schema', '--config-file', '/user-data']);
  const digest = 'ab'.repeat(32);
  for (const cloud of ['aws', 'azure', 'gcp', 'none'])
    for (const pinned of [
      [],
      ['--executable-url', 'https://files.example/presync', '--executable-sha256', digest],
      ['--deb-url', 'https://files.example/presync.deb', '--deb-sha256', digest],
    ]) {
      const { stdout } = await presyncOk([...RENDER, '--cloud', cloud, ...pinned]);
      await writeFile(file, stdout);
      const checked = await check();
      assert.deepEqual(checked, { code: 0, stdout: 'Valid cloud-config: /user-data\n', stderr: '' }, cloud);
    }
  await writeFile(file, (await presyncOk(RENDER)).stdout.replace('runcmd:', 'runcmd: 5\nphone_home:'));
  assert.equal((await check()).code, 1);
});

test(
  'files are placed once, put right when they are damaged, and systemd is told when it must',
  can,
  async (t) => {
    const tree = await scene(t);
    const path = join(tree.root, 'etc/presync/presync.yaml');
    const gate = join(tree.root, 'etc/systemd/system/polkadot.service.d/10-presync.conf');
    const place = await serve(t, PROGRAM);
    const pinned = ['--executable-url', place.url, '--executable-sha256', place.sha256];
    await prepare(tree, pinned);
    const first = await asked(tree);
    assert.ok(first.includes('daemon-reload'));
    assert.ok(first.includes('--quiet --no-reload enable presync-install.service'), first.join('\n'));
    assert.equal((await stat(path)).mode & 0o777, 0o640);
    const content = await readFile(path, 'utf8');
    const before = await stat(gate);
    await prepare(tree, pinned);
    assert.deepEqual(await asked(tree), ['--quiet is-enabled presync-install.service']);
    assert.equal((await stat(gate)).ino, before.ino);
    await writeFile(path, content.slice(0, 20));
    await writeFile(gate, '');
    await prepare(tree, pinned);
    assert.equal(await readFile(path, 'utf8'), content);
    assert.match(await readFile(gate, 'utf8'), /^ConditionPathExists=/m);
    assert.ok((await asked(tree)).includes('daemon-reload'));
    assert.equal(place.requests(), 0);
  },
);

test("with the package in the image the gate is a link to the package's", can, async (t) => {
  const tree = await scene(t);
  const packaged = '/usr/share/presync/node-gate.conf';
  const gate = join(tree.root, 'etc/systemd/system/polkadot.service.d/10-presync.conf');
  await writeFile(
    join(tree.root, 'etc/systemd/system/presync-bootstrap.service'),
    '[Install]\nWantedBy=multi-user.target\n',
  );
  await mkdir(join(tree.root, 'usr/share/presync'));
  await writeFile(join(tree.root, packaged), 'the gate of the package\n');
  await prepare(tree, []);
  assert.equal((await tree.run(['readlink', gate.slice(tree.root.length)])).stdout, `${packaged}\n`);
  await asked(tree);
  await prepare(tree, []);
  assert.deepEqual(await asked(tree), ['--quiet is-enabled presync-bootstrap.service']);
});

describe('the installer', () => {
  test('puts the executable in place, starts the agent, and gets nothing twice', can, async (t) => {
    const tree = await scene(t);
    const place = await serve(t, PROGRAM);
    await prepareFor(tree, place);
    // What an attempt has left that was cut short.
    await writeFile(join(tree.root, `${EXECUTABLE}.part`), 'half of it');
    for (let run = 0; run < 2; run++) {
      const { code, stderr } = await install(tree);
      assert.equal(code, 0, stderr);
      assert.deepEqual(await asked(tree), [
        'enable --quiet presync-bootstrap.service',
        'start --no-block presync-bootstrap.service',
      ]);
    }
    assert.equal(place.requests(), 1);
    assert.equal((await stat(join(tree.root, EXECUTABLE))).mode & 0o777, 0o755);
    assert.deepEqual(await readdir(join(tree.root, 'usr/local/bin')), ['presync']);
    await writeFile(join(tree.root, EXECUTABLE), PROGRAM.slice(0, 12));
    assert.equal((await install(tree)).code, 0);
    assert.equal(await readFile(join(tree.root, EXECUTABLE), 'utf8'), PROGRAM);
  });

  test('runs nothing that has another digest, and does not ask again', can, async (t) => {
    const tree = await scene(t);
    const place = await serve(t, '#!/bin/sh\ntouch /ran\n');
    await prepareFor(tree, { ...place, sha256: 'ab'.repeat(32) });
    const { code, stderr } = await install(tree);
    assert.equal(code, 4);
    assert.ok(stderr.includes(`has the SHA-256 ${place.sha256}, and not ${'ab'.repeat(32)}`), stderr);
    assert.equal(place.requests(), 1);
    await assertNothingRan(tree);
    assert.ok(!existsSync(join(tree.root, 'ran')));
  });

  test('asks again when the server fails, breaks off, cuts short or falls silent', can, async (t) => {
    const tree = await scene(t);
    const place = await serve(t, PROGRAM, [
      (answer) => answer.writeHead(503).end(),
      (answer) => answer.socket?.destroy(),
      // A body that ends early, and looks whole to whoever does not count.
      (answer) => {
        answer.writeHead(200, { 'content-length': PROGRAM.length, connection: 'close' });
        answer.write(PROGRAM.slice(0, 5), () => answer.socket?.end());
      },
      (answer) => answer.write(PROGRAM.slice(0, 5)),
    ]);
    await prepareFor(tree, place);
    await setConstant(tree, 'STALL', 1);
    await setConstant(tree, 'LONGEST_WAIT', 1);
    const { code, stderr } = await install(tree);
    assert.equal(code, 0, stderr);
    assert.equal(place.requests(), 5);
    for (const reason of [/503/, /closed connection/, /5 bytes came of 21/, /timed out/])
      assert.match(stderr, reason);
    assert.equal(await readFile(join(tree.root, EXECUTABLE), 'utf8'), PROGRAM);
  });

  test('gives up where there is nothing, and where there is too much', can, async (t) => {
    const tree = await scene(t);
    const place = await serve(t, 'x'.repeat(3 << 20), [(answer) => answer.writeHead(404).end()]);
    await prepareFor(tree, place);
    assert.equal((await install(tree)).code, 5);
    await setConstant(tree, 'MAX_BYTES', 1 << 20);
    const { code, stderr } = await install(tree);
    assert.equal(code, 4);
    assert.match(stderr, /larger than presync can be/);
    await assertNothingRan(tree);
  });

  test('tells what an executable lacks that does not run', can, async (t) => {
    const tree = await scene(t);
    await prepareFor(tree, await serve(t, '#!/nonexistent/interpreter\n'));
    const { code, stderr } = await install(tree);
    assert.equal(code, 1);
    assert.match(stderr, /needs libatomic1 and libstdc\+\+6/);
    assert.deepEqual(await asked(tree), []);
  });

  test(
    'installs the Debian package once, and keeps the configuration that is there',
    canInstall,
    async (t) => {
      const tree = await scene(t);
      const { deb = '', version } = await builtPackage();
      const place = await serve(t, await readFile(deb));
      await prepareFor(tree, place, 'deb');
      await mkdir(join(tree.root, 'var/lib/presync-install'));
      const config = await readFile(join(tree.root, 'etc/presync/presync.yaml'), 'utf8');
      for (let run = 0; run < 2; run++) {
        const { code, stderr } = await install(tree);
        assert.equal(code, 0, stderr);
        assert.deepEqual((await asked(tree)).slice(-2), [
          'enable --quiet presync-bootstrap.service',
          'start --no-block presync-bootstrap.service',
        ]);
      }
      assert.equal(place.requests(), 1);
      const { stdout: status } = await tree.run(['dpkg', '--status', 'presync']);
      assert.match(status, /^Status: install ok installed$/m);
      assert.match(status, new RegExp(`^Version: ${version}$`, 'm'));
      assert.equal(await readFile(join(tree.root, 'etc/presync/presync.yaml'), 'utf8'), config);
      assert.deepEqual(await readdir(join(tree.root, 'var/lib/presync-install')), ['installed']);
    },
  );
});
