import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { type ErrorCode, isPresyncError } from '@presync/runtime/errors';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectStore } from '@presync/store/object-store';
import {
  downloadIndex,
  openRepository,
  type Repository,
  readLatest,
  resolveSnapshot,
  type Snapshot,
} from '../src/repository.ts';
import {
  CHANNEL,
  createWorld,
  NEVER,
  neededChunks,
  newestSnapshot,
  sampleTree,
  scratch,
  type World,
  writeTree,
} from './support.ts';

interface Given {
  world: World;
  snapshot: Snapshot;
  dir: string;
}

async function prepare(t: TestContext): Promise<Given> {
  const dir = await scratch(t);
  const world = await createWorld(dir, createMemoryStore());
  await writeTree(world.source, sampleTree());
  await world.snapshot();
  return { world, snapshot: await newestSnapshot(world), dir };
}

/** The store, with the first so many reads of what has such a key damaged on their way. */
function damaging(
  store: ObjectStore,
  key: RegExp,
  times: number,
): { store: ObjectStore; reads: () => number } {
  let reads = 0;
  return {
    reads: () => reads,
    store: {
      ...store,
      async read(name, options) {
        const data = await store.read(name, options);
        if (!key.test(name)) return data;
        reads += 1;
        if (reads > times) return data;
        // In turn: half of the bytes, and those of something else.
        const half = data.bytes.subarray(0, data.bytes.length >> 1);
        const other = Buffer.alloc(data.bytes.length, '{"presync":');
        return { ...data, bytes: Uint8Array.from(reads % 2 === 1 ? half : other) };
      },
    },
  };
}

interface Case {
  what: string;
  key: RegExp;
  code: ErrorCode;
  read: (repository: Repository, given: Given) => Promise<unknown>;
}

const CASES: Case[] = [
  {
    what: 'the repository',
    key: /^presync\.json$/,
    code: 'FORMAT_INVALID',
    read: ({ store }) => openRepository(store, { signal: NEVER }),
  },
  {
    what: 'the pointer',
    key: /latest\.json$/,
    code: 'FORMAT_INVALID',
    read: (repository) => readLatest(repository, CHANNEL, { signal: NEVER }),
  },
  {
    what: 'the manifest',
    key: /manifest\.json$/,
    code: 'MANIFEST_CORRUPT',
    read: (repository, { world }) => newestSnapshot({ ...world, repository }),
  },
  {
    what: 'the index',
    key: /index\.zst$/,
    code: 'INDEX_CORRUPT',
    read: (repository, { snapshot, dir }) =>
      downloadIndex(repository, snapshot.manifest, join(dir, 'index.zst'), { signal: NEVER }),
  },
];

describe('what comes damaged', () => {
  for (const { what, key, code, read } of CASES) {
    it(`${what} is read again, and counts as ${code} after four times`, async (t) => {
      const given = await prepare(t);
      const { repository } = given.world;
      const mended = damaging(repository.store, key, 3);
      await read({ ...repository, store: mended.store }, given);
      assert.equal(mended.reads(), 4);
      const lost = damaging(repository.store, key, 4);
      await assert.rejects(read({ ...repository, store: lost.store }, given), { code });
      assert.equal(lost.reads(), 4);
    });
  }

  it('a chunk that is there already is read again before it counts as damaged', async (t) => {
    const { world, snapshot, dir } = await prepare(t);
    const { repository } = world;
    const [chunk = ''] = await neededChunks(repository, snapshot.manifest, join(dir, 'index.zst'));
    // A new channel knows no chunks, and so finds all of them there.
    const other = { channel: 'test/other', prove: 'none' } as const;
    const mended = damaging(repository.store, new RegExp(chunk), 3);
    await world.snapshot({ ...other, repository: { ...repository, store: mended.store } });
    assert.equal(mended.reads(), 4);
    const lost = damaging(repository.store, new RegExp(chunk), 4);
    await assert.rejects(
      world.snapshot({
        ...other,
        channel: 'test/third',
        repository: { ...repository, store: lost.store },
        stateDir: join(dir, 'third'),
      }),
      (error) => isPresyncError(error, 'CHUNK_CORRUPT') && error.message.includes(chunk),
    );
  });

  it('what is absent, or of another chain, is not read again', async (t) => {
    const { world } = await prepare(t);
    const { repository, key } = world;
    const counting = damaging(repository.store, /./, 0);
    const store = counting.store;
    await assert.rejects(openRepository(createMemoryStore(), { signal: NEVER }), {
      code: 'REPOSITORY_NOT_FOUND',
    });
    assert.equal(await readLatest({ ...repository, store }, 'test/none', { signal: NEVER }), undefined);
    const genesisHash = `0x${'22'.repeat(32)}`;
    const foreign = resolveSnapshot(
      { ...repository, store },
      { channel: CHANNEL, snapshot: 1, trusted: [key], genesisHash, signal: NEVER },
    );
    await assert.rejects(foreign, { code: 'MANIFEST_FOREIGN' });
    assert.equal(counting.reads(), 1);
  });

  it('a signal ends the wait', async (t) => {
    const { world } = await prepare(t);
    const { repository } = world;
    const stop = new AbortController();
    const always = damaging(repository.store, /latest\.json$/, 100);
    const reading = readLatest({ ...repository, store: always.store }, CHANNEL, { signal: stop.signal });
    setTimeout(() => stop.abort(), 10);
    await assert.rejects(reading, { code: 'ABORTED' });
    assert.ok(always.reads() < 4);
  });
});
