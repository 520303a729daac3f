import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { stat, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { createFileStore } from '@presync/store/file';
import { createMemoryStore } from '@presync/store/memory';
import { restoreSnapshot } from '../src/restore.ts';
import { verifySnapshot } from '../src/verify.ts';
import {
  createWorld,
  NEVER,
  newestSnapshot,
  PART,
  readTree,
  sampleTree,
  scratch,
  type World,
  writeTree,
} from './support.ts';

async function restore(world: World, basePath: string, existing?: 'reuse' | 'replace') {
  const snapshot = await newestSnapshot(world);
  return restoreSnapshot({
    repository: world.repository,
    snapshot,
    basePath,
    existing,
    assertFile: () => {},
    signal: NEVER,
  });
}

describe('snapshot and restore', () => {
  for (const kind of ['file', 'memory'] as const) {
    it(`gives back every byte through a ${kind} store`, async (t) => {
      const dir = await scratch(t);
      const store = kind === 'file' ? createFileStore({ dir: join(dir, 'store') }) : createMemoryStore();
      const world = await createWorld(dir, store);
      const tree = sampleTree();
      await writeTree(world.source, tree);
      const first = await world.snapshot();
      assert.equal(first.promoted, true);
      assert.equal(first.manifest.sequence, 1);
      const target = join(dir, 'target');
      const report = await restore(world, target);
      assert.deepEqual(await readTree(join(target, PART)), await readTree(world.source));
      assert.ok(report.fetchedChunks > 0);
      const verified = await verifySnapshot({
        repository: world.repository,
        manifest: first.manifest,
        scope: 'full',
        scratchDir: dir,
        signal: NEVER,
      });
      assert.deepEqual(verified.problems, []);
    });
  }

  it('keeps holes', async (t) => {
    const dir = await scratch(t);
    const world = await createWorld(dir, createMemoryStore());
    await writeTree(world.source, { ...sampleTree(), '000009.sst': Buffer.alloc(8 * 1024 * 1024) });
    await world.snapshot();
    await restore(world, join(dir, 'target'));
    const { size, blocks } = await stat(join(dir, 'target', PART, '000009.sst'));
    assert.equal(size, 8 * 1024 * 1024);
    assert.equal(blocks, 0);
  });

  it('uploads only what is new, and reads unchanged tables no more', async (t) => {
    const dir = await scratch(t);
    const world = await createWorld(dir, createMemoryStore());
    await writeTree(world.source, sampleTree());
    await world.snapshot();
    const again = await world.snapshot();
    assert.equal(again.addedChunks, 0);
    assert.ok(again.readBytes < 200_000, `read ${again.readBytes} bytes of unchanged tables`);
    await writeFile(join(world.source, '000010.sst'), randomBytes(100_000));
    await unlink(join(world.source, '000001.sst'));
    const third = await world.snapshot();
    assert.ok(
      third.manifest.totals.added > 100_000 && third.manifest.totals.added < 400_000,
      `${third.manifest.totals.added}`,
    );
    assert.equal(third.manifest.previous?.sequence, 2);
    await restore(world, join(dir, 'target'));
    assert.deepEqual(await readTree(join(dir, 'target', PART)), await readTree(world.source));
  });

  it('brings an older database up by fetching only what changed', async (t) => {
    const dir = await scratch(t);
    const world = await createWorld(dir, createMemoryStore());
    await writeTree(world.source, sampleTree());
    await world.snapshot();
    await restore(world, join(dir, 'target'));
    await writeFile(join(world.source, '000010.sst'), randomBytes(100_000));
    const second = await world.snapshot();
    const report = await restore(world, join(dir, 'target'), 'reuse');
    assert.ok(
      report.fetchedBytes <= second.manifest.totals.added * 1.05,
      `fetched ${report.fetchedBytes} for ${second.manifest.totals.added}`,
    );
    assert.ok(report.reusedChunks > 0);
    assert.deepEqual(await readTree(join(dir, 'target', PART)), await readTree(world.source));
  });
});
