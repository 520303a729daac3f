/** A database that is there already: it stays whole until the new one is, whatever happens, unless room forces it to go and that was allowed. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { cpSync, existsSync, promises as fs, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import { createFileStore } from '@presync/store/file';
import { needs } from '../../../test/support/needs.ts';
import { interruptedRestore, type RestoreResult, restoreSnapshot } from '../src/restore.ts';
import {
  assertRestoresNewest,
  createWorld,
  NEVER,
  newestSnapshot,
  PART,
  readTree,
  scratch,
  type Tree,
  type World,
  writeTree,
} from './support.ts';

interface Scene {
  world: World;
  dir: string;
  base: string;
  old: Tree;
  fresh: Tree;
  restore: (base: string, existing: 'reuse' | 'replace', more?: Restore) => Promise<RestoreResult>;
}

type Restore = Partial<Parameters<typeof restoreSnapshot>[0]>;

/** A base path with the first of two snapshots, and the second to be restored over it. */
async function createScene(t: TestContext): Promise<Scene> {
  const dir = await scratch(t);
  const world = await createWorld(dir, createFileStore({ dir: join(dir, 'store') }));
  const kept = randomBytes(200_000);
  const seals = { CURRENT: Buffer.from('MANIFEST-000001\n'), '000005.log': randomBytes(1000) };
  const old = { ...seals, '000001.sst': kept, '000002.sst': randomBytes(150_000) };
  await writeTree(world.source, old);
  await world.snapshot();
  const base = join(dir, 'target');
  await assertRestoresNewest(world, base);
  await fs.rm(world.source, { recursive: true });
  const fresh = {
    ...seals,
    '000001.sst': kept,
    '000003.sst': randomBytes(150_000),
    IDENTITY: Buffer.from('b'),
  };
  await writeTree(world.source, fresh);
  await world.snapshot();
  return {
    world,
    dir,
    base,
    old,
    fresh,
    restore: async (target, existing, more = {}) =>
      restoreSnapshot({
        repository: world.repository,
        snapshot: await newestSnapshot(world),
        basePath: target,
        existing,
        concurrency: 2,
        assertFile: () => {},
        signal: NEVER,
        ...more,
      }),
  };
}

/** Everything of node:fs/promises that a restore changes the disk with. */
const CHANGES = ['chmod', 'copyFile', 'mkdir', 'open', 'rename', 'rm', 'rmdir', 'writeFile'] as const;

/** Calls `before` ahead of each change of the disk, while `work` runs: what lies there then is what a kill would leave. */
async function atEachStep(before: (what: string) => void, work: () => Promise<unknown>): Promise<void> {
  const real = Object.fromEntries(CHANGES.map((name) => [name, fs[name]]));
  try {
    for (const name of CHANGES) {
      const call = fs[name] as (...args: unknown[]) => Promise<unknown>;
      Object.assign(fs, {
        [name]: (...args: unknown[]) => {
          before(`${name} ${String(args[0])}`);
          if (name === 'rm') emptyStepwise(String(args[0]), before);
          return call(...args);
        },
      });
    }
    syncBuiltinESMExports();
    await work();
  } finally {
    Object.assign(fs, real);
    syncBuiltinESMExports();
  }
}

/** A folder goes file by file, and a kill may come between any two. */
function emptyStepwise(path: string, before: (what: string) => void): void {
  if (!existsSync(path) || !statSync(path).isDirectory()) return;
  for (const entry of readdirSync(path)) {
    before(`the removal of ${entry} from ${path}`);
    rmSync(join(path, entry), { recursive: true });
  }
}

/** Lets the disk look as if it had so many bytes free. */
async function withFree(bytes: number, work: () => Promise<unknown>): Promise<void> {
  const real = fs.statfs;
  Object.assign(fs, {
    statfs: async (path: string) => ({ ...(await real(path)), bavail: Math.floor(bytes / 512), bsize: 512 }),
  });
  syncBuiltinESMExports();
  try {
    await work();
  } finally {
    Object.assign(fs, { statfs: real });
    syncBuiltinESMExports();
  }
}

function treeOf(dir: string): Tree | undefined {
  if (!existsSync(dir)) return undefined;
  return Object.fromEntries(readdirSync(dir).map((name) => [name, readFileSync(join(dir, name))]));
}

const isTree = (found: Tree | undefined, expected: Tree): boolean =>
  found !== undefined &&
  Object.keys(found).length === Object.keys(expected).length &&
  Object.entries(expected).every(([name, bytes]) => found[name]?.equals(bytes));

/** What a node, and a further restore, find in a base path. */
function stateOf(base: string, { old, fresh }: Scene): 'old' | 'new' | 'between' | 'none' | 'wrong' {
  const target = treeOf(join(base, PART));
  if (isTree(target, old)) return 'old';
  if (isTree(target, fresh)) return 'new';
  if (target !== undefined) return 'wrong';
  const work = join(base, PART, '../.presync');
  const both =
    isTree(treeOf(join(work, 'replaced-full')), old) && isTree(treeOf(join(work, 'restore-full')), fresh);
  return both ? 'between' : 'none';
}

describe('a restore over an older database', () => {
  for (const existing of ['reuse', 'replace'] as const) {
    it(`leaves one of the two whole at each of its steps, and ends well from each (${existing})`, async (t) => {
      const scene = await createScene(t);
      const { base, dir } = scene;
      const copies: { copy: string; what: string }[] = [];
      await atEachStep(
        (what) => {
          const copy = join(dir, `step-${copies.length}`);
          cpSync(base, copy, { recursive: true });
          copies.push({ copy, what });
        },
        () => scene.restore(base, existing),
      );
      assert.equal(stateOf(base, scene), 'new');
      const states = copies.map(({ copy, what }) => ({ state: stateOf(copy, scene), what }));
      for (const { state, what } of states)
        assert.ok(state === 'old' || state === 'new' || state === 'between', `${state} before ${what}`);
      // It was seen in all three, and never went back.
      const order = states.map(({ state }) => state).filter((state, at, all) => state !== all[at - 1]);
      assert.deepEqual(order, ['old', 'between', 'new']);
      assert.ok(copies.length > 30, `${copies.length} steps`);
      // Each restore takes its time; the steps of both ways are the same.
      for (const { copy, what } of copies.filter((_, index) => existing === 'reuse' || index % 4 === 0)) {
        await scene.restore(copy, existing);
        assert.equal(stateOf(copy, scene), 'new', `a restore after a kill before ${what}`);
        assert.equal(await interruptedRestore(copy, PART), undefined);
        assert.deepEqual(readdirSync(join(copy, PART, '..')), ['full']);
      }
    });
  }

  it('fetches only what is not there', async (t) => {
    const scene = await createScene(t);
    const { fetchedBytes, reusedChunks } = await scene.restore(scene.base, 'reuse');
    const { added } = (await newestSnapshot(scene.world)).manifest.totals;
    assert.ok(reusedChunks > 0);
    assert.ok(fetchedBytes <= 1.05 * added, `${fetchedBytes} bytes were fetched, and ${added} are new`);
  });
});

describe('a disk that has no room for both databases', () => {
  // The new database has 351,017 bytes, and the old one some more.
  const FREE = 100_000;

  it('is refused before anything is changed, with what would help', async (t) => {
    const scene = await createScene(t);
    await withFree(FREE, async () => {
      await assert.rejects(scene.restore(scene.base, 'replace'), (error) => {
        assert.ok(isPresyncError(error, 'NO_SPACE'));
        assert.match(error.hint ?? '', /--free-room/);
        return true;
      });
      assert.equal(stateOf(scene.base, scene), 'old');
    });
    await withFree(0, async () => {
      // Not even the old database would make room enough.
      await fs.rm(join(scene.base, PART, '000002.sst'));
      const before = await readTree(join(scene.base, PART));
      await assert.rejects(scene.restore(scene.base, 'replace', { freeRoom: true }), (error) => {
        assert.ok(isPresyncError(error, 'NO_SPACE'));
        assert.doesNotMatch(error.hint ?? '', /--free-room/);
        return true;
      });
      assert.deepEqual(await readTree(join(scene.base, PART)), before);
    });
  });

  it('keeps the old one where there is room, although it may go', async (t) => {
    const scene = await createScene(t);
    const events: string[] = [];
    const onEvent = (event: string): void => void events.push(event);
    const { removedOld, reusedChunks } = await scene.restore(scene.base, 'reuse', {
      freeRoom: true,
      onEvent,
    });
    assert.deepEqual([removedOld, reusedChunks > 0, events], [false, true, []]);
  });

  it('loses the old one first where that is allowed, loudly, and never shows half of it', async (t) => {
    const scene = await createScene(t);
    const { base, dir, old } = scene;
    const copies: string[] = [];
    const events: string[] = [];
    const onEvent = (event: string): void => void events.push(event);
    await withFree(FREE, () =>
      atEachStep(
        () => {
          const copy = join(dir, `step-${copies.length}`);
          cpSync(base, copy, { recursive: true });
          copies.push(copy);
        },
        async () => {
          const { removedOld } = await scene.restore(base, 'replace', { freeRoom: true, onEvent });
          assert.equal(removedOld, true);
        },
      ),
    );
    assert.deepEqual(events, ['restore.old_removed']);
    const order = copies
      .map((copy) => stateOf(copy, scene))
      .filter((state, at, all) => state !== all[at - 1]);
    assert.deepEqual(order, ['old', 'none', 'new']);
    for (const copy of copies) {
      const restored = await scene.restore(copy, 'replace', { freeRoom: true });
      assert.equal(stateOf(copy, scene), 'new');
      assert.ok(restored.files > Object.keys(old).length);
      assert.deepEqual(readdirSync(join(copy, PART, '..')), ['full']);
    }
  });

  it('does not lose the old one for a snapshot that cannot be had', async (t) => {
    const scene = await createScene(t);
    const { base, dir } = scene;
    const index = join(dir, 'store/snapshots/test/rocksdb/2/index.zst');
    await fs.rename(index, `${index}.away`);
    await withFree(FREE, () =>
      assert.rejects(scene.restore(base, 'replace', { freeRoom: true }), (error) =>
        isPresyncError(error, 'INDEX_CORRUPT'),
      ),
    );
    assert.equal(stateOf(base, scene), 'old');
  });

  it(
    'is a real one: a database that fills it is replaced',
    needs('root, to mount a file system', process.getuid?.() === 0),
    async (t) => {
      const scene = await createScene(t);
      const { dir } = scene;
      const base = join(dir, 'small');
      await fs.mkdir(base);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=640k', 'tmpfs', base]);
      try {
        cpSync(scene.base, base, { recursive: true });
        await assert.rejects(scene.restore(base, 'replace'), (error) => isPresyncError(error, 'NO_SPACE'));
        assert.equal(stateOf(base, scene), 'old');
        await scene.restore(base, 'replace', { freeRoom: true });
        assert.equal(stateOf(base, scene), 'new');
      } finally {
        execFileSync('umount', [base]);
      }
    },
  );
});
