/** Which snapshot is taken, and which one when that is not fit. */
import assert from 'node:assert/strict';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { encodeDocument } from '@presync/format/documents';
import type { Manifest } from '@presync/format/manifest';
import { repositoryKeys } from '@presync/format/paths';
import { generateKey } from '@presync/format/signature';
import { type ErrorCode, isPresyncError, PresyncError } from '@presync/runtime/errors';
import { createFileStore } from '@presync/store/file';
import { recordFailure } from '@presync/transfer/failed';
import { recordSeen } from '@presync/transfer/seen';
import {
  FORGED_CHANNEL,
  FORGED_PART,
  forgeSnapshot,
  pointAt,
  writeObject,
} from '../../../test/support/forge.ts';
import { type Choice, type ChooseOptions, createChoice } from '../src/choose-snapshot.ts';
import { createPlace, createTold, HOUR_MS, NEVER, type Place, sourcesOf } from './support.ts';

type Options = Partial<ChooseOptions>;

function choose({ store, stateDir, key }: Place, options: Options = {}): Choice {
  return createChoice({
    from: sourcesOf(store),
    snapshot: 'latest',
    trusted: [key],
    stateDir,
    log: createTold().log,
    signal: NEVER,
    ...options,
  });
}

/** The numbers that are offered one after the other, when each turns out to be no good; and the error at the end. */
async function walk(choice: Choice): Promise<{ taken: (number | 'warp')[]; error: ErrorCode }> {
  const taken: (number | 'warp')[] = [];
  for (;;) {
    try {
      const found = await choice.next();
      taken.push(found.kind === 'warp' ? 'warp' : found.snapshot.manifest.sequence);
      choice.pass(new PresyncError('CHUNK_MISSING', 'a chunk is missing'));
    } catch (error) {
      if (!isPresyncError(error)) throw error;
      return { taken, error: error.code };
    }
  }
}

async function first(place: Place, options: Options = {}): Promise<number | 'warp' | ErrorCode> {
  const { taken, error } = await walk(choose(place, options));
  return taken[0] ?? error;
}

const created = (hoursAgo: number, edit: (manifest: Manifest) => Manifest = (manifest) => manifest) => ({
  editManifest: (manifest: Manifest) =>
    edit({ ...manifest, created: new Date(Date.now() - hoursAgo * HOUR_MS).toISOString() }),
});

const holding = (anchor: number, head: number | null) => ({
  editManifest: (manifest: Manifest) => ({
    ...manifest,
    chain: {
      ...manifest.chain,
      anchor: { number: anchor, hash: `0x${'ab'.repeat(32)}` },
      head: head === null ? null : { number: head, hash: `0x${'cd'.repeat(32)}` },
    },
  }),
});

async function quarantine({ storeDir, forge }: Place, sequence: number): Promise<void> {
  const { sha256 } = await forge({ sequence, promote: false });
  const proof = {
    ...{ presync: 'proof', version: 1, channel: FORGED_CHANNEL, sequence, manifest: { size: 1, sha256 } },
    ...{ state: 'failed', checks: ['node'], failure: { code: 'PROOF_FAILED', reason: 'no anchor' } },
    changed: new Date().toISOString(),
  };
  await writeObject(storeDir, repositoryKeys.proof(FORGED_CHANNEL, sequence), encodeDocument(proof));
}

async function pin({ storeDir }: Place, sequence: number): Promise<void> {
  const document = { presync: 'pin', version: 1, channel: FORGED_CHANNEL, sequence };
  await writeObject(storeDir, repositoryKeys.pin(FORGED_CHANNEL, sequence), encodeDocument(document));
}

describe('the newest snapshot that is fit', () => {
  const OLDER: Options = { fallback: ['older', 'fail'] };
  const unfit: Record<string, [ErrorCode, (t: TestContext, place: Place) => Promise<unknown>, Options?]> = {
    'has expired': [
      'MANIFEST_EXPIRED',
      (_, { forge }) =>
        forge({
          sequence: 3,
          ...created(2, (manifest) => ({ ...manifest, expires: new Date(Date.now() - 1).toISOString() })),
        }),
    ],
    'is signed by a stranger': [
      'MANIFEST_UNTRUSTED',
      (_, { forge }) => forge({ sequence: 3, keys: [generateKey()] }),
    ],
    'is of another backend': [
      'TARGET_BACKEND',
      (_, { forge }) =>
        forge({
          sequence: 3,
          editManifest: (manifest) => ({
            ...manifest,
            node: {
              ...manifest.node,
              parts: [
                {
                  ...{ role: 'main', backend: 'paritydb', path: 'chains/dev/paritydb/full' },
                  ...{ databaseVersion: '8', identity: 'x' },
                },
              ],
            },
          }),
        }),
      { backend: 'rocksdb' },
    ],
    'has a damaged manifest': [
      'MANIFEST_CORRUPT',
      async (_, { storeDir, forge }) => {
        await forge({ sequence: 3 });
        await writeFile(join(storeDir, repositoryKeys.manifest(FORGED_CHANNEL, 3)), '{}');
      },
    ],
    'has lost its manifest': [
      'MANIFEST_CORRUPT',
      async (_, { storeDir, forge }) => {
        await forge({ sequence: 3 });
        await rm(join(storeDir, repositoryKeys.manifest(FORGED_CHANNEL, 3)));
      },
    ],
    'is named by a damaged pointer': [
      'FORMAT_INVALID',
      async (_, { storeDir }) =>
        writeObject(storeDir, repositoryKeys.latest(FORGED_CHANNEL), Buffer.from('{')),
    ],
  };
  for (const [what, [code, spoil, options]] of Object.entries(unfit)) {
    it(`is an older one where the newest ${what}, if that is configured`, async (t) => {
      const place = await createPlace(t);
      await place.forge({ sequence: 1 });
      await place.forge({ sequence: 2 });
      await spoil(t, place);
      assert.equal(await first(place, options), code);
      assert.deepEqual(await walk(choose(place, { ...options, ...OLDER })), { taken: [2, 1], error: code });
    });
  }

  it('is none where the newest is too old: what is older is older still', async (t) => {
    const place = await createPlace(t);
    await place.forge({ sequence: 1, ...created(5) });
    await place.forge({ sequence: 2, ...created(3) });
    const told = createTold();
    const options = { ...OLDER, maxAgeMs: 2 * HOUR_MS, log: told.log };
    assert.deepEqual(await walk(choose(place, options)), { taken: [], error: 'SNAPSHOT_NOT_FOUND' });
    assert.equal(await first(place, { ...OLDER, maxAgeMs: 4 * HOUR_MS }), 2);
    assert.equal(told.events.filter((event) => event === 'restore.passed_over').length, 1);
  });

  it('passes over what is in quarantine, and what was never promoted', async (t) => {
    const place = await createPlace(t);
    await place.forge({ sequence: 1 });
    await quarantine(place, 2);
    await place.forge({ sequence: 3, ...created(0) });
    await place.forge({ sequence: 4, promote: false });
    assert.deepEqual((await walk(choose(place, OLDER))).taken, [3, 1]);
    // A pointer that tells nothing leaves proofs to tell what may be used.
    await writeObject(place.storeDir, repositoryKeys.latest(FORGED_CHANNEL), Buffer.from('{'));
    assert.deepEqual((await walk(choose(place, OLDER))).taken, [4, 3, 1]);
  });

  it('never goes back behind what this machine has accepted, except by name', async (t) => {
    const place = await createPlace(t);
    const manifests = [];
    for (const sequence of [1, 2, 3]) manifests.push(await place.forge({ sequence }));
    const repositoryId = manifests[0]?.manifest.repository.id ?? '';
    const seen = { sequence: 2, sha256: manifests[1]?.sha256 ?? '' };
    const { stateDir } = place;
    await recordSeen({ stateDir, repositoryId, channel: FORGED_CHANNEL }, seen, { signal: NEVER });
    assert.deepEqual((await walk(choose(place, OLDER))).taken, [3, 2]);
    // A pointer that was set back: what was seen is found again, and nothing before it.
    await pointAt(place.storeDir, 1);
    assert.equal(await first(place), 'MANIFEST_ROLLED_BACK');
    assert.deepEqual((await walk(choose(place, OLDER))).taken, [3, 2]);
    assert.deepEqual((await walk(choose(place, { snapshot: 1 }))).taken, [1]);
  });

  it('is found without a listing, number by number', async (t) => {
    const place = await createPlace(t);
    for (const sequence of [2, 9]) await place.forge({ sequence });
    const store = { ...place.store, traits: { writable: false, listable: false } };
    const from = sourcesOf(store);
    const options = { ...OLDER, channel: FORGED_CHANNEL, from };
    assert.deepEqual((await walk(choose(place, options))).taken, [9, 2]);
    assert.equal(await first(place, { ...options, snapshot: 'pinned' }), 'SNAPSHOT_NOT_FOUND');
  });

  it('is looked for in so many only', async (t) => {
    const place = await createPlace(t);
    for (let sequence = 1; sequence <= 40; sequence++)
      await place.forge({ sequence, ...(sequence > 1 ? { keys: [generateKey()] } : {}) });
    const choice = choose(place, OLDER);
    assert.deepEqual(await walk(choice), { taken: [], error: 'MANIFEST_UNTRUSTED' });
    assert.equal(choice.passed.length, 32);
  });
});

describe('a snapshot that is asked for', () => {
  it('as pinned is the newest of those, and an older one where that is configured', async (t) => {
    const place = await createPlace(t);
    for (const sequence of [1, 2, 3, 4]) await place.forge({ sequence });
    assert.equal(await first(place, { snapshot: 'pinned' }), 'SNAPSHOT_NOT_FOUND');
    await pin(place, 1);
    await pin(place, 3);
    assert.deepEqual((await walk(choose(place, { snapshot: 'pinned' }))).taken, [3]);
    const older = choose(place, { snapshot: 'pinned', fallback: ['older'] });
    assert.deepEqual((await walk(older)).taken, [3, 1]);
  });

  it('by its number falls back to what is older than that', async (t) => {
    const place = await createPlace(t);
    for (const sequence of [1, 2, 3]) await place.forge({ sequence });
    assert.deepEqual((await walk(choose(place, { snapshot: 2 }))).taken, [2]);
    assert.deepEqual((await walk(choose(place, { snapshot: 2, fallback: ['older'] }))).taken, [2, 1]);
  });

  it('by a block is the newest that can hold none above it', async (t) => {
    const place = await createPlace(t);
    await place.forge({ sequence: 1, ...holding(90, 100) });
    await place.forge({ sequence: 2, ...holding(190, 200) });
    await place.forge({ sequence: 3, ...holding(290, 300) });
    const taken = async (toBlock: number, more: Options = {}) =>
      (await walk(choose(place, { toBlock, ...more }))).taken;
    assert.deepEqual(await taken(300), [3]);
    assert.deepEqual(await taken(299), [2]);
    // The head is what the copy may hold: block 195 may be in it although 190 is all that is sure.
    assert.deepEqual(await taken(195), [1]);
    assert.deepEqual(await taken(299, { fallback: ['older'] }), [2, 1]);
    assert.equal(await first(place, { toBlock: 99 }), 'SNAPSHOT_NOT_FOUND');
    // What cannot be read may be the right one or not: it is passed over, loudly.
    await writeFile(join(place.storeDir, repositoryKeys.manifest(FORGED_CHANNEL, 2)), '{}');
    const told = createTold();
    assert.deepEqual(await taken(250, { log: told.log }), [1]);
    assert.match(told.lines.join('\n'), /restore\.passed_over: .*\/2\/manifest\.json/);
  });
});

describe('several channels', () => {
  const parity = (manifest: Manifest): Manifest => ({
    ...manifest,
    node: {
      ...manifest.node,
      parts: [
        {
          ...{ role: 'main', backend: 'paritydb' as const, path: 'chains/dev/paritydb/full' },
          ...{ databaseVersion: '8', identity: 'x' },
        },
      ],
    },
  });

  it('are no question where only one is for such a node', async (t) => {
    const place = await createPlace(t);
    await place.forge({ sequence: 1 });
    await place.forge({ sequence: 7, channel: 'dev/parity', editManifest: parity });
    assert.equal(await first(place), 'CONFIG_INVALID');
    assert.equal(await first(place, { backend: 'rocksdb' }), 1);
    assert.equal(await first(place, { backend: 'paritydb' }), 7);
    assert.equal(await first(place, { chain: 'polkadot' }), 'CHANNEL_NOT_FOUND');
    assert.equal(await first(place, { chain: 'dev' }), 'CONFIG_INVALID');
  });

  it('are one while one of them cannot be judged: none is taken in the stead of another that is damaged', async (t) => {
    const place = await createPlace(t);
    await place.forge({ sequence: 1 });
    await place.forge({ sequence: 7, channel: 'dev/parity', editManifest: parity });
    await writeFile(join(place.storeDir, repositoryKeys.manifest('dev/parity', 7)), '{}');
    assert.equal(await first(place, { backend: 'rocksdb' }), 'CONFIG_INVALID');
  });
});

describe('fall-backs', () => {
  /** A second store with a repository of its own, as a peer that offers its node's database. */
  async function peerOf(place: Place, sequence: number) {
    const storeDir = join(place.dir, 'peer');
    await forgeSnapshot({ storeDir, keys: [place.key], sequence });
    return createFileStore({ dir: storeDir });
  }

  it('come in the order in which they are configured', async (t) => {
    const place = await createPlace(t);
    for (const sequence of [1, 2]) await place.forge({ sequence });
    const stores = [place.store, await peerOf(place, 77)] as const;
    const road = async (...fallback: NonNullable<Options['fallback']>) =>
      (await walk(choose(place, { from: sourcesOf(...stores), fallback }))).taken;
    assert.deepEqual(await road(), [2]);
    assert.deepEqual(await road('fail'), [2]);
    assert.deepEqual(await road('older', 'peer', 'warp'), [2, 1, 77, 'warp']);
    assert.deepEqual(await road('peer', 'older', 'fail'), [2, 77, 1]);
    assert.deepEqual(await road('warp', 'fail'), [2, 'warp']);
  });

  it('to a peer have chunks read from there, and from nowhere else', async (t) => {
    const place = await createPlace(t);
    await place.forge({ sequence: 1 });
    const peer = await peerOf(place, 77);
    const from = sourcesOf(place.store, peer);
    const choice = choose(place, { from, fallback: ['peer'] });
    await choice.next();
    const dropped = () => from.sources.report().map((source) => source.dropped !== undefined);
    assert.deepEqual(dropped(), [false, true]);
    choice.pass(new PresyncError('CHUNK_MISSING', 'gone'));
    await choice.next();
    assert.deepEqual(dropped(), [true, false]);
  });

  it('go on when nothing can be had at all', async (t) => {
    const place = await createPlace(t);
    assert.equal(await first(place, { fallback: ['older', 'warp'] }), 'warp');
    assert.equal(await first(place, { fallback: ['older', 'fail'] }), 'STORE_NOT_FOUND');
  });
});

describe('a snapshot that failed on this machine', () => {
  it('is not taken again, whatever names it, unless that is asked for', async (t) => {
    const place = await createPlace(t);
    await place.forge({ sequence: 1 });
    const { manifest, sha256 } = await place.forge({ sequence: 2 });
    const error = new PresyncError('CHUNK_MISSING', 'chunks/ab/abcd is missing');
    await recordFailure(place.stateDir, { manifest, sha256 }, error, { signal: NEVER });
    for (const options of [{}, { snapshot: 2 }] satisfies Options[])
      assert.equal(await first(place, options), 'SNAPSHOT_FAILED_BEFORE');
    await assert.rejects(choose(place).next(), /dev\/rocksdb#2 failed on this machine at .*CHUNK_MISSING/);
    assert.equal(await first(place, { fallback: ['older'] }), 1);
    assert.equal(await first(place, { retryFailed: true }), 2);
    // The same number taken anew is another snapshot.
    await place.forge({
      sequence: 3,
      files: [{ path: `${FORGED_PART}/000001.sst`, content: Buffer.from('x') }],
    });
    assert.equal(await first(place), 3);
  });

  it('is forgotten when the record is damaged, and that is said', async (t) => {
    const place = await createPlace(t);
    const { manifest, sha256 } = await place.forge();
    const error = new PresyncError('CHUNK_MISSING', 'gone');
    await recordFailure(place.stateDir, { manifest, sha256 }, error, { signal: NEVER });
    await writeFile(join(place.stateDir, 'failed/snapshots.json'), '{"presync":');
    const told = createTold();
    assert.equal(await first(place, { log: told.log }), 1);
    assert.ok(told.events.includes('restore.failures_unreadable'));
  });
});
