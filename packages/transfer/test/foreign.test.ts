import assert from 'node:assert/strict';
import { cp, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import { createFileStore } from '@presync/store/file';
import { type ForeignStage, type ForeignStageOptions, openForeignStage } from '../src/foreign.ts';
import { partPaths } from '../src/lib/stage.ts';
import { interruptedRestore, restoreSnapshot } from '../src/restore.ts';
import {
  createWorld,
  NEVER,
  newestSnapshot,
  PART,
  readTree,
  sampleTree,
  scratch,
  type Tree,
  writeTree,
} from './support.ts';

const DIGEST = 'ab'.repeat(32);

async function* pieces(bytes: Buffer, size = 1000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

function open(basePath: string, options: Partial<ForeignStageOptions> = {}): Promise<ForeignStage> {
  return openForeignStage({
    basePath,
    part: PART,
    existing: 'refuse',
    identity: 'an archive',
    signal: NEVER,
    ...options,
  });
}

const classOf = (name: string): 'seal' | 'mutable' => (name === 'CURRENT' ? 'seal' : 'mutable');

async function writeAll(stage: ForeignStage, tree: Tree): Promise<void> {
  for (const [name, bytes] of Object.entries(tree))
    await stage.write(
      { name, class: classOf(name) },
      { size: bytes.length, mtimeMs: 1e12, bytes: pieces(bytes) },
    );
}

async function assertDone(basePath: string, tree: Tree): Promise<void> {
  const target = join(basePath, PART);
  assert.deepEqual(await readTree(target), Object.fromEntries(Object.entries(tree).sort()));
  assert.deepEqual(await readdir(dirname(target)), ['full']);
  assert.equal(await interruptedRestore(basePath, PART), undefined);
}

describe('a database that comes from no repository', () => {
  it('is put together beside its place, and moved there when it is sealed', async (t) => {
    const basePath = join(await scratch(t), 'base');
    const tree = sampleTree();
    const stage = await open(basePath);
    await writeAll(stage, tree);
    assert.equal(await stage.read('CURRENT'), 'MANIFEST-000001\n');
    const paths = partPaths(basePath, PART);
    assert.ok(!(await readdir(paths.stage)).includes('CURRENT'), 'the seal has its name too early');
    await assert.rejects(stat(paths.target));
    await stage.seal(DIGEST);
    await assert.rejects(stat(paths.target));
    await stage.finish();
    await assertDone(basePath, tree);
    const { mtimeMs, mode } = await stat(join(paths.target, '000001.sst'));
    assert.deepEqual([mtimeMs, mode & 0o777], [1e12, 0o644]);
    assert.equal(stage.names.size, Object.keys(tree).length);
    assert.equal(
      stage.bytes,
      Object.values(tree).reduce((sum, { length }) => sum + length, 0),
    );
  });

  it('keeps holes, whatever the pieces', async (t) => {
    const dir = await scratch(t);
    const bytes = Buffer.alloc(4 << 20);
    bytes.write('data', 1 << 20);
    bytes.write('more', (3 << 20) + 5000);
    for (const size of [777, 4096, 65_536, 100_003, bytes.length]) {
      const basePath = join(dir, `${size}`);
      const stage = await open(basePath);
      await stage.write({ name: 'table', class: 'mutable' }, { size: undefined, bytes: pieces(bytes, size) });
      await stage.seal(undefined);
      await stage.finish();
      const path = join(basePath, PART, 'table');
      assert.ok((await readFile(path)).equals(bytes));
      // Two blocks with data.
      assert.ok((await stat(path)).blocks * 512 <= 2 * 4096, `pieces of ${size}`);
    }
  });

  it('leaves nothing when it is given up', async (t) => {
    const dir = await scratch(t);
    const stage = await open(join(dir, 'a/b'));
    await writeAll(stage, sampleTree());
    await stage.abandon({ keepFiles: true });
    assert.deepEqual(await readdir(dir), ['a'].slice(1));
  });

  it('refuses a name that comes twice, and one that is a path', async (t) => {
    const stage = await open(join(await scratch(t), 'base'));
    const write = (name: string): Promise<void> =>
      stage.write({ name, class: 'mutable' }, { size: 1, bytes: pieces(Buffer.from('x')) });
    await write('a');
    await assert.rejects(write('a'), (error) => isPresyncError(error, 'PATH_UNSAFE'));
    for (const name of ['../a', 'a/b', '', '.', '..', '.hidden'])
      await assert.rejects(write(name), (error) => isPresyncError(error, 'INTERNAL'), name);
    await stage.abandon({ keepFiles: false });
  });

  it('refuses what does not fit on the disk', async (t) => {
    const stage = await open(join(await scratch(t), 'base'));
    await assert.rejects(
      stage.write({ name: 'a', class: 'mutable' }, { size: 2 ** 50, bytes: pieces(Buffer.from('x')) }),
      (error) => isPresyncError(error, 'NO_SPACE'),
    );
  });

  it('replaces a database only when that was said, and only at the end', async (t) => {
    const basePath = join(await scratch(t), 'base');
    const old: Tree = { CURRENT: Buffer.from('old') };
    await writeTree(join(basePath, PART), old);
    await assert.rejects(open(basePath), (error) => isPresyncError(error, 'TARGET_NOT_EMPTY'));
    const stage = await open(basePath, { existing: 'replace' });
    const tree = sampleTree();
    await writeAll(stage, tree);
    await stage.seal(DIGEST);
    assert.deepEqual(await readTree(join(basePath, PART)), old);
    await stage.finish();
    await assertDone(basePath, tree);
  });
});

describe('one that was killed', () => {
  /** All of it in the stage, as it is after `seal`. */
  async function sealed(basePath: string, options: Partial<ForeignStageOptions> = {}): Promise<Tree> {
    const tree = sampleTree();
    const stage = await open(basePath, options);
    await writeAll(stage, tree);
    await stage.seal(DIGEST);
    return tree;
  }

  it('when it was sealed only has to be moved, for the same archive', async (t) => {
    const dir = await scratch(t);
    for (const step of ['sealed', 'old moved aside', 'new in place']) {
      const basePath = join(dir, step);
      const paths = partPaths(basePath, PART);
      const tree = await sealed(basePath);
      const old: Tree = { CURRENT: Buffer.from('old') };
      if (step === 'sealed') await writeTree(paths.target, old);
      else await writeTree(paths.replaced, old);
      if (step === 'new in place') await rename(paths.stage, paths.target);
      const again = await open(basePath, { existing: 'replace', sha256: DIGEST });
      assert.ok(again.isSealed, step);
      await again.finish();
      await assertDone(basePath, tree);
    }
  });

  it('when it was sealed begins anew for another archive, another digest, or when what was sealed is gone', async (t) => {
    const dir = await scratch(t);
    for (const [what, options, before] of [
      ['archive', { identity: 'another' }, undefined],
      ['digest', { sha256: 'cd'.repeat(32) }, undefined],
      ['nothing known', { identity: undefined }, undefined],
      ['gone', {}, 'gone'],
    ] as const) {
      const basePath = join(dir, what);
      const paths = partPaths(basePath, PART);
      await sealed(basePath);
      await writeTree(paths.replaced, { CURRENT: Buffer.from('old') });
      if (before === 'gone') {
        await rm(paths.stage, { recursive: true });
        await rm(paths.replaced, { recursive: true });
      }
      const again = await open(basePath, { existing: 'replace', ...options });
      assert.equal(again.isSealed, false, what);
      // The old database is back, and the stage holds nothing of the other archive.
      if (before !== 'gone') assert.deepEqual(await readdir(paths.target), ['CURRENT']);
      assert.deepEqual(await readdir(paths.stage), []);
      const tree: Tree = { CURRENT: Buffer.from('MANIFEST-000009\n') };
      await writeAll(again, tree);
      await again.seal(undefined);
      await again.finish();
      await assertDone(basePath, tree);
    }
  });

  it('may keep files that are complete, and no others', async (t) => {
    const dir = await scratch(t);
    const tree = sampleTree();
    const files = Object.keys(tree).map((name) => ({ name, class: classOf(name) }));
    for (const keep of [true, false]) {
      const basePath = join(dir, `${keep}`);
      const paths = partPaths(basePath, PART);
      const first = await open(basePath, { keep });
      const { '000004.sst': sparse, ...rest } = tree;
      assert.ok(sparse !== undefined);
      await writeAll(first, rest);
      await first.read('CURRENT');
      // A kill in the middle of the last one.
      await writeFile(join(paths.stage, '000004.sst.presync-part'), sparse);
      const asked: string[] = [];
      const again = await open(basePath, { keep });
      const { kept } = await again.writeAll(files, {
        concurrency: 3,
        // The source has another size for one of them now.
        sizeOf: async ({ name }) => (name === 'IDENTITY' ? 1 : tree[name]?.length),
        get: async (file, put) => {
          asked.push(file.name);
          await put({ size: undefined, bytes: pieces(tree[file.name] ?? Buffer.alloc(0)) });
        },
      });
      await again.seal(undefined);
      await again.finish();
      await assertDone(basePath, tree);
      assert.equal(kept, keep ? files.length - 2 : 0);
      assert.deepEqual(asked.sort(), keep ? ['000004.sst', 'IDENTITY'] : Object.keys(tree).sort());
    }
  });

  it('and restores from a repository take over from each other', async (t) => {
    const dir = await scratch(t);
    const world = await createWorld(dir, createFileStore({ dir: join(dir, 'store') }));
    await writeTree(world.source, sampleTree());
    await world.snapshot();
    const snapshot = await newestSnapshot(world);
    const restore = (basePath: string) =>
      restoreSnapshot({
        repository: world.repository,
        snapshot,
        basePath,
        assertFile: () => {},
        signal: NEVER,
      });

    // An archive's stage, sealed or not, is nothing that a snapshot takes for its own.
    for (const seal of [true, false]) {
      const basePath = join(dir, `archive-${seal}`);
      if (seal) await sealed(basePath);
      else {
        const stage = await open(basePath);
        await writeAll(stage, sampleTree());
        // What is written beside the transfer has come to its end.
        await stage.read('CURRENT');
      }
      const result = await restore(basePath);
      assert.equal(result.wasSealed, false);
      await assertDone(basePath, await readTree(world.source));
    }

    // And the other way round.
    const basePath = join(dir, 'snapshot');
    const stop = new AbortController();
    await assert.rejects(
      restoreSnapshot({
        repository: world.repository,
        snapshot,
        basePath,
        assertFile: () => {},
        concurrency: 1,
        onProgress: () => stop.abort(new PresyncError('ABORTED', 'enough')),
        signal: stop.signal,
      }),
    );
    assert.equal((await interruptedRestore(basePath, PART))?.sequence, 1);
    const stage = await open(basePath, { keep: true });
    const tree: Tree = { CURRENT: Buffer.from('MANIFEST-000009\n') };
    await writeAll(stage, tree);
    await stage.seal(undefined);
    await stage.finish();
    await assertDone(basePath, tree);
  });

  it('over an old database leaves that one whole until the new one is', async (t) => {
    const basePath = join(await scratch(t), 'base');
    const target = join(basePath, PART);
    const old: Tree = { CURRENT: Buffer.from('old'), '000001.sst': Buffer.alloc(5000, 'old') };
    await writeTree(target, old);
    const copy = join(basePath, 'copy');
    await cp(target, copy, { recursive: true });
    await mkdir(copy, { recursive: true });
    const stage = await open(basePath, { existing: 'replace' });
    const broken = async function* (): AsyncGenerator<Uint8Array> {
      yield Buffer.from('half');
      throw new PresyncError('STORE_UNREACHABLE', 'gone');
    };
    await assert.rejects(
      stage.write({ name: '000001.sst', class: 'mutable' }, { size: 100, bytes: broken() }),
      (error) => isPresyncError(error, 'STORE_UNREACHABLE'),
    );
    await stage.abandon({ keepFiles: false });
    assert.deepEqual(await readTree(target), await readTree(copy));
    assert.deepEqual(await readdir(dirname(target)), ['full']);
  });
});
