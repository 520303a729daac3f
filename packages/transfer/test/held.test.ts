/** Who reads a snapshot holds it: retention and collectors that are at work meanwhile take nothing of it away. */
import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import type { ObjectStore } from '@presync/store/object-store';
import { exportSnapshot } from '../src/export.ts';
import { listSequences, openRepository, type Repository, resolveSnapshot } from '../src/repository.ts';
import {
  type VerifyRepositoryOptions,
  type VerifyRepositoryResult,
  verifyRepository,
} from '../src/verify-repository.ts';
import { createScene, HOUR, type Scene } from './prune-scene.ts';
import { CHANNEL, NEVER } from './support.ts';

/** Two snapshots, of which retention keeps the second only. */
async function twoSnapshots(t: TestContext): Promise<Scene & { collect(): Promise<void> }> {
  const scene = await createScene(t);
  for (let taken = 0; taken < 2; taken++) {
    await scene.take();
    scene.clock.advance(HOUR);
  }
  return {
    ...scene,
    // Found in the first run, removed in the second: nothing of it is left that nobody holds.
    async collect() {
      await scene.prune();
      scene.clock.advance(HOUR);
      await scene.prune();
    },
  };
}

/** The same repository, in which something happens just before the first read of such a key. */
async function beforeRead(
  { store }: Scene,
  key: RegExp,
  happen: () => Promise<void>,
  traits: Partial<ObjectStore['traits']> = {},
): Promise<Repository> {
  let happened = false;
  const watched: ObjectStore = {
    ...store,
    traits: { ...store.traits, ...traits },
    async read(name, options) {
      if (!happened && key.test(name)) {
        happened = true;
        await happen();
      }
      return store.read(name, options);
    },
  };
  return openRepository(watched, { signal: NEVER });
}

function verify(
  { dir, world }: Scene,
  repository: Repository,
  more: Partial<VerifyRepositoryOptions> = {},
): Promise<VerifyRepositoryResult> {
  return verifyRepository({
    repository,
    trusted: [world.key],
    seenOf: async () => undefined,
    scope: 'full',
    scratchDir: dir,
    concurrency: 1,
    signal: NEVER,
    ...more,
  });
}

const FIRST_MANIFEST = /^snapshots\/test\/rocksdb\/1\/manifest\.json$/;
const CHUNK = /^chunks\//;

describe('a snapshot that is verified', () => {
  it('stays until it is verified, and goes after that', async (t) => {
    const scene = await twoSnapshots(t);
    const { collect, keys } = scene;
    const { problems, snapshots } = await verify(scene, await beforeRead(scene, CHUNK, collect));
    assert.deepEqual(problems, []);
    assert.deepEqual(
      snapshots.map(({ sequence, sound }) => [sequence, sound]),
      [
        [1, true],
        [2, true],
      ],
    );
    assert.deepEqual(await keys('leases/'), []);
    await collect();
    assert.deepEqual(await listSequences(scene.world.repository, CHANNEL, { signal: NEVER }), [2]);
  });

  it('is left out when retention was faster', async (t) => {
    const scene = await twoSnapshots(t);
    const events: string[] = [];
    const repository = await beforeRead(scene, FIRST_MANIFEST, scene.collect);
    const { problems, snapshots } = await verify(scene, repository, {
      onEvent: (event) => events.push(event),
    });
    assert.deepEqual(problems, []);
    assert.deepEqual(
      snapshots.map(({ sequence }) => sequence),
      [2],
    );
    assert.deepEqual(events, ['verify.snapshot_removed']);
  });

  it('is left out when retention takes it away under who may not hold it', async (t) => {
    const scene = await twoSnapshots(t);
    const repository = await beforeRead(scene, CHUNK, scene.collect, { writable: false });
    const { problems, snapshots } = await verify(scene, repository);
    assert.deepEqual(problems, []);
    assert.deepEqual(
      snapshots.map(({ sequence }) => sequence),
      [2],
    );
  });

  it('is damaged when somebody else takes it away', async (t) => {
    const scene = await twoSnapshots(t);
    const { store } = scene;
    const repository = await beforeRead(scene, FIRST_MANIFEST, () =>
      store.remove('snapshots/test/rocksdb/1/manifest.json', { signal: NEVER }),
    );
    const { problems, snapshots } = await verify(scene, repository);
    assert.ok(problems.some(({ object }) => FIRST_MANIFEST.test(object)));
    assert.deepEqual(snapshots[0]?.sound, false);
  });
});

describe('a snapshot that is exported', () => {
  it('stays until the archive is whole, and goes after that', async (t) => {
    const scene = await twoSnapshots(t);
    const { world, collect, dir, keys } = scene;
    const exportFirst = async (repository: Repository): Promise<Buffer> => {
      const options = { channel: CHANNEL, snapshot: 1, trusted: [world.key], signal: NEVER };
      const pieces: Uint8Array[] = [];
      await exportSnapshot({
        repository,
        snapshot: await resolveSnapshot(repository, options),
        assertFile: () => {},
        write: async (bytes) => {
          pieces.push(Uint8Array.from(bytes));
        },
        scratchDir: dir,
        concurrency: 1,
        signal: NEVER,
      });
      return Buffer.concat(pieces);
    };
    const whole = await exportFirst(world.repository);
    assert.ok(whole.equals(await exportFirst(await beforeRead(scene, CHUNK, collect))));
    assert.deepEqual(await keys('leases/'), []);
    await collect();
    assert.deepEqual(await listSequences(world.repository, CHANNEL, { signal: NEVER }), [2]);
  });
});
