import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectStore } from '@presync/store/object-store';
import { readLatest } from '../src/repository.ts';
import { CHANNEL, createWorld, NEVER, sampleTree, scratch, type World, writeTree } from './support.ts';

async function prepare(t: TestContext, store: ObjectStore): Promise<World> {
  const world = await createWorld(await scratch(t), store);
  await writeTree(world.source, sampleTree());
  return world;
}

/** A store that says that the first so many puts of such a key are done, and does nothing. */
function lying(key: RegExp, times: number): { store: ObjectStore; lies: () => number } {
  const memory = createMemoryStore();
  let lies = 0;
  return {
    lies: () => lies,
    store: {
      ...memory,
      async put(name, body, options) {
        if (!key.test(name) || lies >= times) return memory.put(name, body, options);
        lies += 1;
        return { version: 'of another object' };
      },
    },
  };
}

async function keysOf(store: ObjectStore, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list(prefix, { signal: NEVER })) keys.push(key);
  return keys;
}

describe('what was put', () => {
  for (const [what, key] of [
    ['a chunk', /^chunks\//],
    ['the index', /index\.zst$/],
    ['the lease', /^leases\//],
  ] as const) {
    it(`${what} that is said to be stored, and is not, is named by no manifest`, async (t) => {
      const { store, lies } = lying(key, 1);
      const world = await prepare(t, store);
      await assert.rejects(world.snapshot({ prove: 'none' }), { code: 'CONTENT_MISMATCH' });
      assert.equal(lies(), 1);
      const stored = await keysOf(store, 'snapshots/');
      assert.ok(!stored.some((name) => name.endsWith('manifest.json')), stored.join(' '));
      const next = await world.snapshot({ prove: 'full' });
      assert.equal(next.promoted, true);
    });
  }

  it('a pointer that did not move is moved again, and is not believed to have moved after three times', async (t) => {
    const once = lying(/latest\.json$/, 1);
    const moved = await (await prepare(t, once.store)).snapshot();
    assert.deepEqual([moved.promoted, once.lies()], [true, 1]);
    const always = lying(/latest\.json$/, Number.POSITIVE_INFINITY);
    const world = await prepare(t, always.store);
    await assert.rejects(world.snapshot(), { code: 'CONTENT_MISMATCH' });
    assert.equal(always.lies(), 3);
    assert.equal(await readLatest(world.repository, CHANNEL, { signal: NEVER }), undefined);
  });

  it('a look that says wrongly that nothing is there is repeated', async (t) => {
    const memory = createMemoryStore();
    const looks = new Map<string, number>();
    const blind: ObjectStore = {
      ...memory,
      stat: async (key, options) => {
        const nth = (looks.get(key) ?? 0) + 1;
        looks.set(key, nth);
        return nth % 3 === 0 ? memory.stat(key, options) : undefined;
      },
    };
    const { addedChunks } = await (await prepare(t, blind)).snapshot();
    const [lease = 0, ...others] = [...looks.values()];
    assert.deepEqual(others, Array(addedChunks + 1).fill(3), 'chunks and index');
    assert.equal(lease, 9, 'when it is put, and before and after the manifest is');
  });

  it('looks beside the puts, at no more than sixteen objects at a time', async (t) => {
    const memory = createMemoryStore();
    let looking = 0;
    let most = 0;
    const slow: ObjectStore = {
      ...memory,
      stat: async (key, options) => {
        looking += 1;
        most = Math.max(most, looking);
        await new Promise((resolve) => setTimeout(resolve, 50));
        looking -= 1;
        return memory.stat(key, options);
      },
    };
    const world = await prepare(t, slow);
    const many = Object.fromEntries(
      Array.from({ length: 60 }, (_, index) => [
        `1${String(index).padStart(5, '0')}.sst`,
        Buffer.alloc(70_000, index + 1),
      ]),
    );
    await writeTree(world.source, many);
    await world.snapshot({ concurrency: 32 });
    assert.ok(most > 4 && most <= 16, `${most} at a time`);
  });

  it('nothing is looked at of an unchanged database but lease and index', async (t) => {
    const memory = createMemoryStore();
    const looked: string[] = [];
    const watched: ObjectStore = {
      ...memory,
      stat: (key, options) => {
        looked.push(key);
        return memory.stat(key, options);
      },
    };
    const world = await prepare(t, watched);
    await world.snapshot();
    looked.length = 0;
    await world.snapshot();
    // The lease when it is put, and before and after the manifest is.
    assert.match(looked.join(' '), /^(leases\/writer\/\S+) snapshots\/test\/rocksdb\/2\/index\.zst \1 \1$/);
  });
});
