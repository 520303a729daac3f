/** What indexes name is kept on this machine, proved before it is used, and never needed. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { repositoryKeys } from '@presync/format/paths';
import type { ObjectStore } from '@presync/store/object-store';
import { type NamedCache, openNamedCache } from '../src/lib/named-cache.ts';
import type { PruneOptions, PruneResult } from '../src/prune.ts';
import { openRepository, resolveSnapshot } from '../src/repository.ts';
import { createScene, HOUR, type Scene } from './prune-scene.ts';
import { CHANNEL, NEVER, neededChunks, scratch } from './support.ts';

const INDEX = 'a'.repeat(64);
const digests = (count: number): string[] =>
  Array.from({ length: count }, () => randomBytes(32).toString('hex'));

async function* chunks(list: readonly string[]): AsyncGenerator<{ sha256: string }> {
  for (const sha256 of list) yield { sha256 };
}

async function keep(cache: NamedCache, index: string, list: readonly string[]): Promise<string[]> {
  const passed: string[] = [];
  for await (const { sha256 } of cache.keep(index, chunks(list), { count: list.length })) passed.push(sha256);
  return passed;
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

const find = (cache: NamedCache, index: string): Promise<string[] | undefined> => cache.use(index, all);

describe('the cache of what indexes name', () => {
  it('gives back what passed through it, more than a buffer full, and repeated chunks once', async (t) => {
    const dir = join(await scratch(t), 'cache');
    const list = digests(20_000);
    const withZeros = [...list.slice(0, 5), ...Array(100).fill(list[4]), ...list.slice(5)];
    assert.deepEqual(await keep(await openNamedCache({ dir }), INDEX, withZeros), withZeros);
    const cache = await openNamedCache({ dir });
    assert.deepEqual(await find(cache, INDEX), list);
    assert.equal(await find(cache, 'b'.repeat(64)), undefined);
    assert.deepEqual(await readdir(dir), [INDEX]);
    assert.equal((await stat(join(dir, INDEX))).mode & 0o777, 0o600);
    assert.equal((await stat(dir)).mode & 0o777, 0o700);
  });

  it('keeps nothing of an index that did not pass whole', async (t) => {
    const dir = await scratch(t);
    const cache = await openNamedCache({ dir });
    for await (const _ of cache.keep(INDEX, chunks(digests(10)), { count: 10 })) break;
    async function* broken(): AsyncGenerator<{ sha256: string }> {
      yield* chunks(digests(10));
      throw new Error('the index is damaged');
    }
    await assert.rejects(all(cache.keep(INDEX, broken(), { count: 10 })), /damaged/);
    assert.deepEqual(await readdir(dir), []);
    assert.equal(await find(cache, INDEX), undefined);
  });

  it('takes no file that differs in one bit, is cut off, is too long, or is of another index', async (t) => {
    const dir = await scratch(t);
    const list = digests(20);
    const path = join(dir, INDEX);
    await keep(await openNamedCache({ dir }), INDEX, list);
    const good = await readFile(path);
    const flipped = [3, 60, 200, good.length - 1].map((at) => {
      const bad = Buffer.from(good);
      bad.writeUInt8(bad.readUInt8(at) ^ 1, at);
      return bad;
    });
    const other = Buffer.concat([Buffer.from(`presync named chunks 1 ${'c'.repeat(64)}\n`), randomBytes(64)]);
    const shorter = Buffer.concat([good.subarray(0, -64), good.subarray(-32)]);
    const ofOther = Buffer.concat([other, createHash('sha256').update(other).digest()]);
    for (const bad of [
      ...flipped,
      shorter,
      ofOther,
      good.subarray(0, -1),
      good.subarray(0, 40),
      Buffer.concat([good, Buffer.alloc(32)]),
      Buffer.alloc(0),
    ]) {
      await writeFile(path, bad);
      const cache = await openNamedCache({ dir });
      assert.equal(await find(cache, INDEX), undefined);
      assert.deepEqual(await readdir(dir), [], 'it is removed, so that it is kept anew');
    }
    await writeFile(path, good);
    assert.deepEqual(await find(await openNamedCache({ dir }), INDEX), list);
  });

  it('falls back when the file cannot be read to its end, and hands on errors of the work', async (t) => {
    const dir = await scratch(t);
    const cache = await openNamedCache({ dir });
    await keep(cache, INDEX, digests(20_000));
    const cutOff = cache.use(INDEX, async (found) => {
      let count = 0;
      for await (const _ of found) {
        count += 1;
        if (count === 1) await truncate(join(dir, INDEX), 1000);
      }
      return count;
    });
    assert.equal(await cutOff, undefined);
    await keep(cache, INDEX, digests(10));
    const failing = cache.use(INDEX, async (found) => {
      for await (const _ of found) throw new Error('the store is away');
    });
    await assert.rejects(failing, /the store is away/);
  });

  it('stays within its bound: what was used the longest ago goes, and never what this run uses', async (t) => {
    const dir = await scratch(t);
    const name = (n: number): string => String(n).repeat(64);
    // Three of a hundred digests fit.
    const bound = { dir, maxBytes: 3 * (88 + 101 * 32) };
    for (const n of [1, 2, 3]) {
      await keep(await openNamedCache(bound), name(n), digests(100));
      const then = new Date(Date.now() - (10 - n) * 60_000);
      await utimes(join(dir, name(n)), then, then);
    }
    assert.notEqual(await find(await openNamedCache(bound), name(1)), undefined);
    await keep(await openNamedCache(bound), name(4), digests(100));
    assert.deepEqual(await readdir(dir), [name(1), name(3), name(4)]);

    const cache = await openNamedCache(bound);
    for (const n of [1, 3, 4]) assert.notEqual(await find(cache, name(n)), undefined);
    const list = digests(100);
    assert.deepEqual(await keep(cache, name(5), list), list);
    assert.deepEqual(await readdir(dir), [name(1), name(3), name(4)]);
  });

  it('clears away what a killed run has left, and nothing that is not its own', async (t) => {
    const dir = await scratch(t);
    for (const name of [`${INDEX}.0.new`, `${INDEX}.1.new`, 'notes']) await writeFile(join(dir, name), 'x');
    const yesterday = new Date(Date.now() - 25 * HOUR);
    for (const name of [`${INDEX}.0.new`, 'notes']) await utimes(join(dir, name), yesterday, yesterday);
    await openNamedCache({ dir });
    assert.deepEqual(await readdir(dir), [`${INDEX}.1.new`, 'notes']);
  });

  it('that cannot be written is told of once, and changes nothing else', async (t) => {
    const dir = await scratch(t);
    const told: string[] = [];
    const file = join(dir, 'file');
    await writeFile(file, '');
    const cache = await openNamedCache({ dir: join(file, 'cache'), onEvent: (event) => told.push(event) });
    const list = digests(10);
    for (const index of [INDEX, 'b'.repeat(64)]) assert.deepEqual(await keep(cache, index, list), list);
    assert.equal(await find(cache, INDEX), undefined);
    assert.deepEqual(told, ['prune.not_remembered']);
  });
});

interface Counted {
  scene: Scene;
  cacheDir: string;
  /** A run, and the keys that it has read, with how often. */
  run(options?: Partial<PruneOptions>): Promise<{ result: PruneResult; reads: string[]; indexes: number }>;
}

async function countedScene(t: TestContext, snapshots: number): Promise<Counted> {
  const scene = await createScene(t);
  for (let taken = 0; taken < snapshots; taken++) {
    await scene.take();
    scene.clock.advance(HOUR);
  }
  const cacheDir = join(scene.dir, 'index-cache');
  return {
    scene,
    cacheDir,
    async run(options = {}) {
      const reads: string[] = [];
      const { store } = scene;
      const counting: ObjectStore = {
        ...store,
        read(key, more) {
          reads.push(key);
          return store.read(key, more);
        },
      };
      const result = await scene.prune({
        repository: await openRepository(counting, { signal: NEVER }),
        keep: {},
        cacheDir,
        ...options,
      });
      return { result, reads, indexes: reads.filter((key) => key.endsWith('index.zst')).length };
    },
  };
}

describe('retention', () => {
  it('downloads no index of an unchanged repository a second time', async (t) => {
    const { run, scene } = await countedScene(t, 20);
    const before = await run({ cacheDir: undefined });
    const first = await run();
    const second = await run();
    assert.deepEqual([before.indexes, first.indexes, second.indexes], [20, 20, 0]);
    assert.equal(before.reads.length - second.reads.length, 20);
    t.diagnostic(`reads of 20 snapshots: ${before.reads.length} without, ${second.reads.length} with`);
    assert.deepEqual(second.result, before.result);
    await scene.take();
    assert.equal((await run()).indexes, 1);
  });

  it('finds the same garbage and the same damage with what it remembers', async (t) => {
    const { run, scene } = await countedScene(t, 4);
    await run();
    const { repository } = scene.world;
    const named = async (snapshot: number): Promise<string[]> => {
      const options = { channel: CHANNEL, snapshot, trusted: 'anybody', signal: NEVER } as const;
      const { manifest } = await resolveSnapshot(repository, options);
      return neededChunks(repository, manifest, join(scene.dir, `index-${snapshot}`));
    };
    const [first, last] = [await named(1), await named(4)];
    const shared = first.find((sha256) => last.includes(sha256)) ?? '';
    await scene.store.remove(repositoryKeys.chunk(shared), { signal: NEVER });
    const options = { keep: { last: 2 }, dryRun: true };
    const remembered = await run(options);
    const downloaded = await run({ ...options, cacheDir: undefined });
    assert.deepEqual([remembered.indexes, downloaded.indexes], [0, 4]);
    assert.deepEqual(remembered.result, downloaded.result);
    assert.equal(remembered.result.damaged.length, 4, 'all of them name it');
  });

  it('removes nothing that is named, whatever becomes of the cache between two runs', async (t) => {
    const { run, scene, cacheDir } = await countedScene(t, 3);
    await run();
    const chunks = await scene.keys('chunks/');
    for (const damage of [
      async (path: string) => truncate(path, 88),
      // As if it named nothing: only its digest tells that it is not so.
      async (path: string) => {
        const bytes = await readFile(path);
        await writeFile(path, Buffer.concat([bytes.subarray(0, 88), bytes.subarray(-32)]));
      },
      async (path: string) => rm(path),
      async (path: string) => {
        await rm(path);
        await mkdir(path);
      },
    ]) {
      for (const name of await readdir(cacheDir)) await damage(join(cacheDir, name));
      const { result, indexes } = await run({ graceMs: 0 });
      assert.equal(indexes, 3);
      assert.deepEqual([result.found.chunks, result.removed.chunks, result.damaged], [0, 0, []]);
    }
    assert.deepEqual(await scene.keys('chunks/'), chunks);
  });

  it('does not rely on what it remembers when the index in the store is not the one that was put', async (t) => {
    const { run, scene } = await countedScene(t, 2);
    await run();
    const index = 'snapshots/test/rocksdb/1/index.zst';
    const { bytes } = await scene.store.read(index, { maxBytes: 1e6, signal: NEVER });
    await scene.store.put(index, bytes.subarray(0, -1), { signal: NEVER });
    assert.match((await run()).result.blocked ?? '', /rocksdb#1/);
    await scene.store.remove(index, { signal: NEVER });
    assert.match((await run()).result.blocked ?? '', /rocksdb#1/);
    await scene.store.put(index, bytes, { signal: NEVER });
    assert.equal((await run()).result.blocked, undefined);
  });

  it('works where nothing can be kept', async (t) => {
    const { run, cacheDir } = await countedScene(t, 2);
    const told: string[] = [];
    await writeFile(cacheDir, '');
    const { result, indexes } = await run({ onEvent: (event) => told.push(event) });
    assert.deepEqual([result.blocked, indexes, told], [undefined, 2, ['prune.not_remembered']]);
  });
});
