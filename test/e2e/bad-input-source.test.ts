/** Base paths that are none, databases with something else in them, and command lines that make no sense: `presync snapshot` refuses each. */
import assert from 'node:assert/strict';
import { mkdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { acquireLock } from '@presync/runtime/lock';
import { assertRefused, createScene, type Scene, STORE_INTERNALS } from '../support/bad-input.ts';
import { needs } from '../support/needs.ts';
import { presync, presyncOk } from '../support/presync.ts';
import { hasNode, type RealNode, startNode, unpackFixture } from '../support/real-node.ts';
import { listTree } from '../support/tree.ts';

const ROCKSDB = 'chains/dev/db/full';
const PARITYDB = 'chains/dev/paritydb/full';

describe('a base path from which no snapshot can be taken', () => {
  const cleanups: (() => Promise<void>)[] = [];
  let scene: Scene;
  before(async () => {
    scene = await createScene({ after: (fn) => void cleanups.push(fn) });
    await unpackFixture('rocksdb', scene.source);
    await mkdir(scene.stateDir);
    await mkdir(scene.storeDir);
  });
  after(async () => {
    for (const cleanup of cleanups) await cleanup();
  });

  async function refused(
    expected: { code: string; exit: number; names: (string | RegExp)[] },
    args = scene.snapshotArgs(),
  ) {
    const { source, storeDir, stateDir } = scene;
    return assertRefused({ args, ...expected, unchanged: [source, storeDir, stateDir] });
  }

  it('a folder that is no base path', async () => {
    const elsewhere = join(scene.dir, 'elsewhere');
    await mkdir(join(elsewhere, 'photos'), { recursive: true });
    await writeFile(join(elsewhere, 'photos', 'cat.txt'), 'cat');
    const args = scene.snapshotArgs('--base-path', elsewhere);
    await refused({ code: 'NODE_LAYOUT_NOT_FOUND', exit: 2, names: [elsewhere] }, args);
    assert.deepEqual((await listTree(elsewhere)).length, 3);
  });

  it('a folder that is not there, or is a file', async () => {
    for (const path of [join(scene.dir, 'nowhere'), scene.keyFile]) {
      await refused(
        { code: 'NODE_LAYOUT_NOT_FOUND', exit: 2, names: [path] },
        scene.snapshotArgs('--base-path', path),
      );
    }
  });

  it('the database folder in place of the base path, which the hint corrects', async () => {
    const outcome = await refused(
      { code: 'NODE_LAYOUT_NOT_FOUND', exit: 2, names: [ROCKSDB] },
      scene.snapshotArgs('--base-path', join(scene.source, ROCKSDB)),
    );
    assert.ok(outcome.stderr.includes(`seems to be ${scene.source}`), outcome.stderr);
  });

  it('two chains, and one is not named', async () => {
    const other = join(scene.source, 'chains/other');
    await mkdir(join(other, 'db/full'), { recursive: true });
    await writeFile(join(other, 'db/full/CURRENT'), 'MANIFEST-000001\n');
    try {
      await refused({ code: 'NODE_LAYOUT_AMBIGUOUS', exit: 2, names: ['dev', 'other', scene.source] });
    } finally {
      await rm(other, { recursive: true });
    }
  });

  it('both backends, and neither is named', async () => {
    const other = join(scene.source, PARITYDB);
    await mkdir(other, { recursive: true });
    await writeFile(join(other, 'metadata'), 'version=8\n');
    try {
      await refused({ code: 'NODE_LAYOUT_AMBIGUOUS', exit: 2, names: ['db/full', 'paritydb/full', 'dev'] });
    } finally {
      await rm(join(scene.source, 'chains/dev/paritydb'), { recursive: true });
    }
  });

  const intruders: [what: string, name: string, make: (path: string) => Promise<unknown>][] = [
    ['an unknown file', 'notes.txt', (path) => writeFile(path, 'notes')],
    ['a node key', 'secret_ed25519', (path) => writeFile(path, 'secret')],
    ['a hidden file', '.000009.sst', (path) => writeFile(path, 'hidden')],
    ['a file whose name ends like a table', 'wallet.sst', (path) => writeFile(path, 'wallet')],
    ['a symbolic link with the name of a table', '000999.sst', (path) => symlink(scene.keyFile, path)],
    ['a dangling symbolic link with the name of a log', '000999.log', (path) => symlink('/nowhere', path)],
    ['a subfolder', 'archive', (path) => mkdir(path)],
    ['a folder with the name of a table', '000998.sst', (path) => mkdir(path)],
  ];
  for (const [what, name, make] of intruders) {
    it(`${what} in the database`, async () => {
      const path = join(scene.source, ROCKSDB, name);
      await make(path);
      try {
        await refused({ code: 'NODE_UNKNOWN_FILE', exit: 2, names: [name, ROCKSDB] });
      } finally {
        await rm(path, { recursive: true });
      }
    });
  }

  it('a database whose version file holds something else', async () => {
    const path = join(scene.source, ROCKSDB, 'db_version');
    const sound = await readFile(path);
    await writeFile(path, 'four');
    try {
      await refused({ code: 'FORMAT_INVALID', exit: 4, names: [path] });
    } finally {
      await writeFile(path, sound);
    }
  });

  it('a genesis hash that is not known, and one that is none', async () => {
    const without = scene
      .snapshotArgs()
      .filter((arg, at, all) => arg !== '--genesis' && all[at - 1] !== '--genesis');
    await refused({ code: 'CONFIG_INVALID', exit: 2, names: ['genesis'] }, without);
    await refused(
      { code: 'CONFIG_INVALID', exit: 2, names: ['genesis'] },
      scene.snapshotArgs('--genesis', '0x12'),
    );
  });

  it('usage errors', async () => {
    const cases: [args: string[], code: string, names: (string | RegExp)[]][] = [
      [scene.snapshotArgs('--bucket', 'x'), 'USAGE', ['--bucket']],
      [['snapshot', '--base-path', scene.source], 'CONFIG_INVALID', ['store']],
      [['snapshot', '--store', scene.store], 'CONFIG_INVALID', ['base-path']],
      [['snapshoot'], 'USAGE', ['snapshoot']],
      [scene.snapshotArgs('--store', 'ftp://x/y'), 'STORE_URL_INVALID', ['ftp']],
      [scene.snapshotArgs('--channel', '../up'), 'CONFIG_INVALID', ['../up']],
      [scene.snapshotArgs('--pause', 'perhaps'), 'CONFIG_INVALID', ['pause']],
      [scene.snapshotArgs('--sign-key', join(scene.dir, 'no-key')), 'KEY_INVALID', ['no-key']],
      [scene.snapshotArgs('--chunk-size', '1000'), 'CONFIG_INVALID', [/chunk/i]],
      [scene.restoreArgs('--existing', 'replace'), 'USAGE', ['--existing replace']],
      [scene.restoreArgs('--existing', 'reuse'), 'USAGE', ['--existing reuse']],
      [scene.restoreArgs('--snapshot', 'oldest'), 'CONFIG_INVALID', ['snapshot']],
      [['restore', '--base-path', scene.target, '--store', scene.store], 'CONFIG_INVALID', ['trusted key']],
      [scene.restoreArgs('--trust', scene.keyFile), 'KEY_INVALID', ['private key']],
    ];
    for (const [args, code, names] of cases) await refused({ code, exit: 2, names }, args);
  });

  it('a text run says the same, with the code and no stack', async () => {
    const outcome = await presync(scene.snapshotArgs('--base-path', join(scene.dir, 'nowhere')));
    assert.equal(outcome.code, 2);
    assert.equal(outcome.stdout, '');
    assert.match(
      outcome.stderr,
      /^presync: .*nowhere.*\nTry: .+\nCode: NODE_LAYOUT_NOT_FOUND \(exit code 2\)\n$/m,
    );
  });

  it('--dry-run writes nothing that stays, and says what would be', async () => {
    const { source, storeDir, stateDir } = scene;
    const list = () =>
      Promise.all([source, storeDir, stateDir].map((dir) => listTree(dir, { ignore: STORE_INTERNALS })));
    const unchanged = await list();
    const outcome = await presyncOk(scene.snapshotArgs('--dry-run'));
    assert.match(outcome.stdout, /would hold 15 files/);
    assert.deepEqual(await list(), unchanged);
  });

  it('a second presync on the same database is LOCKED, and told who holds the lock', async () => {
    const full = join(scene.source, ROCKSDB);
    const lock = await acquireLock({ name: 'snapshot', dir: full, signal: new AbortController().signal });
    try {
      await refused({ code: 'LOCKED', exit: 9, names: [full, `process ${process.pid}`] });
    } finally {
      await lock.release();
    }
  });

  it('two snapshots at once: each is whole, or LOCKED and without a trace', async () => {
    const started = [1, 2].map(() => presync([...scene.snapshotArgs(), '--json']));
    const codes = (await Promise.all(started)).map(({ code }) => code).sort();
    assert.ok(codes[0] === 0 && (codes[1] === 0 || codes[1] === 9), `exit codes ${codes}`);
    const { json } = await presyncOk(['list', '--store', scene.store, '--json']);
    assert.equal(JSON.stringify(json).match(/"sequence":/g)?.length, codes[1] === 0 ? 2 : 1);
    await presyncOk([
      'verify',
      '--store',
      scene.store,
      '--trust',
      scene.trust,
      '--state-dir',
      scene.stateDir,
    ]);
  });
});

describe('a database that a real node has open', () => {
  it(
    'is not read with --pause none, nor restored over, and the node goes on',
    needs('a node', hasNode()),
    async (t) => {
      const scene = await createScene(t);
      await unpackFixture('rocksdb', scene.source);
      await presyncOk(scene.snapshotArgs());
      await mkdir(scene.stateDir, { recursive: true });
      let node: RealNode | undefined = await startNode({
        basePath: scene.source,
        backend: 'rocksdb',
        blockTimeMs: 300,
      });
      t.after(async () => node?.kill());
      const { storeDir, stateDir } = scene;
      const unchanged = [storeDir, stateDir];
      const full = join(scene.source, ROCKSDB);
      await assertRefused({
        args: scene.snapshotArgs(),
        code: 'NODE_PAUSE_FAILED',
        exit: 8,
        names: [full, String(node.pid)],
        unchanged,
        ignore: STORE_INTERNALS,
      });
      for (const existing of [[], ['--existing', 'replace', '--yes'], ['--existing', 'reuse', '--yes']]) {
        await assertRefused({
          args: scene.restoreArgs('--base-path', scene.source, ...existing),
          code: 'TARGET_RUNNING',
          exit: 6,
          names: [full, String(node.pid)],
          unchanged,
          ignore: STORE_INTERNALS,
        });
      }
      // What is refused on the way to a pause leaves the node running.
      await writeFile(join(full, 'intruder'), 'x');
      const pausing = [
        '--pause',
        'signal',
        '--pid',
        String(node.pid),
        '--rpc',
        node.wsUrl,
        '--min-peers',
        '0',
        '--anchor-age',
        '0s',
      ];
      await assertRefused({
        args: scene.snapshotArgs(...pausing),
        code: 'NODE_UNKNOWN_FILE',
        exit: 2,
        names: ['intruder'],
        unchanged,
        ignore: STORE_INTERNALS,
      });
      await rm(join(full, 'intruder'));
      await rename(storeDir, `${storeDir}.away`);
      await writeFile(storeDir, 'a file where the store was');
      await assertRefused({
        args: scene.snapshotArgs(...pausing),
        code: 'STORE_FAILED',
        exit: 7,
        names: [storeDir],
        unchanged: [storeDir, stateDir],
      });
      await rm(storeDir);
      await rename(`${storeDir}.away`, storeDir);
      const wrongChain = `0x${'22'.repeat(32)}`;
      await assertRefused({
        args: scene.snapshotArgs(...pausing, '--genesis', wrongChain),
        code: 'NODE_WRONG_CHAIN',
        exit: 8,
        names: [wrongChain],
        unchanged,
        ignore: STORE_INTERNALS,
      });
      await assertRefused({
        args: scene.snapshotArgs(...pausing, '--max-finality-lag', '0', '--min-peers', '99', '--pid', '1'),
        code: 'NODE_PAUSE_FAILED',
        exit: 8,
        names: ['1'],
        unchanged,
        ignore: STORE_INTERNALS,
      });
      assert.doesNotMatch(await readFile(`/proc/${node.pid}/stat`, 'latin1'), /\) [Tt] /);
      const before = await node.best();
      const deadline = Date.now() + 30_000;
      while ((await node.best()) <= before)
        assert.ok(Date.now() < deadline, 'the node makes no blocks any more');
      await node.stop();
      node = undefined;
    },
  );
});
