import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import { needs } from '../../../test/support/needs.ts';
import type { DatabaseLayout } from '../src/layout.ts';
import { type FrozenView, prepareView, removeStaleViews } from '../src/view.ts';
import { digests, finishedSst, makeDatabase } from './support/database.ts';
import {
  type FileSystemName,
  hasFileSystem,
  makeFileSystem,
  type TestFileSystem,
} from './support/filesystems.ts';

const { signal } = new AbortController();
const MIB = 1 << 20;
const python = spawnSync('python3', ['--version']).status === 0;

/** Sets a file's mtime some seconds back, so that the first pass finds it settled. */
function settle(dir: string): void {
  const past = Date.now() / 1000 - 60;
  for (const name of readdirSync(dir)) utimesSync(join(dir, name), past, past);
}

/** The view holds exactly what is live now, file by file. */
function assertFaithful(view: FrozenView, layout: DatabaseLayout, skipped: string[]): void {
  const names = readdirSync(layout.dir).filter((name) => !skipped.includes(name));
  assert.deepEqual(digests(view.dir), digests(layout.dir, names));
  assert.deepEqual(view.files.map((file) => file.name).sort(), names.sort());
  for (const file of view.files) {
    assert.equal(statSync(file.viewPath).size, file.size, file.name);
    assert.equal(statSync(file.viewPath).ino === statSync(file.path).ino, file.method === 'link', file.name);
  }
}

function rocksdb(base: string): Promise<DatabaseLayout> {
  return makeDatabase(base, 'rocksdb', {
    ...{ CURRENT: 'MANIFEST-000005\n', IDENTITY: 'id', LOCK: '', LOG: 'text', db_version: '4' },
    ...{
      'MANIFEST-000005': Buffer.alloc(3000, 1),
      'OPTIONS-000007': 'options',
      '000010.log': Buffer.alloc(3 * MIB, 2),
    },
    ...{
      '000008.sst': finishedSst(2 * MIB, 3),
      '000009.sst': finishedSst(70_000, 4),
      '000011.sst': finishedSst(5000, 5),
    },
  });
}

function paritydb(base: string): Promise<DatabaseLayout> {
  const sparse = Buffer.alloc(9 * MIB);
  sparse.fill(7, 5 * MIB, 5 * MIB + 4096);
  return makeDatabase(base, 'paritydb', {
    ...{ metadata: 'version=8\nsalt=00\n', lock: '', 'stats.txt': '', log3: Buffer.alloc(5000, 1), log4: '' },
    ...{
      index_00_16: sparse,
      table_01_1a: Buffer.alloc(2 * MIB + 17, 9),
      table_01_ff: Buffer.alloc(256 << 10, 8),
    },
  });
}

const PLACES: FileSystemName[] = ['ext4', 'xfs', 'btrfs', 'tmpfs'];

for (const place of PLACES) {
  describe(place, needs(`root and mkfs.${place}`, hasFileSystem(place)), () => {
    const reflinks = place === 'xfs' || place === 'btrfs';
    let files: TestFileSystem | undefined;
    let base = '';
    let count = 0;
    before(() => {
      files = makeFileSystem(place);
    });
    after(() => files?.remove());
    beforeEach(() => {
      base = join(files?.dir ?? '', `base-${count++}`);
      mkdirSync(base);
    });
    afterEach(() => rmSync(base, { recursive: true, force: true }));

    test('rocksdb: what changed between preparing and freezing is in the view, what was deleted is not', async () => {
      const layout = await rocksdb(base);
      const at = (name: string) => join(layout.dir, name);
      const prepared = await prepareView({ layout, signal });
      unlinkSync(at('000009.sst'));
      writeFileSync(at('000012.sst'), finishedSst(9000, 6));
      // Another file under a number that was in use.
      writeFileSync(at('new'), finishedSst(5000, 66));
      renameSync(at('new'), at('000011.sst'));
      appendFileSync(at('000010.log'), 'more');
      writeFileSync(at('000013.log'), Buffer.alloc(MIB, 1));
      unlinkSync(at('OPTIONS-000007'));
      const view = await prepared.freeze({ signal });
      assertFaithful(view, layout, ['LOCK', 'LOG']);
      assert.deepEqual(view.methods, { link: 3, reflink: reflinks ? 6 : 0, copy: reflinks ? 0 : 6 });
      if (reflinks) assert.equal(view.bytesCopiedInPause, 0);
      const frozen = digests(view.dir);
      appendFileSync(at('000010.log'), 'later');
      unlinkSync(at('000008.sst'));
      assert.deepEqual(digests(view.dir), frozen);
      await view.release();
      await view.release();
      assert.ok(!existsSync(view.dir));
      assert.ok(existsSync(at('000012.sst')));
    });

    test('rocksdb: an SST that is still being written is not hard-linked', async () => {
      const layout = await rocksdb(base);
      const at = (name: string) => join(layout.dir, name);
      writeFileSync(at('000020.sst'), Buffer.alloc(200_000, 1));
      const prepared = await prepareView({ layout, signal });
      writeFileSync(at('000021.sst'), Buffer.alloc(300_000, 2));
      const view = await prepared.freeze({ signal });
      assertFaithful(view, layout, ['LOCK', 'LOG']);
      const frozen = digests(view.dir);
      for (const name of ['000020.sst', '000021.sst']) appendFileSync(at(name), finishedSst(1000, 1));
      assert.deepEqual(digests(view.dir), frozen);
      await view.release();
    });

    test('paritydb: no file is hard-linked, changes are found, holes stay holes', async () => {
      const layout = await paritydb(base);
      const at = (name: string) => join(layout.dir, name);
      settle(layout.dir);
      const prepared = await prepareView({ layout, signal });
      assert.equal(prepared.estimate.method, reflinks ? 'reflink' : 'copy');
      const table = readFileSync(at('table_01_1a'));
      table[MIB + 5] = 1;
      writeFileSync(at('table_01_1a'), table, { flag: 'r+' });
      appendFileSync(at('table_01_ff'), Buffer.alloc(256 << 10, 3));
      truncateSync(at('log3'), 100);
      unlinkSync(at('log4'));
      writeFileSync(at('log5'), 'new');
      const view = await prepared.freeze({ signal });
      assertFaithful(view, layout, ['lock', 'stats.txt']);
      assert.equal(view.methods.link, 0);
      if (!reflinks) {
        // One block of the table, the added part of the other, two logs; the index is not even read where mtime is trusted.
        assert.ok(view.bytesCopiedInPause <= 3 * MIB, String(view.bytesCopiedInPause));
        assert.ok(place === 'tmpfs' || view.bytesReadInPause < 4 * MIB, String(view.bytesReadInPause));
      }
      const index = lstatSync(join(view.dir, 'index_00_16'));
      assert.ok(index.blocks * 512 < MIB || reflinks, `${index.blocks * 512} bytes on disk`);
      const frozen = digests(view.dir);
      table.fill(5);
      writeFileSync(at('table_01_1a'), table, { flag: 'r+' });
      assert.deepEqual(digests(view.dir), frozen);
      await view.release();
    });

    test(
      'paritydb: writes through a mapping are found, before and after the first pass',
      needs('python3', python),
      async () => {
        const layout = await paritydb(base);
        const path = join(layout.dir, 'table_01_1a');
        const writer = spawn('python3', [join(import.meta.dirname, 'support/mmap-writer.py'), path], {
          stdio: ['pipe', 'pipe', 'inherit'],
        });
        const answers = createInterface(writer.stdout)[Symbol.asyncIterator]();
        const poke = async (offset: number, value: number) => {
          writer.stdin.write(`${offset} ${value}\n`);
          assert.equal((await answers.next()).value, 'done');
        };
        try {
          assert.equal((await answers.next()).value, 'ready');
          // The page is dirty and writable from here on: without the first pass's fsync, the next write to it would not
          // move mtime, which is set back to hide this one.
          await poke(MIB + 100, 41);
          settle(layout.dir);
          const prepared = await prepareView({ layout, signal });
          const before = statSync(path, { bigint: true }).mtimeNs;
          await poke(MIB + 200, 42);
          if (place === 'ext4')
            assert.notEqual(statSync(path, { bigint: true }).mtimeNs, before, 'mtime moved with the write');
          const view = await prepared.freeze({ signal });
          assertFaithful(view, layout, ['lock', 'stats.txt']);
          assert.equal(readFileSync(join(view.dir, 'table_01_1a'))[MIB + 200], 42);
          await view.release();
        } finally {
          writer.kill('SIGKILL');
        }
      },
    );

    test('an equal mtime proves nothing when it is fresh', async () => {
      const layout = await paritydb(base);
      const path = join(layout.dir, 'table_01_ff');
      // Whole seconds, so that it can be set again exactly; ahead, so that a slow machine does not let it settle.
      const fresh = Math.floor(Date.now() / 1000) + 30;
      utimesSync(path, fresh, fresh);
      const prepared = await prepareView({ layout, signal });
      const content = readFileSync(path);
      content[70_000] = 1;
      writeFileSync(path, content, { flag: 'r+' });
      utimesSync(path, fresh, fresh);
      const view = await prepared.freeze({ signal });
      assertFaithful(view, layout, ['lock', 'stats.txt']);
      await view.release();
    });
  });
}

describe('any file system', () => {
  let base = '';
  beforeEach(() => {
    base = mkdtempSync(join(tmpdir(), 'presync-view-'));
  });
  afterEach(() => rmSync(base, { recursive: true, force: true }));

  test(
    'another file system gets copies, which are brought up to date too',
    needs('root', hasFileSystem('tmpfs')),
    async () => {
      const other = makeFileSystem('tmpfs');
      try {
        const layout = await rocksdb(base);
        const prepared = await prepareView({ layout, viewDir: join(other.dir, 'views'), signal });
        writeFileSync(join(layout.dir, '000012.sst'), finishedSst(9000, 6));
        unlinkSync(join(layout.dir, '000009.sst'));
        const view = await prepared.freeze({ signal });
        assertFaithful(view, layout, ['LOCK', 'LOG']);
        assert.deepEqual(view.methods, { link: 0, reflink: 0, copy: 9 });
        await view.release();
      } finally {
        other.remove();
      }
    },
  );

  test('the view is private, beside the database, and gone after discard', async () => {
    const layout = await rocksdb(base);
    const prepared = await prepareView({ layout, signal });
    assert.ok(prepared.dir.startsWith(join(base, 'chains/dev/db/.presync/view-')));
    assert.equal(statSync(prepared.dir).mode & 0o777, 0o700);
    assert.equal(statSync(join(prepared.dir, '..')).mode & 0o777, 0o700);
    await prepared.discard();
    await prepared.discard();
    assert.equal(existsSync(join(base, 'chains/dev/db/.presync')), false);
    await assert.rejects(prepared.freeze({ signal }), (error) => isPresyncError(error, 'INTERNAL'));
  });

  for (const [what, spoil] of [
    ['a key', (dir: string) => writeFileSync(join(dir, 'secret_ed25519'), 'k')],
    ['a certificate', (dir: string) => writeFileSync(join(dir, 'node.pem'), 'k')],
    [
      'a link with a database file’s name',
      (dir: string) => symlinkSync('/etc/passwd', join(dir, '000099.sst')),
    ],
  ] as const) {
    test(`${what} in the database stops the preparation, and the freezing, and leaves nothing`, async () => {
      const layout = await rocksdb(base);
      const prepared = await prepareView({ layout, signal });
      spoil(layout.dir);
      await assert.rejects(prepared.freeze({ signal }), (error) =>
        isPresyncError(error, 'NODE_UNKNOWN_FILE'),
      );
      await prepared.discard();
      await assert.rejects(prepareView({ layout, signal }), (error) =>
        isPresyncError(error, 'NODE_UNKNOWN_FILE'),
      );
      assert.equal(existsSync(join(base, 'chains/dev/db/.presync')), false);
    });
  }

  test('freezing stops when the pause budget is over', async () => {
    const layout = await paritydb(base);
    const prepared = await prepareView({ layout, signal });
    await assert.rejects(prepared.freeze({ signal: AbortSignal.abort() }), (error) =>
      isPresyncError(error, 'ABORTED'),
    );
    await prepared.discard();
    await assert.rejects(prepareView({ layout, signal: AbortSignal.abort() }), (error) =>
      isPresyncError(error, 'ABORTED'),
    );
  });

  test('views of dead owners are removed, with the live files untouched; others stay', async () => {
    const layout = await rocksdb(base);
    const parent = join(base, 'chains/dev/db/.presync');
    const living = await prepareView({ layout, signal });
    const stale = join(parent, 'view-4000000-1-0123456789abcdef');
    mkdirSync(stale);
    linkSync(join(layout.dir, '000008.sst'), join(stale, '000008.sst'));
    mkdirSync(join(parent, 'mine'));
    symlinkSync(layout.dir, join(parent, 'view-4000000-2-0123456789abcdef'));
    assert.deepEqual(await removeStaleViews(layout, { signal }), [stale]);
    assert.ok(existsSync(join(layout.dir, '000008.sst')));
    assert.deepEqual(
      readdirSync(parent).sort(),
      ['mine', 'view-4000000-2-0123456789abcdef', living.dir.slice(parent.length + 1)].sort(),
    );
    await living.discard();
  });

  test('views of one database that come and go at the same time do not take each other’s folders away', async () => {
    const layout = await rocksdb(base);
    const lasting = await prepareView({ layout, signal });
    const kept = await lasting.freeze({ signal });
    const comeAndGo = async (): Promise<void> => {
      for (let n = 0; n < 40; n++) {
        await removeStaleViews(layout, { signal });
        const view = await (await prepareView({ layout, signal })).freeze({ signal });
        assertFaithful(view, layout, ['LOCK', 'LOG']);
        await view.release();
      }
    };
    await Promise.all([comeAndGo(), comeAndGo()]);
    assertFaithful(kept, layout, ['LOCK', 'LOG']);
    await kept.release();
    // Without one that stays, the folder that holds them goes with every last view.
    await Promise.all([comeAndGo(), comeAndGo(), comeAndGo()]);
    assert.equal(existsSync(join(base, 'chains/dev/db/.presync')), false);
  });

  test('two that sweep at the same time both get through', async () => {
    const layout = await rocksdb(base);
    const parent = join(base, 'chains/dev/db/.presync');
    for (let n = 0; n < 30; n++) {
      for (let view = 0; view < 5; view++) {
        const stale = join(parent, `view-4000000-${n}-${String(view).padStart(16, '0')}`);
        mkdirSync(stale, { recursive: true });
        linkSync(join(layout.dir, '000008.sst'), join(stale, '000008.sst'));
      }
      await Promise.all([removeStaleViews(layout, { signal }), removeStaleViews(layout, { signal })]);
      assert.equal(existsSync(parent), false);
    }
  });
});
