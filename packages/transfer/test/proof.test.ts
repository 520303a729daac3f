import assert from 'node:assert/strict';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { encodeDocument, type ProofDocument, parseProof } from '@presync/format/documents';
import { repositoryKeys } from '@presync/format/paths';
import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import { createFileStore } from '@presync/store/file';
import type { ObjectStore } from '@presync/store/object-store';
import { assertNotQuarantined, quarantineOf, readProof } from '../src/proof.ts';
import { readLatest, resolveSnapshot } from '../src/repository.ts';
import type { FurtherProof } from '../src/snapshot.ts';
import { verifyRepository } from '../src/verify-repository.ts';
import { CHANNEL, createWorld, NEVER, sampleTree, scratch, type World, writeTree } from './support.ts';

interface Place {
  world: World;
  storeDir: string;
  store: ObjectStore;
  proof(sequence: number): Promise<ProofDocument>;
  newest(): Promise<number | undefined>;
  /** Throws when a restore by number would be refused. */
  use(sequence: number): Promise<void>;
}

async function place(t: TestContext): Promise<Place> {
  const dir = await scratch(t);
  const storeDir = join(dir, 'store');
  const store = createFileStore({ dir: storeDir });
  const world = await createWorld(dir, store);
  await writeTree(world.source, sampleTree());
  const { repository, key } = world;
  return {
    world,
    storeDir,
    store,
    proof: async (sequence) =>
      parseProof(await readFile(join(storeDir, repositoryKeys.proof(CHANNEL, sequence))), 'the proof'),
    newest: async () => (await readLatest(repository, CHANNEL, { signal: NEVER }))?.document.sequence,
    use: async (sequence) => {
      const options = { channel: CHANNEL, snapshot: sequence, trusted: [key], signal: NEVER };
      await assertNotQuarantined(repository, await resolveSnapshot(repository, options), { signal: NEVER });
    },
  };
}

const quarantined =
  (why: RegExp) =>
  (error: unknown): boolean =>
    isPresyncError(error, 'SNAPSHOT_QUARANTINED') && error.exitCode === 4 && why.test(error.message);

const failing = (error: Error): FurtherProof => ({
  checks: ['restore', 'node'],
  run: async () => {
    throw error;
  },
});

describe('a proof', () => {
  it('that is passed lets latest move, and says what it consisted of', async (t) => {
    const { world, proof, newest, use } = await place(t);
    const states: (string | undefined)[] = [];
    const { manifestSha256 } = await world.snapshot({
      proof: {
        checks: ['restore'],
        run: async (snapshot) => {
          states.push((await proof(snapshot.manifest.sequence)).state);
          // Nobody takes it for proved yet, and it is not the newest.
          await assert.rejects(use(1), quarantined(/has not ended/));
          states.push(String(await newest()));
        },
      },
    });
    assert.deepEqual(states, ['pending', 'undefined']);
    const { state, checks, failure, manifest } = await proof(1);
    assert.deepEqual(
      [state, checks, failure, manifest.sha256],
      ['passed', ['sample', 'restore'], null, manifestSha256],
    );
    assert.equal(await newest(), 1);
    await use(1);
  });

  it('that fails leaves the snapshot in quarantine with its reason, and the next one is taken as ever', async (t) => {
    const { world, proof, newest, use } = await place(t);
    await world.snapshot();
    const events: string[] = [];
    const why = new PresyncError('PROOF_FAILED', 'the node shows another block', { hint: 'look at it' });
    await assert.rejects(
      world.snapshot({ proof: failing(why), onEvent: (event) => events.push(event) }),
      (error) =>
        isPresyncError(error, 'PROOF_FAILED') &&
        error.exitCode === 4 &&
        error.message === `${CHANNEL}#2 was not promoted: the node shows another block`,
    );
    assert.deepEqual(events, ['snapshot.published', 'snapshot.quarantined']);
    assert.equal(await newest(), 1);
    const { state, failure } = await proof(2);
    assert.deepEqual([state, failure?.code], ['failed', 'PROOF_FAILED']);
    await assert.rejects(use(2), quarantined(/PROOF_FAILED: the node shows another block/));
    await use(1);
    // That it is not the newest is as it should be.
    const verified = await verifyRepository({
      repository: world.repository,
      trusted: [world.key],
      seenOf: async () => undefined,
      scope: 'sample',
      scratchDir: join(world.dir, 'verify'),
      signal: NEVER,
    });
    assert.deepEqual(verified.problems, []);
    const next = await world.snapshot();
    assert.deepEqual([next.manifest.sequence, next.manifest.previous?.sequence, next.promoted], [3, 1, true]);
  });

  it('that could not be carried out is no judgement, and leaves the snapshot unproved', async (t) => {
    const { world, proof, newest, use } = await place(t);
    const room = new PresyncError('NO_SPACE', 'no room for the copy');
    await assert.rejects(world.snapshot({ proof: failing(room) }), (error) => error === room);
    assert.deepEqual([(await proof(1)).state, await newest()], ['pending', undefined]);
    await assert.rejects(use(1), quarantined(/has not ended/));
  });

  it('whose end cannot be written does not let latest move', async (t) => {
    for (const lost of ['refused', 'swallowed']) {
      const { world, store, proof, newest, use } = await place(t);
      const broken: ObjectStore = {
        ...store,
        put: async (key, body, options) => {
          if (
            key.endsWith('proof.json') &&
            options.condition !== undefined &&
            'ifVersion' in options.condition
          ) {
            if (lost === 'refused') throw new PresyncError('STORE_FAILED', 'no');
            return { version: 'made up' };
          }
          return store.put(key, body, options);
        },
      };
      await assert.rejects(world.snapshot({ repository: { ...world.repository, store: broken } }), (error) =>
        isPresyncError(error, lost === 'refused' ? 'STORE_FAILED' : 'CONTENT_MISMATCH'),
      );
      assert.deepEqual([(await proof(1)).state, await newest()], ['pending', undefined]);
      await assert.rejects(use(1), quarantined(/has not ended/));
    }
  });

  it('a reason that cannot be written is told, and the snapshot stays unproved', async (t) => {
    const { world, store, newest, use } = await place(t);
    const events: string[] = [];
    const broken: ObjectStore = {
      ...store,
      put: async (key, body, options) => {
        if (key.endsWith('proof.json') && options.condition !== undefined && 'ifVersion' in options.condition)
          throw new PresyncError('STORE_FAILED', 'no');
        return store.put(key, body, options);
      },
    };
    await assert.rejects(
      world.snapshot({
        repository: { ...world.repository, store: broken },
        proof: failing(new PresyncError('PROOF_FAILED', 'bad')),
        onEvent: (event) => events.push(event),
      }),
      (error) => isPresyncError(error, 'PROOF_FAILED'),
    );
    assert.ok(events.includes('snapshot.reason_not_kept'));
    assert.equal(await newest(), undefined);
    await assert.rejects(use(1), quarantined(/has not ended/));
  });

  it('that nobody wanted leaves no word, and such a snapshot may be used', async (t) => {
    const { world, use } = await place(t);
    await world.snapshot({ prove: 'none' });
    assert.equal(
      await readProof(world.repository, { channel: CHANNEL, sequence: 1, signal: NEVER }),
      undefined,
    );
    await use(1);
  });

  it('that was moved, changed, or belongs to another manifest is not believed', async (t) => {
    const { world, storeDir, proof, use } = await place(t);
    await world.snapshot();
    await world.snapshot();
    const path = join(storeDir, repositoryKeys.proof(CHANNEL, 2));
    const good = await proof(2);
    const forged = async (change: Partial<ProofDocument>): Promise<void> =>
      writeFile(path, encodeDocument({ ...good, ...change }));
    const damaged = async (): Promise<string[]> => {
      const { problems } = await verifyRepository({
        repository: world.repository,
        trusted: [world.key],
        seenOf: async () => undefined,
        scope: 'sample',
        scratchDir: join(world.dir, 'verify'),
        signal: NEVER,
      });
      return problems.map(({ object }) => object);
    };
    assert.deepEqual(await damaged(), []);
    const key = repositoryKeys.proof(CHANNEL, 2);
    await writeFile(path, encodeDocument(await proof(1)));
    await assert.rejects(use(2), (error) => isPresyncError(error, 'FORMAT_INVALID'));
    assert.deepEqual(await damaged(), [key]);
    await forged({ manifest: (await proof(1)).manifest });
    await assert.rejects(use(2), quarantined(/that of another manifest/));
    assert.deepEqual(await damaged(), [key]);
    await writeFile(path, '{}');
    await assert.rejects(use(2), (error) => isPresyncError(error, 'FORMAT_INVALID'));
    await forged({ version: 2 as 1 });
    await assert.rejects(use(2), (error) => isPresyncError(error, 'FORMAT_TOO_NEW'));
    await forged({});
    await use(2);
    await rm(path);
    await use(2);
  });

  it('says for people why a snapshot is in quarantine', () => {
    const manifest = { size: 1, sha256: '0'.repeat(64) };
    const changed = '2026-01-31T12:00:00.000Z';
    const failure = { code: 'PROOF_FAILED', reason: 'it ended' };
    const head = { presync: 'proof', version: 1, channel: CHANNEL, sequence: 1, manifest } as const;
    assert.equal(
      quarantineOf({ ...head, checks: [], state: 'failed', failure, changed }, manifest),
      `it failed its proof at ${changed}: PROOF_FAILED: it ended`,
    );
    assert.equal(quarantineOf(undefined, manifest), undefined);
  });
});
