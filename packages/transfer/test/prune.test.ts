import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import { pinSnapshot, unpinSnapshot } from '../src/pins.ts';
import { listSequences } from '../src/repository.ts';
import { verifyRepository } from '../src/verify-repository.ts';
import { createScene, HOUR } from './prune-scene.ts';
import { assertRestoresNewest, CHANNEL, NEVER, sampleTree, writeTree } from './support.ts';

/** A store that does something before an object is put. */
function before(store: ObjectStore, end: string, first: () => Promise<unknown>): ObjectStore {
  return {
    ...store,
    async put(key, body, options) {
      if (key.endsWith(end)) await first();
      return store.put(key, body, options);
    },
  };
}

describe('prune', () => {
  it('removes what retention does not keep, and its chunks after the grace', async (t) => {
    const { world, clock, take, prune, keys, dir } = await createScene(t);
    await take();
    clock.advance(HOUR);
    await take();
    clock.advance(HOUR);
    const before = await keys('chunks/');

    const first = await prune();
    assert.deepEqual(await listSequences(world.repository, CHANNEL, { signal: NEVER }), [2]);
    assert.ok(first.found.chunks > 0 && first.found.bytes > 100_000 && first.found.indexes === 1);
    assert.equal(first.removed.chunks, 0);
    assert.deepEqual(await keys('chunks/'), before);

    const early = await prune();
    assert.equal(early.found.chunks, 0);
    assert.equal(early.waiting.length, 1);
    assert.deepEqual(await keys('chunks/'), before);

    clock.advance(HOUR);
    const second = await prune();
    assert.deepEqual(second.removed, first.found);
    assert.equal((await keys('chunks/')).length, before.length - first.found.chunks);
    assert.deepEqual(await keys('snapshots/'), [
      'snapshots/test/rocksdb/2/index.zst',
      'snapshots/test/rocksdb/2/manifest.json',
      'snapshots/test/rocksdb/2/proof.json',
    ]);

    clock.advance(HOUR);
    await prune();
    assert.deepEqual(await keys('tombstones/'), []);
    await assertRestoresNewest(world, join(dir, 'target'));
    const { problems } = await verifyRepository({
      repository: world.repository,
      trusted: [world.key],
      seenOf: async () => undefined,
      scope: 'full',
      scratchDir: dir,
      signal: NEVER,
    });
    assert.deepEqual(problems, []);
  });

  it('waits by itself when it is told to', async (t) => {
    const { clock, take, prune, keys } = await createScene(t);
    await take();
    clock.advance(HOUR);
    await take();
    clock.advance(HOUR);
    const { found, removed, waiting } = await prune({ wait: true });
    assert.deepEqual(removed, found);
    assert.deepEqual(waiting, []);
    assert.equal((await keys('snapshots/')).length, 3);
  });

  it('changes nothing in a dry run, and says what would go', async (t) => {
    const { clock, take, prune, keys } = await createScene(t);
    await take();
    clock.advance(HOUR);
    await take();
    clock.advance(HOUR);
    const before = await keys('');
    const dry = await prune({ dryRun: true });
    assert.deepEqual(await keys(''), before);
    const wet = await prune();
    assert.deepEqual(dry, wet);
    clock.advance(HOUR);
    assert.deepEqual((await prune({ dryRun: true })).removed, wet.found);
  });

  it('lets what is in quarantine take no place, and takes its proof away after its manifest', async (t) => {
    const { world, store, clock, take, prune, keys } = await createScene(t);
    await take();
    clock.advance(HOUR);
    const failing = {
      checks: ['restore'],
      run: async () => {
        throw new PresyncError('PROOF_FAILED', 'it does not open', { hint: 'look at the node' });
      },
    };
    await assert.rejects(world.snapshot({ clock, proof: failing }), (error) =>
      isPresyncError(error, 'PROOF_FAILED'),
    );
    clock.advance(HOUR);
    await take();
    clock.advance(HOUR);
    const { snapshots } = await prune({ keep: { last: 2 }, dryRun: true });
    assert.deepEqual(
      snapshots.map(({ sequence, kept }) => [sequence, kept]),
      [
        [1, ['last']],
        [2, ['last']],
        [3, ['newest', 'last']],
      ],
    );
    const order: string[] = [];
    const watched: ObjectStore = {
      ...store,
      remove: (key, options) => {
        order.push(key);
        return store.remove(key, options);
      },
    };
    await prune({ repository: { ...world.repository, store: watched } });
    const ofSecond = order.filter((key) => key.startsWith('snapshots/test/rocksdb/2/'));
    assert.deepEqual(ofSecond, [
      'snapshots/test/rocksdb/2/manifest.json',
      'snapshots/test/rocksdb/2/proof.json',
    ]);
    assert.deepEqual(await keys('snapshots/test/rocksdb/2/'), ['snapshots/test/rocksdb/2/index.zst']);
  });

  it('never touches the newest, what is newer, what is young, and what is pinned', async (t) => {
    const { world, clock, take, prune } = await createScene(t);
    await take();
    const pin = { repository: world.repository, channel: CHANNEL, sequence: 1, signal: NEVER };
    assert.equal(await pinSnapshot(pin), true);
    assert.equal(await pinSnapshot(pin), false);
    clock.advance(HOUR);
    await take();
    clock.advance(HOUR);
    await take();
    await assert.rejects(pinSnapshot({ ...pin, sequence: 9 }), (error) =>
      isPresyncError(error, 'SNAPSHOT_NOT_FOUND'),
    );
    const { snapshots } = await prune({ keep: { last: 0 } });
    assert.deepEqual(
      snapshots.map(({ sequence, kept }) => [sequence, kept]),
      [
        [1, ['pinned']],
        [2, []],
        [3, ['newest', 'young']],
      ],
    );
    assert.equal(await unpinSnapshot(pin), true);
    assert.equal(await unpinSnapshot(pin), false);
    await prune({ keep: { last: 0 } });
    assert.deepEqual(await listSequences(world.repository, CHANNEL, { signal: NEVER }), [3]);
  });

  it('keeps what a snapshot names that is pinned when its removal is announced', async (t) => {
    const { world, store, clock, take, prune, keys } = await createScene(t);
    const { repository } = world;
    await writeTree(world.source, sampleTree());
    // A collector comes by before the manifest is there: the chunks of the first get tombstones.
    await world.snapshot({
      clock,
      repository: { ...repository, store: before(store, '/manifest.json', prune) },
    });
    clock.advance(HOUR);
    await take();
    clock.advance(HOUR);
    const there = [...(await keys('chunks/')), ...(await keys('snapshots/'))];
    const pin = () => pinSnapshot({ repository, channel: CHANNEL, sequence: 1, clock, signal: NEVER });
    const pinned = await prune({ repository: { ...repository, store: before(store, '/removed.json', pin) } });
    assert.deepEqual(
      pinned.snapshots.map(({ sequence, kept }) => [sequence, kept]),
      [
        [1, ['pinned']],
        [2, ['newest', 'last']],
      ],
    );
    assert.deepEqual([...(await keys('chunks/')), ...(await keys('snapshots/'))], there);
    assert.equal(pinned.removed.chunks + pinned.found.chunks + pinned.found.indexes, 0);
  });

  it('tells which snapshots lack chunks, builds upon none of them, and has the next one mend them', async (t) => {
    const { world, store, clock, take, prune, keys } = await createScene(t);
    const fixed = { 'fixed.sst': randomBytes(100_000) };
    await take(fixed);
    const old = await keys('chunks/');
    clock.advance(HOUR);
    await take();
    // What a rule of the bucket does that removes by age.
    for (const key of old) await store.remove(key, { signal: NEVER });
    clock.advance(HOUR);
    const damaged = await prune({ keep: { last: 2 } });
    assert.deepEqual(
      damaged.damaged.map(({ sequence }) => sequence),
      [1, 2],
    );
    assert.ok(damaged.damaged.every(({ missing }) => missing > 0));
    assert.equal(damaged.blocked, undefined);

    const told: string[] = [];
    await world.snapshot({ clock, onEvent: (event) => told.push(event) });
    assert.ok(told.includes('snapshot.previous_damaged'));
    assert.deepEqual((await prune({ keep: { last: 3 } })).damaged, []);
    assert.ok((await keys('chunks/')).length >= old.length);
  });

  it('removes nothing while it cannot be known what a snapshot names', async (t) => {
    const { world, store, clock, take, prune, keys } = await createScene(t);
    await take();
    clock.advance(HOUR);
    await take();
    clock.advance(HOUR);
    await prune();
    clock.advance(HOUR);
    const index = 'snapshots/test/rocksdb/2/index.zst';
    const { bytes } = await store.read(index, { maxBytes: 1e6, signal: NEVER });
    await store.remove(index, { signal: NEVER });
    const chunks = await keys('chunks/');
    const { blocked, removed, found } = await prune();
    assert.match(blocked ?? '', /index/);
    assert.equal(removed.chunks + found.chunks, 0);
    assert.deepEqual(await keys('chunks/'), chunks);
    await store.put(index, bytes, { signal: NEVER });
    assert.ok((await prune()).removed.chunks > 0);
    assert.deepEqual(await listSequences(world.repository, CHANNEL, { signal: NEVER }), [2]);
  });

  it('removes what unfinished snapshots left, and keeps the number of one that may go on', async (t) => {
    const { store, clock, take, prune, keys } = await createScene(t);
    await take();
    const index = 'snapshots/test/rocksdb/1/index.zst';
    const { bytes } = await store.read(index, { maxBytes: 1e6, signal: NEVER });
    // The index of 2 was put by somebody who died; the next one takes 3.
    await store.put(index.replace('/1/', '/2/'), bytes, { signal: NEVER });
    clock.advance(HOUR);
    await take();
    await store.put(index.replace('/1/', '/4/'), bytes, { signal: NEVER });
    await prune({ keep: {}, wait: true });
    assert.deepEqual(await keys('snapshots/'), [
      index,
      index.replace('index.zst', 'manifest.json'),
      index.replace('index.zst', 'proof.json'),
      index.replace('/1/', '/3/'),
      index.replace('/1/', '/3/').replace('index.zst', 'manifest.json'),
      index.replace('/1/', '/3/').replace('index.zst', 'proof.json'),
      index.replace('/1/', '/4/'),
    ]);
  });

  it('removes the proof of a snapshot that was never finished, as late as its index', async (t) => {
    const { store, clock, take, prune, keys } = await createScene(t);
    await take();
    const read = async (name: string): Promise<Uint8Array> =>
      (await store.read(`snapshots/test/rocksdb/1/${name}`, { maxBytes: 1e6, signal: NEVER })).bytes;
    const put = async (sequence: number, name: string): Promise<void> => {
      await store.put(`snapshots/test/rocksdb/${sequence}/${name}`, await read(name), { signal: NEVER });
    };
    const unfinished = async (): Promise<string[]> =>
      (await keys('snapshots/')).filter((key) => !/\/(?:1|6)\//.test(key)).map((key) => key.slice(23));
    // Of 2 and 5 there is all but the manifest; of 3 somebody has removed the index. 4 comes late, and 7 may yet come.
    for (const sequence of [2, 3, 4, 5]) await put(sequence, 'index.zst');
    for (const sequence of [2, 3, 4, 5]) await put(sequence, 'proof.json');
    clock.advance(HOUR);
    await take();
    await store.remove('snapshots/test/rocksdb/3/index.zst', { signal: NEVER });
    await put(7, 'index.zst');
    await put(7, 'proof.json');
    const before = await unfinished();
    assert.equal(before.length, 9);

    const options = { keep: {}, graceMs: HOUR };
    assert.equal((await prune({ ...options, dryRun: true })).found.indexes, 4);
    assert.equal((await prune(options)).found.indexes, 4);
    assert.equal((await prune(options)).found.indexes, 0);
    assert.deepEqual(await unfinished(), before);
    await put(4, 'manifest.json');
    clock.advance(HOUR);
    const { removed, blocked } = await prune(options);
    assert.match(blocked ?? '', /test\/rocksdb#4/, 'its manifest is that of another');
    assert.equal(removed.indexes, 0);
    assert.deepEqual(await unfinished(), [...before, '4/manifest.json'].sort());

    await store.remove('snapshots/test/rocksdb/4/manifest.json', { signal: NEVER });
    await prune(options);
    assert.deepEqual(await unfinished(), ['7/index.zst', '7/proof.json']);
  });

  it('leaves proof and index of a snapshot that was finished after all', async (t) => {
    const { world, store, clock, take, prune, keys } = await createScene(t);
    await take();
    clock.advance(HOUR);
    await take();
    clock.advance(HOUR);
    await take();
    const manifest = 'snapshots/test/rocksdb/2/manifest.json';
    const { bytes } = await store.read(manifest, { maxBytes: 1e6, signal: NEVER });
    await store.remove(manifest, { signal: NEVER });
    assert.equal((await prune({ keep: {} })).found.indexes, 1);
    clock.advance(HOUR);
    await store.put(manifest, bytes, { signal: NEVER });
    await prune({ keep: {} });
    assert.equal((await keys('snapshots/test/rocksdb/2/')).length, 3);
    assert.deepEqual(await listSequences(world.repository, CHANNEL, { signal: NEVER }), [1, 2, 3]);
  });
});
