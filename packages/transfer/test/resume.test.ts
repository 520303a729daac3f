import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import { createFileStore } from '@presync/store/file';
import type { ObjectStore } from '@presync/store/object-store';
import { seededRandom } from '../../../test/support/corruption.ts';
import { openRepository, type Repository, resolveSnapshot } from '../src/repository.ts';
import { interruptedRestore, type RestoreResult, restoreSnapshot } from '../src/restore.ts';
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

const CONCURRENCY = 3;

/** The store, which fails every read of a chunk after the first `count`. */
function failingAfter(store: ObjectStore, count: number, onFailure?: () => void): ObjectStore {
  let reads = 0;
  return {
    ...store,
    async read(key, options) {
      if (key.startsWith('chunks/')) {
        reads += 1;
        if (reads > count) {
          onFailure?.();
          throw new PresyncError('STORE_UNREACHABLE', `no answer for ${key}`);
        }
      }
      return store.read(key, options);
    },
  };
}

async function restore(
  repository: Repository,
  basePath: string,
  signal = NEVER,
  existing?: 'reuse' | 'replace',
): Promise<RestoreResult> {
  const snapshot = await resolveSnapshot(repository, {
    channel: CHANNEL,
    snapshot: 'latest',
    trusted: 'anybody',
    signal: NEVER,
  });
  return restoreSnapshot({
    repository,
    snapshot,
    basePath,
    existing,
    concurrency: CONCURRENCY,
    assertFile: () => {},
    signal,
  });
}

/** Nothing that a node takes for a database: not in its place, and not in the stage. */
async function assertNoDatabase(basePath: string): Promise<void> {
  const names = await readdir(basePath, { recursive: true }).catch(() => []);
  const seals = names.filter((name) => /(^|\/)(CURRENT|metadata)$/.test(name));
  assert.deepEqual(seals, []);
  assert.ok(!names.some((name) => name.startsWith(PART)), 'the database folder is there before its time');
}

async function assertComplete(world: World, basePath: string): Promise<void> {
  assert.deepEqual(await readTree(join(basePath, PART)), await readTree(world.source));
  assert.deepEqual(await readdir(join(basePath, 'chains/test/db')), ['full']);
  assert.equal(await interruptedRestore(basePath, PART), undefined);
}

async function bigWorld(
  t: Parameters<typeof scratch>[0],
): Promise<{ world: World; dir: string; store: ObjectStore; total: number }> {
  const dir = await scratch(t);
  const store = createFileStore({ dir: join(dir, 'store') });
  const world = await createWorld(dir, store);
  await writeTree(world.source, { ...sampleTree(), '000020.sst': randomBytes(900_000) });
  await world.snapshot();
  const whole = await restore(world.repository, join(dir, 'whole'));
  return { world, dir, store, total: whole.fetchedChunks };
}

describe('a restore that is interrupted', () => {
  it('by a failing store goes on where it was, at whatever chunk it was', async (t) => {
    const { world, dir, store, total } = await bigWorld(t);
    assert.ok(total > 20);
    for (let count = 0; count < total; count++) {
      const basePath = join(dir, `target-${count}`);
      const failing = await openRepository(failingAfter(store, count), { signal: NEVER });
      await assert.rejects(restore(failing, basePath), (error) => isPresyncError(error, 'STORE_UNREACHABLE'));
      await assertNoDatabase(basePath);
      const again = await restore(world.repository, basePath);
      // What had been read when the failure came was either put in place or in flight.
      assert.ok(
        again.fetchedChunks <= total - count + CONCURRENCY,
        `${again.fetchedChunks} of ${total} after ${count}`,
      );
      assert.ok(again.fetchedChunks >= total - count, `${again.fetchedChunks} of ${total} after ${count}`);
      await assertComplete(world, basePath);
      await rm(basePath, { recursive: true });
    }
  });

  it('by an abort stops promptly and resumes', async (t) => {
    const { world, dir, store } = await bigWorld(t);
    const basePath = join(dir, 'target');
    const stop = new AbortController();
    const repository = await openRepository(
      failingAfter(store, 7, () => stop.abort(new PresyncError('ABORTED', 'enough'))),
      { signal: NEVER },
    );
    await assert.rejects(restore(repository, basePath, stop.signal), (error) => isPresyncError(error));
    await assertNoDatabase(basePath);
    assert.equal((await interruptedRestore(basePath, PART))?.sequence, 1);
    const again = await restore(world.repository, basePath);
    assert.ok(again.resumedChunks > 0);
    await assertComplete(world, basePath);
  });

  it('many times in a row ends well, fetching each chunk about once', async (t) => {
    const { world, dir, store, total } = await bigWorld(t);
    const basePath = join(dir, 'target');
    let attempts = 0;
    for (;;) {
      attempts += 1;
      const repository = await openRepository(failingAfter(store, CONCURRENCY + 2), { signal: NEVER });
      try {
        await restore(repository, basePath);
        break;
      } catch (error) {
        assert.ok(isPresyncError(error, 'STORE_UNREACHABLE'));
      }
      await assertNoDatabase(basePath);
      assert.ok(attempts <= total, 'it makes no headway');
    }
    assert.ok(attempts > 2);
    await assertComplete(world, basePath);
  });

  it('with wrong bytes in the stage: each chunk is proved again', async (t) => {
    const { world, dir, store, total } = await bigWorld(t);
    const basePath = join(dir, 'target');
    const repository = await openRepository(failingAfter(store, total - 2), { signal: NEVER });
    await assert.rejects(restore(repository, basePath));
    const stage = join(basePath, 'chains/test/db/.presync/restore-full');
    const { open } = await import('node:fs/promises');
    for (const name of (await readdir(stage)).filter((file) => file.endsWith('.sst'))) {
      const handle = await open(join(stage, name), 'r+');
      await handle.write(Buffer.from('damage'), 0, 6, 300);
      await handle.close();
    }
    await restore(world.repository, basePath);
    await assertComplete(world, basePath);
  });

  it('over an older database leaves that one whole until the new one is', async (t) => {
    const { world, dir, store } = await bigWorld(t);
    const basePath = join(dir, 'target');
    await restore(world.repository, basePath);
    const old: Tree = await readTree(join(basePath, PART));
    await writeTree(world.source, { '000030.sst': randomBytes(500_000), IDENTITY: Buffer.from('newer') });
    await world.snapshot();
    for (const existing of ['reuse', 'replace'] as const) {
      for (const count of [0, 1, 4]) {
        const failing = await openRepository(failingAfter(store, count), { signal: NEVER });
        await assert.rejects(restore(failing, basePath, NEVER, existing));
        assert.deepEqual(await readTree(join(basePath, PART)), old);
      }
    }
    await restore(world.repository, basePath, NEVER, 'reuse');
    await assertComplete(world, basePath);
  });

  it('for another, newer snapshot takes over what the stage has', async (t) => {
    const { world, dir, store, total } = await bigWorld(t);
    const basePath = join(dir, 'target');
    await assert.rejects(
      restore(await openRepository(failingAfter(store, total - 1), { signal: NEVER }), basePath),
    );
    await writeTree(world.source, { '000030.sst': randomBytes(100_000) });
    await world.snapshot();
    const result = await restore(world.repository, basePath);
    assert.ok(result.fetchedChunks < total / 2, `${result.fetchedChunks} of ${total} fetched`);
    await assertComplete(world, basePath);
  });

  it('by SIGKILL at random instants leaves no half database, and ends well', async (t) => {
    const { world, dir } = await bigWorld(t);
    const basePath = join(dir, 'target');
    const program = join(import.meta.dirname, 'programs/restore.ts');
    const random = seededRandom(20_261_125);
    let killed = 0;
    for (let round = 0; round < 12; round++) {
      const child = spawn(process.execPath, [program, join(dir, 'store'), basePath, '10'], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const ended = once(child, 'exit');
      // From the first chunk on, for about as long as the rest takes.
      await Promise.race([once(child.stdout, 'data'), ended]);
      child.stdout.resume();
      await sleep(random() * 200);
      child.kill('SIGKILL');
      const [, signal] = await ended;
      if (signal === 'SIGKILL') killed += 1;
      else {
        await assertComplete(world, basePath);
        await rm(basePath, { recursive: true });
        continue;
      }
      const names = await readdir(basePath, { recursive: true });
      // Either nothing has the database's name, or all of it is there.
      if (names.some((name) => name === `${PART}/CURRENT`))
        assert.deepEqual(await readTree(join(basePath, PART)), await readTree(world.source));
      else assert.ok(!names.includes(PART));
    }
    assert.ok(killed > 0);
    await restore(world.repository, basePath, NEVER, 'replace');
    await assertComplete(world, basePath);
  });
});
