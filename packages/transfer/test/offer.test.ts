import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { cp, mkdir, open, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { ArchiveFile } from '@presync/format/chunks';
import { sha256 } from '@presync/format/digest';
import type { IndexedChunk } from '@presync/format/index-file';
import { repositoryKeys } from '@presync/format/paths';
import { generateKey, type PrivateKey } from '@presync/format/signature';
import { isPresyncError, type PresyncError } from '@presync/runtime/errors';
import { chunksOf } from '../src/lib/local-index.ts';
import { countChunks, MAX_VIEW_CHUNKS, type Offer, type OfferOptions, offerView } from '../src/offer.ts';
import { downloadIndex, openRepository, resolveSnapshot } from '../src/repository.ts';
import { restoreSnapshot } from '../src/restore.ts';
import { verifyRepository } from '../src/verify-repository.ts';
import {
  CHANNEL,
  describeParts,
  NEVER,
  PART,
  readTree,
  sampleTree,
  scratch,
  sourceFiles,
  writeTree,
} from './support.ts';

const CHUNK_SIZE = 64 * 1024;

interface Scene {
  dir: string;
  /** The view's folder. */
  view: string;
  /** The offers' own folder. */
  state: string;
  key: PrivateKey;
  damage: PresyncError[];
  offer(options?: Partial<OfferOptions>): Promise<Offer>;
}

async function scene(t: Parameters<typeof scratch>[0]): Promise<Scene> {
  const dir = await scratch(t);
  const view = join(dir, 'view');
  const state = join(dir, 'state');
  await writeTree(view, sampleTree());
  const key = generateKey();
  const damage: PresyncError[] = [];
  return {
    dir,
    view,
    state,
    key,
    damage,
    offer: async (options = {}) => {
      const made = await offerView({
        channel: CHANNEL,
        files: await sourceFiles(view),
        databaseIdentity: 'c0ffee',
        describe: describeParts([
          { role: 'main', backend: 'rocksdb', path: PART, databaseVersion: '4', identity: 'c0ffee' },
        ]),
        keys: [key],
        chunkSize: CHUNK_SIZE,
        sequence: 1_700_000_000,
        dir: state,
        location: 'view:',
        onDamage: (error) => damage.push(error),
        signal: NEVER,
        ...options,
      });
      t.after(() => made.close());
      return made;
    },
  };
}

async function chunks({ store, manifest }: Offer, dir: string): Promise<IndexedChunk[]> {
  const path = join(dir, `index-${randomBytes(4).toString('hex')}`);
  const repository = await openRepository(store, { signal: NEVER });
  await downloadIndex(repository, manifest, path, { signal: NEVER });
  const found: IndexedChunk[] = [];
  for await (const chunk of chunksOf(repository, manifest, path, NEVER)) found.push(chunk);
  return found;
}

async function restore({ store }: Offer, { key, dir }: Scene, name: string): Promise<string> {
  const repository = await openRepository(store, { signal: NEVER });
  const snapshot = await resolveSnapshot(repository, {
    channel: CHANNEL,
    snapshot: 'latest',
    trusted: [key],
    signal: NEVER,
  });
  const basePath = join(dir, name);
  await restoreSnapshot({ repository, snapshot, basePath, assertFile: () => {}, signal: NEVER });
  return join(basePath, PART);
}

/** The chunk that holds the beginning of a file. */
async function chunkOf(offer: Offer, made: Scene, name: string): Promise<string> {
  const found = (await chunks(offer, made.dir)).find(({ segments }) =>
    segments.some((segment) => segment.kind === 'data' && segment.file.path === `${PART}/${name}`),
  );
  assert.ok(found !== undefined);
  return repositoryKeys.chunk(found.sha256);
}

const changed = (error: unknown): boolean => isPresyncError(error, 'NODE_CHANGED');

describe('a frozen view as a repository', () => {
  it('is restored byte for byte, and every byte of it is verified', async (t) => {
    const made = await scene(t);
    const offer = await made.offer();
    assert.deepEqual(await readTree(await restore(offer, made, 'target')), await readTree(made.view));
    const { problems, snapshots } = await verifyRepository({
      repository: await openRepository(offer.store, { signal: NEVER }),
      trusted: [made.key],
      seenOf: async () => undefined,
      scope: 'full',
      scratchDir: join(made.dir, 'scratch'),
      signal: NEVER,
    });
    assert.deepEqual(problems, []);
    assert.deepEqual(
      snapshots.map(({ channel, sequence, sound }) => [channel, sequence, sound]),
      [[CHANNEL, 1_700_000_000, true]],
    );
    assert.equal(offer.manifest.totals.added, 0);
  });

  it('keeps no copy of the database', async (t) => {
    const made = await scene(t);
    await writeFile(join(made.view, '000009.sst'), randomBytes(8 * 1024 * 1024));
    const offer = await made.offer();
    const kept = (await readdir(made.state, { recursive: true })).filter((name) => name.includes('chunks'));
    assert.deepEqual(kept, []);
    assert.ok(offer.manifest.index.size < 100_000);
  });

  it('gives each chunk with the size and digest that the index and stat foretell, whole and in ranges', async (t) => {
    const made = await scene(t);
    const { store, ...offer } = await made.offer();
    const listed = new Map<string, { size: number; version: string }>();
    for await (const { key, size, version } of store.list('chunks/', { signal: NEVER }))
      listed.set(key, { size, version });
    const all = await chunks({ store, ...offer }, made.dir);
    assert.ok(all.length > 10);
    assert.deepEqual(
      [...listed.keys()],
      [...new Set(all.map(({ sha256: digest }) => repositoryKeys.chunk(digest)))].sort(),
    );
    for (const chunk of all) {
      const key = repositoryKeys.chunk(chunk.sha256);
      const { bytes, size, version } = await store.read(key, { maxBytes: chunk.storedSize, signal: NEVER });
      assert.equal(bytes.length, chunk.storedSize);
      assert.equal(await sha256(bytes), chunk.storedSha256);
      assert.deepEqual(await store.stat(key, { signal: NEVER }), { key, size, version });
      assert.deepEqual(listed.get(key), { size, version });
      const range = { offset: size >> 1, length: size };
      const part = await store.read(key, { range, maxBytes: size, signal: NEVER });
      assert.equal(Buffer.compare(part.bytes, bytes.subarray(size >> 1)), 0);
    }
    const [first] = listed.keys();
    const within: string[] = [];
    for await (const { key } of store.list(first?.slice(0, 12) ?? '', { signal: NEVER })) within.push(key);
    assert.ok(within.length > 0 && within.every((key) => key.startsWith(first?.slice(0, 12) ?? '')));
  });

  it('has no other chunks', async (t) => {
    const made = await scene(t);
    const { store } = await made.offer();
    const digest = await sha256(Buffer.from('something else'));
    for (const key of [
      repositoryKeys.chunk(digest),
      `chunks/zz/${digest}`,
      `chunks/${digest}`,
      `chunks/${digest.slice(2, 4)}/${digest}`,
      'chunks/aa/short',
    ]) {
      assert.equal(await store.stat(key, { signal: NEVER }), undefined, key);
      await assert.rejects(
        store.read(key, { maxBytes: 1e6, signal: NEVER }),
        (error) => isPresyncError(error, 'OBJECT_NOT_FOUND'),
        key,
      );
    }
    await assert.rejects(store.put('chunks/aa/x', randomBytes(10), { signal: NEVER }), (error) =>
      isPresyncError(error, 'STORE_READ_ONLY'),
    );
  });

  it('never gives wrong bytes: what changed underneath is an error that names the file', async (t) => {
    const made = await scene(t);
    const offer = await made.offer();
    const path = join(made.view, '000001.sst');
    const key = await chunkOf(offer, made, '000001.sst');
    const read = (): Promise<unknown> => offer.store.read(key, { maxBytes: 1e6, signal: NEVER });
    const flip = async (): Promise<void> => {
      await using file = await open(path, 'r+');
      const byte = Buffer.alloc(1);
      await file.read(byte, 0, 1, 100);
      await file.write(Buffer.from([(byte[0] ?? 0) ^ 1]), 0, 1, 100);
    };
    await read();
    await flip();
    await assert.rejects(read(), changed);
    const info = await offer.store.stat(key, { signal: NEVER });
    assert.ok(info !== undefined);
    await assert.rejects(offer.store.open(info, { signal: NEVER }), changed);
    assert.equal(made.damage.length, 2);
    assert.match(made.damage[0]?.message ?? '', /000001\.sst/);
    assert.doesNotMatch(made.damage[0]?.message ?? '', new RegExp(made.dir), 'clients see this message');
    await flip();
    await read();

    await rename(path, `${path}.away`);
    await assert.rejects(read(), changed);
    await writeFile(path, 'short');
    await assert.rejects(read(), changed);
    await rm(path);
    await mkdir(path);
    await assert.rejects(read(), changed);
    await rm(path, { recursive: true });
    await rename(`${path}.away`, path);
    await read();
    assert.deepEqual(await readTree(await restore(offer, made, 'target')), await readTree(made.view));
  });

  it('holds few chunks at a time, and gives back the places of what failed and of who went', async (t) => {
    const made = await scene(t);
    // Chunks of 64 MiB: one at a time fits into the budget.
    const offer = await made.offer({ chunkSize: 64 * 1024 * 1024 });
    const key = await chunkOf(offer, made, '000001.sst');
    const info = await offer.store.stat(key, { signal: NEVER });
    assert.ok(info !== undefined);
    const first = await offer.store.open(info, { signal: NEVER });
    const gone = new AbortController();
    const waiting = offer.store.open(info, { signal: gone.signal });
    const next = offer.store.open(info, { signal: NEVER });
    gone.abort();
    await assert.rejects(waiting, (error) => isPresyncError(error, 'ABORTED'));
    let opened = false;
    void next.then(() => {
      opened = true;
    });
    await offer.store.stat(key, { signal: NEVER });
    assert.equal(opened, false);
    first.close();
    first.close();
    const second = await next;
    second.close();
    await rename(join(made.view, '000001.sst'), join(made.dir, 'away'));
    await assert.rejects(offer.store.open(info, { signal: NEVER }), changed);
    await rename(join(made.dir, 'away'), join(made.view, '000001.sst'));
    (await offer.store.open(info, { signal: NEVER })).close();
  });

  it('is refused when it is not what it was at the time of the pause', async (t) => {
    const made = await scene(t);
    const files = await sourceFiles(made.view);
    await writeFile(join(made.view, '000005.log'), 'short');
    await assert.rejects(made.offer({ files }), changed);
    assert.deepEqual(
      (await readdir(made.state)).filter((name) => !name.endsWith('.record')),
      [],
    );
  });
});

describe('the next offer of a database', () => {
  it('is another repository, with a snapshot that names none before it', async (t) => {
    const made = await scene(t);
    const first = await made.offer();
    await first.close();
    const second = await made.offer({ sequence: 1_700_000_100 });
    assert.notEqual(second.repositoryId, first.repositoryId);
    assert.equal(second.manifest.sequence, 1_700_000_100);
    assert.equal(second.manifest.previous, null);
    const sequences: string[] = [];
    for await (const { key } of second.store.list('snapshots/', { signal: NEVER })) sequences.push(key);
    assert.deepEqual(sequences, [
      `snapshots/${CHANNEL}/1700000100/index.zst`,
      `snapshots/${CHANNEL}/1700000100/manifest.json`,
      `snapshots/${CHANNEL}/1700000100/proof.json`,
    ]);
  });

  it('reads only what may have changed, and holds the same', async (t) => {
    const made = await scene(t);
    const first = await made.offer();
    await first.close();
    await writeFile(join(made.view, '000006.sst'), randomBytes(50_000));
    await writeFile(join(made.view, '000005.log'), randomBytes(20_000));
    const again = await made.offer();
    assert.ok(first.readBytes > 1_200_000, `${first.readBytes}`);
    assert.ok(again.readBytes < 200_000, `${again.readBytes}`);
    assert.deepEqual(await readTree(await restore(again, made, 'target')), await readTree(made.view));
    const { problems } = await verifyRepository({
      repository: await openRepository(again.store, { signal: NEVER }),
      trusted: [made.key],
      seenOf: async () => undefined,
      scope: 'full',
      scratchDir: join(made.dir, 'scratch'),
      signal: NEVER,
    });
    assert.deepEqual(problems, []);
  });

  it('reads everything when the one before has other chunks, another signer, or is damaged', async (t) => {
    const made = await scene(t);
    // Of a chunk that occurs ten times, the later ones may be known by the first.
    const readsAll = ({ readBytes }: Offer): void => assert.ok(readBytes > 700_000, `${readBytes}`);
    readsAll(await made.offer());
    readsAll(await made.offer({ chunkSize: 2 * CHUNK_SIZE }));
    readsAll(await made.offer());
    readsAll(await made.offer({ keys: [generateKey()] }));
    const folder = (await readdir(made.state)).find((name) => name.startsWith('offer-')) ?? '';
    const damaged = join(made.state, folder, 'snapshots', CHANNEL, '1700000000/index.zst');
    await writeFile(damaged, randomBytes(500));
    const last = await made.offer();
    readsAll(last);
    assert.deepEqual(await readTree(await restore(last, made, 'target')), await readTree(made.view));
  });

  it('clears away what killed processes have left', async (t) => {
    const made = await scene(t);
    const half = join(made.state, `offer-${crypto.randomUUID()}`);
    await mkdir(join(half, 'snapshots'), { recursive: true });
    await mkdir(join(made.state, 'work-abc'));
    await mkdir(join(made.state, 'verify-abc'));
    const first = await made.offer();
    await first.close();
    const offers = (await readdir(made.state)).filter((name) => name.startsWith('offer-'));
    assert.equal(offers.length, 1);
    // Killed after the second was made and before the first was removed.
    await cp(join(made.state, offers[0] ?? ''), join(made.state, `offer-${crypto.randomUUID()}`), {
      recursive: true,
    });
    await made.offer();
    const left = (await readdir(made.state)).filter((name) => !name.endsWith('.record'));
    assert.equal(left.length, 1, left.join(', '));
    assert.notDeepEqual(left, offers);
  });
});

it('a database of too many chunks is found out by counting', () => {
  const files: ArchiveFile[] = Array.from({ length: 100 }, (_, n) => ({
    path: `${PART}/${String(n).padStart(6, '0')}.sst`,
    size: 40 * 1024 ** 3,
    class: 'immutable',
  }));
  const chunkSize = 4 * 1024 * 1024;
  assert.equal(countChunks(files, chunkSize), 100 * 10 * 1024 + 1);
  assert.ok(countChunks(files, chunkSize) > MAX_VIEW_CHUNKS);
  assert.ok(countChunks(files, 2 * chunkSize) < MAX_VIEW_CHUNKS);
});
