import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { encodeDocument } from '@presync/format/documents';
import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import { createFileStore } from '@presync/store/file';
import type { ObjectStore } from '@presync/store/object-store';
import { openRepository, readLatest } from '../src/repository.ts';
import type { UploadResult } from '../src/snapshot.ts';
import { verifyRepository } from '../src/verify-repository.ts';
import {
  assertRestoresNewest,
  CHANNEL,
  createWorld,
  NEVER,
  readTree,
  sampleTree,
  scratch,
  type World,
  writeTree,
} from './support.ts';

const PUBLISHERS = 20;

interface Place {
  dir: string;
  storeDir: string;
  store: ObjectStore;
  world: World;
}

async function place(t: Parameters<typeof scratch>[0]): Promise<Place> {
  const dir = await scratch(t);
  const storeDir = join(dir, 'store');
  const store = createFileStore({ dir: storeDir });
  const world = await createWorld(dir, store);
  await writeTree(world.source, sampleTree());
  return { dir, storeDir, store, world };
}

async function assertSound({ dir, store, world }: Place, except: readonly string[] = []): Promise<void> {
  const repository = await openRepository(store, { signal: NEVER });
  const { problems } = await verifyRepository({
    repository,
    trusted: [world.key],
    seenOf: async () => undefined,
    scope: 'full',
    scratchDir: dir,
    signal: NEVER,
  });
  assert.deepEqual(
    problems.filter(({ object }) => !except.includes(object)),
    [],
  );
}

/** The store, with one method replaced. */
function altered(store: ObjectStore, put: (next: ObjectStore['put']) => ObjectStore['put']): ObjectStore {
  return { ...store, put: put(store.put.bind(store)) };
}

describe('publishing', () => {
  it(`${PUBLISHERS} at once: one winner a number, and latest never goes back`, async (t) => {
    const here = await place(t);
    const { world, storeDir, dir } = here;
    const pointers: number[] = [];
    let watching = true;
    const watch = (async () => {
      while (watching) {
        const latest = await readLatest(world.repository, CHANNEL, { signal: NEVER });
        if (latest !== undefined) pointers.push(latest.document.sequence);
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    })();
    const results: UploadResult[] = await Promise.all(
      Array.from({ length: PUBLISHERS }, (_, number) =>
        world.snapshot({
          stateDir: join(dir, `state-${number}`),
          prove: number % 2 === 0 ? 'none' : 'sample',
        }),
      ),
    );
    watching = false;
    await watch;
    const sequences = results.map(({ manifest }) => manifest.sequence).sort((a, b) => a - b);
    assert.deepEqual(
      sequences,
      Array.from({ length: PUBLISHERS }, (_, number) => number + 1),
    );
    assert.deepEqual(
      pointers,
      pointers.toSorted((a, b) => a - b),
      'latest went back',
    );
    const latest = await readLatest(world.repository, CHANNEL, { signal: NEVER });
    assert.equal(latest?.document.sequence, PUBLISHERS);
    for (const { manifest, manifestSha256, promoted } of results) {
      if (manifest.sequence === PUBLISHERS)
        assert.deepEqual([promoted, latest.document.manifest.sha256], [true, manifestSha256]);
    }
    assert.deepEqual(await readdir(join(storeDir, 'leases'), { recursive: true }).catch(() => []), []);
    await assertSound(here);
    await assertRestoresNewest(here.world, join(here.dir, 'target'));
  });

  it('steps over a publisher that was killed between index and manifest', async (t) => {
    const here = await place(t);
    const { world, storeDir, store } = here;
    await world.snapshot();
    const stopped = altered(store, (put) => async (key, body, options) => {
      if (key.endsWith('manifest.json')) throw new Error('killed');
      return put(key, body, options);
    });
    await assert.rejects(world.snapshot({ repository: { ...world.repository, store: stopped } }), /killed/);
    assert.deepEqual(await readdir(join(storeDir, 'snapshots', CHANNEL, '2')), ['index.zst', 'proof.json']);
    const next = await world.snapshot();
    assert.deepEqual([next.manifest.sequence, next.manifest.previous?.sequence, next.promoted], [3, 1, true]);
    await assertSound(here);
    await assertRestoresNewest(here.world, join(here.dir, 'target'));
  });

  it('steps over a publisher that was killed between manifest and latest', async (t) => {
    const here = await place(t);
    const { world, store } = here;
    await world.snapshot();
    const stopped = altered(store, (put) => async (key, body, options) => {
      if (key.endsWith('latest.json')) throw new Error('killed');
      return put(key, body, options);
    });
    await assert.rejects(world.snapshot({ repository: { ...world.repository, store: stopped } }), /killed/);
    assert.equal((await readLatest(world.repository, CHANNEL, { signal: NEVER }))?.document.sequence, 1);
    const next = await world.snapshot();
    assert.deepEqual([next.manifest.sequence, next.manifest.previous?.sequence, next.promoted], [3, 1, true]);
    await assertSound(here);
    await assertRestoresNewest(here.world, join(here.dir, 'target'));
  });

  it('killed while chunks are put leaves nothing that is named', async (t) => {
    const here = await place(t);
    const { world, store, storeDir } = here;
    let puts = 0;
    const stopped = altered(store, (put) => async (key, body, options) => {
      if (key.startsWith('chunks/')) puts += 1;
      if (puts > 3) throw new Error('killed');
      return put(key, body, options);
    });
    await assert.rejects(world.snapshot({ repository: { ...world.repository, store: stopped } }), /killed/);
    assert.ok(!(await readdir(storeDir)).includes('snapshots'));
    assert.deepEqual(await readdir(world.stateDir), []);
    await world.snapshot();
    await assertRestoresNewest(here.world, join(here.dir, 'target'));
  });

  it('goes on after the newest snapshot lost its index, or its index was changed', async (t) => {
    const here = await place(t);
    const { world, storeDir } = here;
    const damages: ((path: string) => Promise<void>)[] = [
      (path) => rm(path),
      (path) => writeFile(path, 'rubbish'),
      async (path) => {
        const bytes = await readFile(path);
        bytes[20] = (bytes[20] ?? 0) ^ 1;
        await writeFile(path, bytes);
      },
    ];
    const damaged: string[] = [];
    for (const damage of damages) {
      const { manifest } = await world.snapshot();
      await damage(join(storeDir, 'snapshots', CHANNEL, String(manifest.sequence), 'index.zst'));
      damaged.push(`index of ${CHANNEL}#${manifest.sequence}`);
      const events: string[] = [];
      await writeTree(world.source, { '000060.sst': randomBytes(1000) });
      const next = await world.snapshot({ onEvent: (event) => events.push(event) });
      assert.equal(next.promoted, true);
      assert.ok(events.includes('snapshot.previous_unusable'));
    }
    await assertSound(here, damaged);
    await assertRestoresNewest(here.world, join(here.dir, 'target'));
  });

  it('does not build upon a newest snapshot that another key signed', async (t) => {
    const here = await place(t);
    const { world } = here;
    await world.snapshot({ keys: [] });
    const events: string[] = [];
    const next = await world.snapshot({ onEvent: (event) => events.push(event) });
    assert.ok(events.includes('snapshot.previous_unusable'));
    // Zeros that were read once in this run are known by then, so that some of the sparse file need not be read.
    const { '000004.sst': _, ...others } = await readTree(world.source);
    const least = Object.values(others).reduce((sum, { length }) => sum + length, 0);
    assert.ok(
      next.readBytes >= least,
      `${next.readBytes} bytes were read, so files were taken as known from a snapshot that nobody trusted signed`,
    );
  });

  for (const [what, content] of [
    ['rubbish', async () => Buffer.from('rubbish')],
    ['another chunk', async (path: string) => readFile(path)],
    ['nothing', async () => Buffer.alloc(0)],
    ['more than it may', async () => randomBytes(1_000_000)],
  ] as const) {
    it(`an object under a chunk's name that holds ${what} is CHUNK_CORRUPT, and nothing is published`, async (t) => {
      const here = await place(t);
      const { world, storeDir } = here;
      await world.snapshot();
      const latest = await readFile(join(storeDir, 'channels', CHANNEL, 'latest.json'));
      const chunks = (await readdir(join(storeDir, 'chunks'), { recursive: true }))
        .filter((name) => name.length > 60)
        .sort();
      const [victim = '', other = ''] = chunks;
      await writeFile(join(storeDir, 'chunks', victim), await content(join(storeDir, 'chunks', other)));
      // Whoever knows the last snapshot does not put the chunk again; one who begins a channel does.
      await assert.rejects(
        world.snapshot({ channel: 'test/other', stateDir: join(here.dir, 'state-2') }),
        (error) => isPresyncError(error, 'CHUNK_CORRUPT') && error.message.includes(victim.slice(-64)),
      );
      assert.ok(!(await readdir(join(storeDir, 'snapshots/test'))).includes('other'));
      assert.deepEqual(await readFile(join(storeDir, 'channels', CHANNEL, 'latest.json')), latest);
    });
  }

  for (const prove of ['sample', 'full'] as const) {
    for (const [what, lose] of [
      ['loses a chunk', true],
      ['changes a chunk', false],
    ] as const) {
      it(`a store that ${what} after the put is found out by prove ${prove}, and latest does not move`, async (t) => {
        const here = await place(t);
        const { world, store, storeDir } = here;
        let chunk = '';
        const faulty = altered(store, (put) => async (key, body, options) => {
          const result = await put(key, body, options);
          if (key.startsWith('chunks/')) chunk = join(storeDir, key);
          if (!key.endsWith('manifest.json')) return result;
          if (lose) await rm(chunk);
          else {
            const bytes = await readFile(chunk);
            bytes[bytes.length - 6] = (bytes[bytes.length - 6] ?? 0) ^ 4;
            await writeFile(chunk, bytes);
          }
          return result;
        });
        // Few enough chunks that a sample is all of them.
        await assert.rejects(
          world.snapshot({ repository: { ...world.repository, store: faulty }, prove }),
          (error) =>
            isPresyncError(error, lose ? 'CHUNK_MISSING' : 'CHUNK_CORRUPT') &&
            error.message.includes(`${CHANNEL}#1 was not promoted`),
        );
        assert.equal(await readLatest(world.repository, CHANNEL, { signal: NEVER }), undefined);
      });
    }
  }

  for (const object of ['chunks/', 'index.zst']) {
    it(`what the store says it has taken, and has not (${object}), is named by no manifest`, async (t) => {
      const { world, store, storeDir } = await place(t);
      let lost = '';
      const faulty = altered(store, (put) => async (key, body, options) => {
        const result = await put(key, body, options);
        if (lost === '' && key.includes(object)) {
          lost = key;
          await rm(join(storeDir, key));
        }
        return result;
      });
      await assert.rejects(
        world.snapshot({ repository: { ...world.repository, store: faulty }, prove: 'none' }),
        (error) => isPresyncError(error, 'CONTENT_MISMATCH') && error.message.includes(lost),
      );
      const names = await readdir(storeDir, { recursive: true });
      assert.deepEqual(
        names.filter((name) => /manifest|latest/.test(name)),
        [],
      );
    });
  }

  it('a store that gives back another manifest than it was given is found out', async (t) => {
    const here = await place(t);
    const { world, store, storeDir } = here;
    const faulty = altered(store, (put) => async (key, body, options) => {
      const result = await put(key, body, options);
      if (key.endsWith('manifest.json')) {
        const text = await readFile(join(storeDir, key), 'utf8');
        await writeFile(join(storeDir, key), encodeDocument({ ...JSON.parse(text), signatures: [] }));
      }
      return result;
    });
    await assert.rejects(world.snapshot({ repository: { ...world.repository, store: faulty } }), (error) =>
      isPresyncError(error, 'MANIFEST_UNSIGNED'),
    );
    assert.equal(await readLatest(world.repository, CHANNEL, { signal: NEVER }), undefined);
  });

  it('a chunk that is said to be there, and is not, is put again', async (t) => {
    const here = await place(t);
    const { world, store } = here;
    const lying = (times: number): { store: ObjectStore; lies: () => number } => {
      const told = new Map<string, number>();
      return {
        lies: () => [...told.values()].reduce((sum, count) => sum + count, 0),
        store: altered(store, (next) => async (key, body, options) => {
          const before = told.get(key) ?? 0;
          if (!key.startsWith('chunks/') || before >= times) return next(key, body, options);
          told.set(key, before + 1);
          throw new PresyncError('CONDITION_FAILED', `${key} is there already`);
        }),
      };
    };
    const lost = lying(3);
    await assert.rejects(world.snapshot({ repository: { ...world.repository, store: lost.store } }), {
      code: 'OBJECT_NOT_FOUND',
    });
    const mended = lying(2);
    const { manifest } = await world.snapshot({ repository: { ...world.repository, store: mended.store } });
    assert.ok(mended.lies() > 2 && manifest.totals.added > 0);
    await assertSound(here);
    await assertRestoresNewest(world, join(here.dir, 'target'));
  });
});
