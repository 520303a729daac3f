import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import { createFileStore } from '@presync/store/file';
import { corruptRepository, seededRandom } from '../../../test/support/corruption.ts';
import { openRepository, resolveSnapshot } from '../src/repository.ts';
import { restoreSnapshot } from '../src/restore.ts';
import { verifyRepository } from '../src/verify-repository.ts';
import { CHANNEL, createWorld, NEVER, neededChunks, sampleTree, scratch, writeTree } from './support.ts';

const RUNS = 60;

describe('a damaged repository', () => {
  it(`is detected, and the damage named, by verify and by restore (${RUNS} random corruptions)`, async (t) => {
    const dir = await scratch(t);
    const storeDir = join(dir, 'store');
    const store = createFileStore({ dir: storeDir });
    const world = await createWorld(dir, store);
    for (let round = 0; round < 3; round++) {
      await writeTree(world.source, {
        ...sampleTree(),
        [`00001${round}.sst`]: Buffer.alloc(50_000, `round ${round}`),
      });
      await world.snapshot();
    }
    const { sha256, manifest } = await resolveSnapshot(world.repository, {
      channel: CHANNEL,
      snapshot: 'latest',
      trusted: [world.key],
      signal: NEVER,
    });
    const seen = { sequence: manifest.sequence, sha256 };
    const random = seededRandom(20_261_124);
    const chunks = await neededChunks(world.repository, manifest, join(dir, 'index'));

    async function verify(): Promise<string[]> {
      try {
        const repository = await openRepository(store, { signal: NEVER });
        const { problems } = await verifyRepository({
          repository,
          trusted: [world.key],
          seenOf: async () => seen,
          scope: 'full',
          scratchDir: dir,
          signal: NEVER,
        });
        return problems.map((problem) => `${problem.object} ${problem.message}`);
      } catch (error) {
        assert.ok(isPresyncError(error), `not a PresyncError: ${error}`);
        return [error.message];
      }
    }
    async function restore(n: number): Promise<string | undefined> {
      try {
        const repository = await openRepository(store, { signal: NEVER });
        const snapshot = await resolveSnapshot(repository, {
          channel: CHANNEL,
          snapshot: 'latest',
          trusted: [world.key],
          seen,
          signal: NEVER,
        });
        await restoreSnapshot({
          repository,
          snapshot,
          basePath: join(dir, `target-${n}`),
          assertFile: () => {},
          signal: NEVER,
        });
        return undefined;
      } catch (error) {
        assert.ok(isPresyncError(error), `not a PresyncError: ${error}`);
        return error.message;
      }
    }

    assert.deepEqual(await verify(), []);
    assert.equal(await restore(0), undefined);
    for (let run = 1; run <= RUNS; run++) {
      const damage = await corruptRepository({
        storeDir,
        channel: CHANNEL,
        sequence: manifest.sequence,
        chunks,
        random,
      });
      const problems = await verify();
      assert.ok(
        problems.some((problem) => damage.names.some((name) => problem.includes(name))),
        `verify missed: ${damage.what}; it said: ${problems.join(' | ')}`,
      );
      const message = await restore(run);
      assert.ok(
        message !== undefined && damage.names.some((name) => message.includes(name)),
        `restore missed: ${damage.what}; it said: ${message}`,
      );
      await damage.undo();
    }
    assert.deepEqual(await verify(), []);
  });
});
