/** Targets that must not be restored into, and what `--existing`, `--snapshot` and `--dry-run` mean. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFile,
  chmod,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { acquireLock } from '@presync/runtime/lock';
import { assertRefused, createScene, type Scene, STORE_INTERNALS } from '../support/bad-input.ts';
import { needs } from '../support/needs.ts';
import { presync, presyncOk } from '../support/presync.ts';
import { type FixtureBackend, unpackFixture } from '../support/real-node.ts';
import { digestFiles, listTree } from '../support/tree.ts';

const IS_ROOT = process.getuid?.() === 0;
const NOBODY = 65_534;
const PART = { rocksdb: 'chains/dev/db/full', paritydb: 'chains/dev/paritydb/full' } as const;

/** As the databases do it: RocksDB by a POSIX record lock, ParityDB by flock. */
const HOLDER = `
import fcntl, sys
held = open(sys.argv[2], 'a')
(fcntl.lockf if sys.argv[1] == 'rocksdb' else fcntl.flock)(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
print('held', flush=True)
sys.stdin.read()
`;

function hasPython(): boolean {
  try {
    execFileSync('python3', ['-c', 'import fcntl'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

async function holdLock(
  backend: FixtureBackend,
  path: string,
): Promise<{ pid: number; release(): Promise<void> }> {
  const child = spawn('python3', ['-c', HOLDER, backend, path], { stdio: ['pipe', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  return {
    pid: child.pid ?? 0,
    async release() {
      const gone = once(child, 'exit');
      child.stdin.end();
      await gone;
    },
  };
}

describe('a target', () => {
  const cleanups: (() => Promise<void>)[] = [];
  let scene: Scene;
  const expected: Record<FixtureBackend, Record<string, string>> = { rocksdb: {}, paritydb: {} };
  before(async () => {
    scene = await createScene({ after: (fn) => void cleanups.push(fn) });
    for (const backend of ['rocksdb', 'paritydb'] as const) {
      const source = join(scene.dir, `source-${backend}`);
      await unpackFixture(backend, source);
      await presyncOk(scene.snapshotArgs('--base-path', source, '--prove', 'none'));
      expected[backend] = await digestFiles(
        join(source, PART[backend]),
        (name) => !/^(LOCK|LOG.*|lock|stats\.txt)$/.test(name),
      );
    }
    // A second RocksDB snapshot, with one table more.
    const full = join(scene.dir, 'source-rocksdb', PART.rocksdb);
    await writeFile(join(full, '000777.sst'), Buffer.alloc(100_000, 'new'));
    await presyncOk(scene.snapshotArgs('--base-path', join(scene.dir, 'source-rocksdb'), '--prove', 'none'));
    await rm(join(full, '000777.sst'));
    await rm(scene.stateDir, { recursive: true });
  });
  after(async () => {
    for (const cleanup of cleanups) await cleanup();
  });
  beforeEach(async () => {
    for (const dir of [scene.target, scene.stateDir]) await rm(dir, { recursive: true, force: true });
  });

  const restore = (...more: string[]): string[] => scene.restoreArgs('--channel', 'dev/rocksdb', ...more);

  async function refused(
    code: string,
    exit: number,
    names: (string | RegExp)[],
    args: string[],
    ignore: string[] = [],
  ): Promise<void> {
    const { storeDir, target, stateDir } = scene;
    // A restore holds a lease while it reads.
    const mayChange = [...STORE_INTERNALS, ...ignore];
    const unchanged = [storeDir, target, stateDir];
    await assertRefused({ args, code, exit, names, unchanged, ignore: mayChange });
  }

  for (const backend of ['rocksdb', 'paritydb'] as const) {
    it(`that runs: ${backend} has its lock`, needs('python3', hasPython()), async () => {
      const full = join(scene.target, PART[backend]);
      await mkdir(full, { recursive: true });
      await writeFile(join(full, backend === 'rocksdb' ? 'CURRENT' : 'metadata'), 'a database');
      const holder = await holdLock(backend, join(full, backend === 'rocksdb' ? 'LOCK' : 'lock'));
      try {
        const args = scene.restoreArgs('--channel', `dev/${backend}`);
        for (const more of [
          [],
          ['--existing', 'replace', '--yes'],
          ['--existing', 'reuse', '--yes'],
          ['--dry-run'],
        ])
          await refused('TARGET_RUNNING', 6, [full, `process ${holder.pid}`], [...args, ...more]);
        // One that is to be kept may well be open.
        const kept = await presyncOk([...args, '--existing', 'keep', '--json']);
        assert.match(kept.stdout, /"kept": true/);
        const { target, storeDir, stateDir } = scene;
        await assertRefused({
          args: scene.snapshotArgs('--base-path', target),
          code: 'NODE_PAUSE_FAILED',
          exit: 8,
          names: [full, `process ${holder.pid}`],
          unchanged: [target, storeDir, stateDir],
        });
      } finally {
        await holder.release();
      }
    });
  }

  it('that is not empty', async () => {
    const full = join(scene.target, PART.rocksdb);
    await mkdir(full, { recursive: true });
    await writeFile(join(full, '000001.sst'), 'half a database');
    await refused('TARGET_NOT_EMPTY', 6, [full], restore());
    await writeFile(join(full, 'CURRENT'), 'MANIFEST-000001\n');
    await refused('TARGET_NOT_EMPTY', 6, [full], restore());
  });

  it('beside a stale database of the other backend, which the node would open', async () => {
    const stale = join(scene.target, PART.rocksdb);
    await mkdir(stale, { recursive: true });
    await writeFile(join(stale, 'CURRENT'), 'MANIFEST-000001\n');
    const args = scene.restoreArgs('--channel', 'dev/paritydb');
    await refused('TARGET_BACKEND', 6, [stale, 'rocksdb'], args);
    await refused('TARGET_BACKEND', 6, [stale], [...args, '--existing', 'replace', '--yes']);
    await rm(scene.target, { recursive: true });
    const parity = join(scene.target, PART.paritydb);
    await mkdir(parity, { recursive: true });
    await writeFile(join(parity, 'metadata'), 'version=8\n');
    await refused('TARGET_BACKEND', 6, [parity, 'paritydb'], restore());
  });

  it('whose node uses the other backend', async () => {
    await refused('TARGET_BACKEND', 6, ['dev/rocksdb#2', 'paritydb'], restore('--backend', 'paritydb'));
  });

  it('with a database of an old layout in the folder above, which the node would migrate', async () => {
    for (const stray of ['db_version', 'CURRENT', 'metadata']) {
      const path = join(scene.target, 'chains/dev/db', stray);
      await mkdir(join(scene.target, 'chains/dev/db'), { recursive: true });
      await writeFile(path, '1');
      await refused('TARGET_NOT_EMPTY', 6, [path], restore());
      await rm(path);
    }
  });

  it('that may not be written', async () => {
    await mkdir(scene.target);
    await chmod(scene.target, 0o555);
    await mkdir(scene.stateDir);
    if (IS_ROOT) execFileSync('chown', [`${NOBODY}:${NOBODY}`, scene.stateDir]);
    try {
      for (const base of [scene.target, join(scene.target, 'deeper', 'still')]) {
        await assertRefused({
          args: restore('--base-path', base),
          code: 'TARGET_UNWRITABLE',
          exit: 6,
          names: [scene.target],
          unchanged: [scene.storeDir, scene.target, scene.stateDir],
          ignore: STORE_INTERNALS,
          options: { user: IS_ROOT ? NOBODY : undefined },
        });
      }
    } finally {
      await chmod(scene.target, 0o755);
    }
  });

  it('that is too small', needs('root, to mount a file system', IS_ROOT), async () => {
    await mkdir(scene.target);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', scene.target]);
    try {
      await refused('NO_SPACE', 6, [scene.target, /bytes free/], restore());
      assert.deepEqual(await readdir(scene.target), []);
    } finally {
      execFileSync('umount', [scene.target]);
    }
  });

  it(
    'that gets too small on the way: the restore says so and goes on when there is room',
    needs('root, to mount a file system', IS_ROOT),
    async () => {
      await mkdir(scene.target);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', scene.target]);
      try {
        // Room by the book, and none in fact: the file system gives less than it says, as with a quota.
        execFileSync('mount', ['-o', 'remount,nr_inodes=8', scene.target]);
        const small = restore('--disk-reserve', '0B');
        const outcome = await presync([...small, '--json']);
        assert.equal(outcome.code, 6, outcome.stderr);
        assert.match(outcome.stdout, /"NO_SPACE"/);
        assert.doesNotMatch((await listTree(scene.target)).join('\n'), /(^|\/)CURRENT /m);
        execFileSync('mount', ['-o', 'remount,nr_inodes=1000', scene.target]);
        await presyncOk([...small, '--snapshot', '1']);
        assert.deepEqual(await digestFiles(join(scene.target, PART.rocksdb)), expected.rocksdb);
      } finally {
        execFileSync('umount', [scene.target]);
      }
    },
  );

  it(
    'whose database folder is a mount point: the old database stays',
    needs('root, to mount a file system', IS_ROOT),
    async () => {
      const full = join(scene.target, PART.rocksdb);
      await mkdir(full, { recursive: true });
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', full]);
      try {
        await writeFile(join(full, 'CURRENT'), 'MANIFEST-000001\n');
        await refused(
          'TARGET_UNWRITABLE',
          6,
          [full, 'mount point'],
          restore('--existing', 'replace', '--yes'),
          ['.presync'],
        );
      } finally {
        execFileSync('umount', [full]);
      }
    },
  );

  it('in which another presync is at work is LOCKED', async () => {
    await mkdir(scene.target);
    const lock = await acquireLock({
      name: 'restore',
      dir: scene.target,
      signal: new AbortController().signal,
    });
    try {
      await refused('LOCKED', 9, [scene.target, `process ${process.pid}`], restore());
    } finally {
      await lock.release();
    }
    const outcomes = await Promise.all([presync(restore()), presync(restore())]);
    const codes = outcomes.map(({ code }) => code).sort();
    // The one that comes second finds the lock, or, if it comes late, the database.
    assert.ok(
      codes[0] === 0 && (codes[1] === 9 || codes[1] === 6),
      `exit codes ${codes}: ${outcomes.map(({ stderr }) => stderr)}`,
    );
    const { '000777.sst': _, ...rest } = await digestFiles(join(scene.target, PART.rocksdb));
    assert.deepEqual(rest, expected.rocksdb);
  });

  it('--dry-run changes nothing, and says what would be', async () => {
    const list = () =>
      Promise.all([scene.target, scene.stateDir, scene.storeDir].map((dir) => listTree(dir)));
    const unchanged = await list();
    const outcome = await presyncOk(restore('--dry-run'));
    assert.match(outcome.stdout, /dev\/rocksdb#2 .* would be restored to .*Nothing was done/);
    assert.deepEqual(await list(), unchanged);
    const full = join(scene.target, PART.rocksdb);
    await mkdir(full, { recursive: true });
    await writeFile(join(full, 'CURRENT'), 'old');
    const old = await list();
    await presyncOk(restore('--dry-run', '--existing', 'replace'));
    assert.deepEqual(await list(), old);
  });

  it('--snapshot N restores that one, byte for byte', async () => {
    await presyncOk(restore('--snapshot', '1'));
    assert.deepEqual(await digestFiles(join(scene.target, PART.rocksdb)), expected.rocksdb);
    await presyncOk(restore('--snapshot', '2', '--existing', 'replace', '--yes'));
    assert.equal((await stat(join(scene.target, PART.rocksdb, '000777.sst'))).size, 100_000);
  });

  it('--existing keep leaves a whole database, and refuses half a one', async () => {
    const full = join(scene.target, PART.rocksdb);
    await presyncOk(restore('--snapshot', '1'));
    await appendFile(join(full, 'IDENTITY'), ' changed by a node');
    const kept = await listTree(scene.target);
    const outcome = await presyncOk(restore('--existing', 'keep', '--json'));
    assert.match(outcome.stdout, /"kept": true/);
    assert.deepEqual(await listTree(scene.target), kept);
    await rename(join(full, 'CURRENT'), join(scene.dir, 'CURRENT-away'));
    await refused('TARGET_NOT_EMPTY', 6, [full], restore('--existing', 'keep'));
  });

  it('--existing keep restores where nothing is', async () => {
    await presyncOk(restore('--existing', 'keep', '--snapshot', '1'));
    assert.deepEqual(await digestFiles(join(scene.target, PART.rocksdb)), expected.rocksdb);
  });

  it('--existing reuse fetches only what differs; replace fetches all; both leave identity and keys alone', async () => {
    const full = join(scene.target, PART.rocksdb);
    await presyncOk(restore('--snapshot', '1'));
    for (const folder of ['keystore', 'network']) await mkdir(join(scene.target, 'chains/dev', folder));
    await writeFile(join(scene.target, 'chains/dev/network/secret_ed25519'), 'mine', { mode: 0o600 });
    await writeFile(join(scene.target, 'chains/dev/keystore/aura'), 'mine too', { mode: 0o600 });
    const identity = await Promise.all(
      ['keystore', 'network'].map((folder) => listTree(join(scene.target, 'chains/dev', folder))),
    );
    // What the node changed since, and a file that the snapshot does not have.
    const handle = await open(
      join(full, Object.keys(expected.rocksdb).find((name) => name.endsWith('.sst')) ?? ''),
      'r+',
    );
    await handle.write(Buffer.from('damage'), 0, 6, 100);
    await handle.close();
    await writeFile(join(full, '000900.log'), 'written by the node');

    const reuse = await presyncOk(restore('--snapshot', '1', '--existing', 'reuse', '--yes', '--json'));
    assert.deepEqual(await digestFiles(full), expected.rocksdb);
    const replace = await presyncOk(restore('--snapshot', '1', '--existing', 'replace', '--yes', '--json'));
    assert.deepEqual(await digestFiles(full), expected.rocksdb);
    const fetched = (text: string): number => Number(/"fetchedChunks": (\d+)/.exec(text)?.[1]);
    assert.ok(
      fetched(reuse.stdout) >= 1 && fetched(reuse.stdout) < fetched(replace.stdout),
      `${reuse.stdout}${replace.stdout}`,
    );
    assert.deepEqual(
      await Promise.all(
        ['keystore', 'network'].map((folder) => listTree(join(scene.target, 'chains/dev', folder))),
      ),
      identity,
    );
    assert.deepEqual(await readdir(join(scene.target, 'chains/dev/db')), ['full']);
  });

  it('gets ParityDB with its holes', async () => {
    await presyncOk(scene.restoreArgs('--channel', 'dev/paritydb'));
    const full = join(scene.target, PART.paritydb);
    assert.deepEqual(await digestFiles(full), expected.paritydb);
    const blocks = (await Promise.all((await readdir(full)).map((name) => stat(join(full, name))))).map(
      ({ size, blocks: taken }) => ({ size, taken: taken * 512 }),
    );
    const sum = (of: 'size' | 'taken'): number => blocks.reduce((total, file) => total + file[of], 0);
    assert.ok(sum('taken') < 0.6 * sum('size'), `${sum('taken')} of ${sum('size')} bytes take room`);
  });

  it('and bootstrap keeps a whole database without asking', async () => {
    await presyncOk(restore('--snapshot', '1'));
    const kept = await listTree(scene.target);
    const { target, store, trust, stateDir } = scene;
    const args = [
      'bootstrap',
      '--base-path',
      target,
      '--store',
      store,
      '--channel',
      'dev/rocksdb',
      '--trust',
      trust,
      '--state-dir',
      stateDir,
    ];
    const outcome = await presync([
      ...args,
      '--admin-listen',
      'none',
      '--rpc',
      'ws://127.0.0.1:1',
      '--ready-timeout',
      '1s',
      '--',
      'false',
    ]);
    assert.equal(outcome.code, 8, outcome.stderr);
    assert.match(outcome.stderr, /Code: NODE_START_FAILED|Code: NODE_NOT_READY/);
    assert.deepEqual(await listTree(target, { ignore: STORE_INTERNALS }), kept);
    assert.ok((await readFile(join(target, PART.rocksdb, 'CURRENT'), 'utf8')).startsWith('MANIFEST-'));
  });
});
