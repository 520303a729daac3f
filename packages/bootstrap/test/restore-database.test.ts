/** What a restore does when the snapshot that it chose turns out damaged, again and again, or too old. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { sha256 } from '@presync/format/digest';
import type { Manifest } from '@presync/format/manifest';
import { repositoryKeys } from '@presync/format/paths';
import { type ErrorCode, isPresyncError, PresyncError } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import { readFailed } from '@presync/transfer/failed';
import { FORGED_CHUNK_SIZE, FORGED_PART, type ForgedFile } from '../../../test/support/forge.ts';
import {
  type RestoreDatabaseOptions,
  type RestoreDatabaseResult,
  restoreDatabase,
} from '../src/restore-database.ts';
import { countReads, createPlace, createTold, HOUR_MS, NEVER, type Place, sourcesOf } from './support.ts';

/** A table of several chunks that nothing else shares. */
const table = (): Buffer => randomBytes(8 * FORGED_CHUNK_SIZE);

function filesOf(tables: readonly Buffer[]): ForgedFile[] {
  return [
    ...tables.map((content, index) => ({ path: `${FORGED_PART}/00001${index}.sst`, content })),
    { path: `${FORGED_PART}/MANIFEST-000005`, content: Buffer.from('manifest'), class: 'mutable' as const },
    { path: `${FORGED_PART}/CURRENT`, content: Buffer.from('MANIFEST-000005\n'), class: 'seal' as const },
  ];
}

/** Takes away the chunk that holds the last stretch of a table. */
async function breakTable({ storeDir }: Place, content: Buffer): Promise<void> {
  const last = content.subarray(-FORGED_CHUNK_SIZE);
  await rm(join(storeDir, repositoryKeys.chunk(await sha256(last))));
}

interface Scene extends Place {
  base: string;
  full: string;
  restore: (options?: Partial<RestoreDatabaseOptions>) => Promise<RestoreDatabaseResult>;
}

async function createScene(t: TestContext): Promise<Scene> {
  const place = await createPlace(t);
  const base = join(place.dir, 'target');
  return {
    ...place,
    base,
    full: join(base, FORGED_PART),
    restore: (options = {}) =>
      restoreDatabase({
        from: sourcesOf(place.store),
        snapshot: 'latest',
        trusted: [place.key],
        stateDir: place.stateDir,
        basePath: base,
        existing: 'keep',
        concurrency: 2,
        progress: { start() {}, advance() {}, note() {}, finish() {} },
        log: createTold().log,
        signal: NEVER,
        ...options,
      }),
  };
}

const code =
  (expected: ErrorCode) =>
  (error: unknown): boolean =>
    isPresyncError(error, expected);

describe('a snapshot that turns out damaged in the middle of a restore', () => {
  it('gives way to an older one, which needs only what has not come yet', async (t) => {
    const scene = await createScene(t);
    const [kept, old, fresh] = [table(), table(), table()];
    await scene.forge({ sequence: 1, files: filesOf([kept, old]) });
    await scene.forge({ sequence: 2, files: filesOf([kept, fresh]) });
    await breakTable(scene, fresh);
    const reads = countReads(scene.store);
    const told = createTold();
    const options = { from: sourcesOf(reads.store), log: told.log, fallback: ['older'] as const };
    const { snapshot, restored, passed } = await scene.restore(options);
    assert.equal(snapshot?.manifest.sequence, 1);
    assert.deepEqual(await readFile(join(scene.full, '000010.sst')), kept);
    assert.deepEqual(await readFile(join(scene.full, '000011.sst')), old);
    assert.deepEqual(
      passed.map(({ sequence, code: why }) => [sequence, why]),
      [[2, 'CHUNK_MISSING']],
    );
    // The table that both have came once, but for what was in flight when the damage was found.
    assert.ok((restored?.resumedChunks ?? 0) >= 6, `${restored?.resumedChunks} chunks were of use`);
    assert.ok(reads.chunks() <= 8 + 8 + 8 + 4, `${reads.chunks()} chunks were read`);
    assert.ok(told.events.includes('restore.snapshot_failed') && told.events.includes('restore.fell_back'));
  });

  it('ends the restore where no fall-back is configured, and is not downloaded again', async (t) => {
    const scene = await createScene(t);
    const fresh = table();
    await scene.forge({ sequence: 1, files: filesOf([table()]) });
    await scene.forge({ sequence: 2, files: filesOf([fresh]) });
    await breakTable(scene, fresh);
    await assert.rejects(scene.restore(), code('CHUNK_MISSING'));
    const reads = countReads(scene.store);
    const again = { from: sourcesOf(reads.store) };
    for (let boot = 0; boot < 5; boot++)
      await assert.rejects(scene.restore(again), code('SNAPSHOT_FAILED_BEFORE'));
    assert.equal(reads.chunks(), 0);
    await assert.rejects(readdir(scene.full), { code: 'ENOENT' });
    // Asked for, it is tried again; what is in place is not read again.
    await assert.rejects(scene.restore({ ...again, retryFailed: true }), code('CHUNK_MISSING'));
    assert.ok(reads.chunks() <= 3, `${reads.chunks()} chunks were read`);
  });

  it('counts: after so many in a row nothing is downloaded, until one may be tried again', async (t) => {
    const scene = await createScene(t);
    const tables = [table(), table(), table(), table()];
    for (const [index, content] of tables.entries()) {
      await scene.forge({ sequence: index + 1, files: filesOf([content]) });
      await breakTable(scene, content);
    }
    const reads = countReads(scene.store);
    const options = { from: sourcesOf(reads.store), fallback: ['older'] as const, maxAttempts: 3 };
    await assert.rejects(scene.restore(options), code('RESTORE_GIVEN_UP'));
    const { inARow, failures } = await readFailed(scene.stateDir);
    assert.deepEqual([inARow, failures.map(({ sequence }) => sequence)], [3, [4, 3, 2]]);
    // A newer one comes, and another boot: still nothing.
    const sound = table();
    await scene.forge({ sequence: 5, files: filesOf([sound]) });
    const before = reads.chunks();
    await assert.rejects(scene.restore(options), (error) => {
      assert.ok(isPresyncError(error, 'RESTORE_GIVEN_UP'));
      assert.match(error.message, /3 snapshots in a row .* dev\/rocksdb#2/);
      return true;
    });
    assert.equal(reads.chunks(), before);
    await scene.restore({ ...options, retryFailed: true });
    assert.deepEqual(await readFile(join(scene.full, '000010.sst')), sound);
    assert.deepEqual(await readFailed(scene.stateDir), { failures: [], inARow: 0 });
  });

  it('leaves an empty base path for a node that warp syncs, where that is configured', async (t) => {
    const scene = await createScene(t);
    const fresh = table();
    await scene.forge({ files: filesOf([fresh]) });
    await breakTable(scene, fresh);
    const { snapshot, restored, targets } = await scene.restore({ fallback: ['older', 'warp'] });
    assert.deepEqual([snapshot, restored, targets], [undefined, undefined, []]);
    const left = await readdir(scene.base, { recursive: true });
    assert.deepEqual(left.toSorted(), ['chains', 'chains/dev', 'chains/dev/db']);
    // Also when the budget is used up.
    const second = table();
    await scene.forge({ sequence: 2, files: filesOf([second]) });
    const spent = { fallback: ['older', 'warp'] as const, maxAttempts: 1 };
    assert.equal((await scene.restore(spent)).snapshot, undefined);
  });

  it('never leaves warp sync to a node that has a database', async (t) => {
    const scene = await createScene(t);
    const old = filesOf([table()]);
    await scene.forge({ files: old });
    await scene.restore();
    const fresh = table();
    await scene.forge({ sequence: 2, files: filesOf([fresh]) });
    await breakTable(scene, fresh);
    const wish = { existing: 'replace', fallback: ['warp'] } as const;
    await assert.rejects(scene.restore(wish), (error) => {
      assert.ok(isPresyncError(error, 'TARGET_NOT_EMPTY'));
      assert.ok(error.message.includes(scene.full));
      return true;
    });
    assert.deepEqual(await readFile(join(scene.full, '000010.sst')), old[0]?.content);
  });

  it('is no damage when the store fails, the disk is full or the restore is stopped', async (t) => {
    const scene = await createScene(t);
    await scene.forge({ files: filesOf([table()]) });
    let reads = 0;
    const failing: ObjectStore = {
      ...scene.store,
      async read(key, options) {
        reads += key.startsWith('chunks/') ? 1 : 0;
        if (reads > 3) throw new PresyncError('STORE_UNREACHABLE', `no answer for ${key}`);
        return scene.store.read(key, options);
      },
    };
    const options = { from: sourcesOf(failing), fallback: ['older', 'warp'] as const };
    await assert.rejects(scene.restore(options), code('STORE_UNREACHABLE'));
    assert.deepEqual((await readFailed(scene.stateDir)).failures, []);
    await scene.restore();
  });
});

describe('a snapshot that is too old on arrival', () => {
  const aged = (ageMs: number) => ({
    editManifest: (manifest: Manifest) => ({
      ...manifest,
      created: new Date(Date.now() - ageMs).toISOString(),
    }),
  });

  it('is used all the same, and no boot after that downloads anything', async (t) => {
    const scene = await createScene(t);
    const maxAgeMs = HOUR_MS;
    await scene.forge({ files: filesOf([table()]), ...aged(HOUR_MS - 2000) });
    const reads = countReads(scene.store);
    // Each chunk takes its time, and meanwhile the snapshot gets older than is allowed.
    const slow: ObjectStore = {
      ...reads.store,
      async read(key, options) {
        if (key.startsWith('chunks/')) await sleep(600);
        return reads.store.read(key, options);
      },
    };
    const options = { from: sourcesOf(slow), maxAgeMs, maxAttempts: 3 };
    const { restored } = await scene.restore(options);
    assert.ok((restored?.fetchedChunks ?? 0) >= 8);
    await assert.rejects(scene.restore({ ...options, existing: 'replace' }), /older than --max-age/);
    const before = reads.chunks();
    for (let boot = 0; boot < 3; boot++) {
      const outcome = await scene.restore(options);
      assert.equal(outcome.kept, true);
    }
    assert.equal(reads.chunks(), before);
  });

  it('when it was killed on the way, is refused without a byte, and what came serves the next one', async (t) => {
    const scene = await createScene(t);
    const kept = table();
    await scene.forge({ files: filesOf([kept, table()]), ...aged(2 * HOUR_MS) });
    const stop = new AbortController();
    const reads = countReads(scene.store);
    const stopping: ObjectStore = {
      ...reads.store,
      async read(key, options) {
        if (reads.chunks() >= 10) stop.abort();
        return reads.store.read(key, options);
      },
    };
    await assert.rejects(
      scene.restore({ from: sourcesOf(stopping), signal: stop.signal, maxAgeMs: 3 * HOUR_MS }),
      code('ABORTED'),
    );
    const before = reads.chunks();
    const options = { from: sourcesOf(reads.store), maxAgeMs: HOUR_MS, fallback: ['older'] as const };
    for (let boot = 0; boot < 3; boot++)
      await assert.rejects(scene.restore(options), code('SNAPSHOT_NOT_FOUND'));
    assert.equal(reads.chunks(), before);
    await scene.forge({ sequence: 2, files: filesOf([kept, table()]) });
    const { restored } = await scene.restore(options);
    assert.ok((restored?.resumedChunks ?? 0) >= 6, `${restored?.resumedChunks} chunks were of use`);
  });
});

describe('a plan', () => {
  const describe6s = {
    editManifest: (manifest: Manifest) => ({
      ...manifest,
      created: new Date(Date.now() - HOUR_MS).toISOString(),
      chain: { ...manifest.chain, blockTimeMs: 6000 },
    }),
  };

  it('tells what will be done, and nothing is done when it is not accepted', async (t) => {
    const scene = await createScene(t);
    const { manifest } = await scene.forge({ files: filesOf([table()]), ...describe6s });
    await assert.rejects(scene.restore({ confirm: async () => false }), code('ABORTED'));
    await assert.rejects(readdir(scene.base), { code: 'ENOENT' });
    const { plan } = await scene.restore({ confirm: async () => true });
    assert.ok(plan !== undefined);
    assert.equal(plan.fetch.fetchBytes, manifest.totals.stored - (await endChunk(scene)));
    assert.deepEqual(plan.targets, [{ target: scene.full, holdsDatabase: false }]);
    assert.ok((plan.bytesPerSecond ?? 0) > 0);
    const [room] = plan.room;
    assert.equal(room?.needed, manifest.totals.bytes);
    // 600 blocks in an hour, at 20 a second, while the chain makes one in six seconds.
    const { catchUpSeconds = 0 } = plan.estimate ?? {};
    assert.ok(Math.abs((catchUpSeconds ?? 0) - 600 / (20 - 1 / 6)) < 1, `${catchUpSeconds}`);
  });

  it('counts what an interrupted attempt has brought, and what of an old database may be reused', async (t) => {
    const scene = await createScene(t);
    const [kept, old, fresh] = [table(), table(), table()];
    await scene.forge({ files: filesOf([kept, old]) });
    await scene.restore();
    await scene.forge({ sequence: 2, files: filesOf([kept, fresh]) });
    const reads = countReads(scene.store);
    const failing: ObjectStore = {
      ...reads.store,
      async read(key, options) {
        if (key.startsWith('chunks/') && reads.chunks() >= 6)
          throw new PresyncError('STORE_UNREACHABLE', `no answer for ${key}`);
        return reads.store.read(key, options);
      },
    };
    await assert.rejects(
      scene.restore({ from: sourcesOf(failing), existing: 'replace' }),
      code('STORE_UNREACHABLE'),
    );
    const { plan } = await scene.restore({ existing: 'reuse', dryRun: true });
    const { inPlaceBytes = 0, likelyReused = 0, fetchBytes = 0 } = plan?.fetch ?? {};
    assert.ok(inPlaceBytes >= 4 * FORGED_CHUNK_SIZE, `${inPlaceBytes} bytes in place`);
    assert.equal(plan?.interrupted, 2);
    // Both tables are there under the same names and sizes; that one has other bytes shows when it is read.
    assert.ok(likelyReused > 0 && likelyReused <= fetchBytes);
    assert.ok(likelyReused + inPlaceBytes >= 16 * FORGED_CHUNK_SIZE, `${likelyReused} + ${inPlaceBytes}`);
  });

  it('that is slower than warp sync says so, and gives way to it only where that is configured', async (t) => {
    const scene = await createScene(t);
    const month = (manifest: Manifest) => ({
      ...describe6s.editManifest(manifest),
      created: new Date(Date.now() - 720 * HOUR_MS).toISOString(),
    });
    await scene.forge({ files: filesOf([table()]), editManifest: month });
    const told = createTold();
    const slow = { warpSyncTimeMs: HOUR_MS, importRate: 20, log: told.log };
    const warp = await scene.restore({ ...slow, fallback: ['older', 'warp'] });
    assert.equal(warp.snapshot, undefined);
    assert.ok(told.events.includes('restore.warp_sync_faster'));
    // 432,000 blocks at 200 a second are had in 36 minutes.
    const fast = await scene.restore({ ...slow, importRate: 200, fallback: ['warp'], dryRun: true });
    assert.equal(fast.snapshot?.manifest.sequence, 1);
    const only = await scene.restore({ ...slow, fallback: ['fail'] });
    assert.ok(only.restored !== undefined, 'a snapshot is better than nothing');
  });
});

/** Bytes of the chunk that ends every archive, which no restore fetches. */
async function endChunk({ storeDir }: Place): Promise<number> {
  const key = repositoryKeys.chunk(await sha256(Buffer.alloc(1024)));
  return (await readFile(join(storeDir, key))).length;
}
