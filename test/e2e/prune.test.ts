/** Retention and garbage, by the real command. */
import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { presync, presyncOk } from '../support/presync.ts';
import { createWorld } from '../support/world.ts';

describe('presync prune and pin', () => {
  it('look, keep what is young and pinned, and tell of damage', async (t) => {
    const world = await createWorld(t);
    await presyncOk(world.snapshotArgs);
    const args = ['prune', '--store', world.store, '--keep-last', '1'];
    const dry = await presyncOk([...args, '--dry-run']);
    assert.match(dry.stdout, /#1 {2}\S+ {2}stays: young/);
    assert.match(dry.stdout, /#2 {2}\S+ {2}stays: newest, young, last/);

    const pinned = await presyncOk(['pin', '--store', world.store, 'dev/rocksdb#1', '--json']);
    assert.deepEqual((pinned.json as { pinned: boolean; changed: boolean }).changed, true);
    const result = await presyncOk([...args, '--json']);
    const { snapshots, ok } = result.json as {
      ok: boolean;
      snapshots: { sequence: number; kept: string[] }[];
    };
    assert.equal(ok, true);
    assert.deepEqual(snapshots[0]?.kept, ['pinned', 'young']);
    await presyncOk(['pin', '--store', world.store, 'dev/rocksdb#1', '--remove']);

    const wrong = await presync(['pin', '--store', world.store, 'dev/rocksdb#9']);
    assert.equal(wrong.code, 5);
    assert.equal((await presync(['pin', '--store', world.store, 'nonsense'])).code, 2);

    await rm(join(world.storeDir, 'chunks'), { recursive: true });
    const damaged = await presync(args);
    assert.equal(damaged.code, 4);
    assert.match(damaged.stdout, /DAMAGED: dev\/rocksdb#2 lacks [0-9]+ of its chunks/);
  });
});
