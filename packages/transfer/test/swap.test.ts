import assert from 'node:assert/strict';
import { cp, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { beforeEach, describe, it } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import { createFileStore } from '@presync/store/file';
import { partPaths, writeState } from '../src/lib/stage.ts';
import { resolveSnapshot, type Snapshot } from '../src/repository.ts';
import { type ExistingPolicy, type RestoreResult, restoreSnapshot } from '../src/restore.ts';
import {
  CHANNEL,
  createWorld,
  NEVER,
  PART,
  readTree,
  sampleTree,
  scratch,
  type Tree,
  type World,
  writeTree,
} from './support.ts';

/** Each durable step of a restore, as a process that was killed right after it leaves the disk. */
describe('a restore that was killed at one of its steps', () => {
  let dir: string;
  let world: World;
  let first: Snapshot;
  let second: Snapshot;
  let firstTree: Tree;
  let secondTree: Tree;
  let paths: ReturnType<typeof partPaths>;
  const oldTree: Tree = {
    CURRENT: Buffer.from('MANIFEST-000009\n'),
    '000099.sst': Buffer.alloc(9000, 'old'),
  };

  beforeEach(async (t) => {
    if (!('after' in t)) throw new Error('no test to clean up after');
    dir = await scratch(t);
    world = await createWorld(dir, createFileStore({ dir: join(dir, 'store') }));
    const tree = sampleTree();
    await writeTree(world.source, tree);
    await world.snapshot();
    firstTree = await readTree(world.source);
    await writeTree(world.source, { '000040.sst': Buffer.alloc(120_000, 'second') });
    await world.snapshot();
    secondTree = await readTree(world.source);
    const resolve = (snapshot: number) =>
      resolveSnapshot(world.repository, { channel: CHANNEL, snapshot, trusted: [world.key], signal: NEVER });
    first = await resolve(1);
    second = await resolve(2);
    paths = partPaths(join(dir, 'target'), PART);
  });

  const restore = (snapshot: Snapshot, existing?: ExistingPolicy): Promise<RestoreResult> =>
    restoreSnapshot({
      repository: world.repository,
      snapshot,
      basePath: join(dir, 'target'),
      existing,
      assertFile: () => {},
      signal: NEVER,
    });

  const note = ({ manifest, sha256 }: Snapshot, phase: 'fetching' | 'sealed'): Promise<void> =>
    writeState(paths, { channel: CHANNEL, sequence: manifest.sequence, manifest: sha256, phase });

  /** The first snapshot, whole, in the stage. */
  async function sealed(): Promise<void> {
    await restore(first);
    await mkdir(paths.work, { recursive: true });
    await rename(paths.target, paths.stage);
    await note(first, 'sealed');
  }

  async function old(place: string): Promise<void> {
    await writeTree(place, oldTree);
  }

  async function assertDone(tree: Tree): Promise<void> {
    assert.deepEqual(await readTree(paths.target), tree);
    assert.deepEqual(await readdir(dirname(paths.target)), ['full']);
  }

  it('sealed, not swapped', async () => {
    await sealed();
    const result = await restore(first);
    assert.deepEqual([result.wasSealed, result.fetchedChunks], [true, 0]);
    await assertDone(firstTree);
  });

  it('sealed, not swapped, over an old database', async () => {
    await sealed();
    await old(paths.target);
    assert.equal((await restore(first, 'replace')).wasSealed, true);
    await assertDone(firstTree);
  });

  it('the old database moved aside, the new one not yet in place', async () => {
    await sealed();
    await old(paths.replaced);
    assert.equal((await restore(first, 'replace')).wasSealed, true);
    await assertDone(firstTree);
  });

  it('the new database in place, the old one not yet removed', async () => {
    await sealed();
    await rename(paths.stage, paths.target);
    await old(paths.replaced);
    assert.equal((await restore(first, 'replace')).wasSealed, true);
    await assertDone(firstTree);
  });

  it('the new database in place, the notes not yet removed', async () => {
    await sealed();
    await rename(paths.stage, paths.target);
    assert.equal((await restore(first)).wasSealed, true);
    await assertDone(firstTree);
  });

  it('the old database comes back after half a swap, when another snapshot is wanted or the wish is refused', async () => {
    await sealed();
    await old(paths.replaced);
    await assert.rejects(restore(second), (error) => isPresyncError(error, 'TARGET_NOT_EMPTY'));
    assert.deepEqual(await readTree(paths.target), oldTree);
    const result = await restore(second, 'replace');
    assert.equal(result.wasSealed, false);
    assert.ok(result.resumedChunks > 0, 'the stage of the other snapshot was of no use');
    await assertDone(secondTree);
  });

  it('sealed for one snapshot, begun for another, wanted for the first again', async () => {
    await sealed();
    await note(second, 'fetching');
    const result = await restore(first);
    assert.equal(result.wasSealed, false);
    await assertDone(firstTree);
  });

  it('sealed for one snapshot, and the index of another cannot be had', async () => {
    await sealed();
    const key = join(dir, 'store', 'snapshots', CHANNEL, '2', 'index.zst');
    await rename(key, `${key}.away`);
    await assert.rejects(restore(second), (error) => isPresyncError(error, 'INDEX_CORRUPT'));
    // What was sealed is still what it was.
    assert.equal((await restore(first)).wasSealed, true);
    await assertDone(firstTree);
  });

  it('unsealed with rubbish in the stage, and a note that is of no snapshot', async () => {
    await mkdir(paths.stage, { recursive: true });
    await writeFile(join(paths.stage, 'rubbish.sst'), 'rubbish');
    await writeFile(join(paths.stage, '000001.sst'), Buffer.alloc(400_000, 1));
    await writeFile(join(paths.stage, 'CURRENT'), 'MANIFEST-000077\n');
    await writeFile(join(paths.work, 'restore.journal'), Buffer.alloc(4001, 0));
    await restore(first);
    await assertDone(firstTree);
  });

  it('a note that is damaged is an error that names it', async () => {
    await mkdir(paths.work, { recursive: true });
    const path = join(paths.work, 'restore.json');
    await writeFile(path, '{"presync":"restore"');
    await assert.rejects(
      restore(first),
      (error) => isPresyncError(error, 'TARGET_NOTES_DAMAGED') && error.message.includes(path),
    );
  });

  it('half the files gone from a stage whose journal says they are there', async () => {
    await restore(first);
    await mkdir(paths.work, { recursive: true });
    await cp(paths.target, paths.stage, { recursive: true });
    await rm(paths.target, { recursive: true });
    for (const name of ['000001.sst', '000005.log']) await rm(join(paths.stage, name));
    const ordinals = Buffer.alloc(4 * first.manifest.totals.chunks);
    for (let ordinal = 0; ordinal < first.manifest.totals.chunks; ordinal++)
      ordinals.writeUInt32LE(ordinal, ordinal * 4);
    await writeFile(join(paths.work, 'restore.journal'), ordinals);
    await note(first, 'fetching');
    const result = await restore(first);
    assert.ok(result.fetchedChunks > 0 && result.resumedChunks > 0);
    await assertDone(firstTree);
  });
});
