import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { copyFile, open, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import { createFileStore } from '@presync/store/file';
import { readSeen, recordSeen } from '../src/seen.ts';
import {
  assertRestoresNewest,
  CHANNEL,
  createWorld,
  sampleTree,
  scratch,
  sourceFiles,
  type World,
  writeTree,
} from './support.ts';

async function world(
  t: Parameters<typeof scratch>[0],
): Promise<{ world: World; dir: string; table: string; record: string }> {
  const dir = await scratch(t);
  const made = await createWorld(dir, createFileStore({ dir: join(dir, 'store') }));
  await writeTree(made.source, sampleTree());
  // A time that utimes can give back to the nanosecond.
  const table = join(made.source, '000001.sst');
  await utimes(table, 1_700_000_000, 1_700_000_000);
  await made.snapshot();
  return {
    world: made,
    dir,
    table,
    record: join(made.stateDir, 'source-test-rocksdb.record'),
  };
}

const assertFaithful = (
  { world: made, dir }: { world: World; dir: string },
  name = 'target',
): Promise<void> => assertRestoresNewest(made, join(dir, name));

/** Other content, with the size and the modification time of before. */
async function changeQuietly(path: string): Promise<void> {
  const { atime, mtime, size } = await stat(path);
  const handle = await open(path, 'r+');
  await handle.write(randomBytes(size), 0, size, 0);
  await handle.close();
  await utimes(path, atime, mtime);
}

describe('the record of what was read', () => {
  it('lets unchanged tables unread', async (t) => {
    const scene = await world(t);
    const again = await scene.world.snapshot();
    assert.ok(again.readBytes < 200_000, `${again.readBytes}`);
    await assertFaithful(scene);
  });

  it('is not fooled by a table that changed in place with the same size and mtime (the sample tells)', async (t) => {
    const scene = await world(t);
    await changeQuietly(scene.table);
    const events: string[] = [];
    await scene.world.snapshot({ onEvent: (event) => events.push(event) });
    // Hard links change a file's ctime at every snapshot, so ctime is no evidence.
    assert.ok(events.includes('snapshot.record_wrong'));
    await assertFaithful(scene);
  });

  it('is not fooled by another file of the same name, size and mtime (the inode tells)', async (t) => {
    const scene = await world(t);
    const before = await stat(scene.table);
    const other = join(scene.dir, 'other');
    await copyFile(scene.table, other);
    await changeQuietly(other);
    await rename(other, scene.table);
    assert.equal((await stat(scene.table)).size, before.size);
    await utimes(scene.table, before.atime, before.mtime);
    const events: string[] = [];
    await scene.world.snapshot({ onEvent: (event) => events.push(event) });
    // The record knew by itself, without the help of the sample.
    assert.ok(!events.includes('snapshot.record_wrong'));
    await assertFaithful(scene);
  });

  it('is found out by the sample when even the identity is the same', async (t) => {
    const scene = await world(t);
    const identities = new Map(
      (await sourceFiles(scene.world.source)).map((file) => [file.path, file.identity]),
    );
    await changeQuietly(scene.table);
    const events: string[] = [];
    // As on a file system whose ctime does not tell: the files look as they did.
    const files = (await sourceFiles(scene.world.source)).map((file) => ({
      ...file,
      identity: identities.get(file.path) ?? file.identity,
    }));
    const result = await scene.world.snapshot({ files, onEvent: (event) => events.push(event) });
    assert.ok(events.includes('snapshot.record_wrong'));
    assert.ok(result.readBytes > 1_000_000);
    await assertFaithful(scene);
  });

  it('is not used for another database, repository or channel', async (t) => {
    const scene = await world(t);
    const other = await scene.world.snapshot({ databaseIdentity: 'made anew' });
    assert.ok(other.readBytes > 1_000_000);
    const channel = await scene.world.snapshot({ channel: 'test/other' });
    assert.ok(channel.readBytes > 1_000_000);
  });

  it('is no more than a cache: damaged, cut short, extended or of the future, everything is read', async (t) => {
    const scene = await world(t);
    const sound = await readFile(scene.record);
    for (const bytes of [
      Buffer.alloc(0),
      Buffer.from('rubbish'),
      sound.subarray(0, -1),
      sound.subarray(0, sound.length - 64),
      Buffer.concat([sound, Buffer.alloc(64)]),
      Buffer.from(sound.map((byte, at) => (at === sound.length - 40 ? byte ^ 1 : byte))),
      Buffer.from(sound.toString('latin1').replace('record 1', 'record 2'), 'latin1'),
    ]) {
      await writeFile(scene.record, bytes);
      const result = await scene.world.snapshot();
      assert.ok(result.readBytes > 1_000_000, `believed: ${bytes.subarray(0, 40).toString('latin1')}`);
    }
    await assertFaithful(scene);
  });

  it('does not name chunks that the newest snapshot lost', async (t) => {
    const scene = await world(t);
    const index = join(scene.dir, 'store/snapshots', CHANNEL, '1/index.zst');
    await rm(index);
    const result = await scene.world.snapshot();
    assert.ok(result.readBytes > 1_000_000);
    await assertFaithful(scene);
  });
});

describe('the memory of what was seen', () => {
  const subject = (stateDir: string) => ({
    stateDir,
    repositoryId: '4f1c2c3e-4f40-4a5b-8c6d-7e8f90a1b2c3',
    channel: CHANNEL,
  });
  const seen = (sequence: number) => ({ sequence, sha256: String(sequence % 10).repeat(64) });

  it('keeps the newest, never an older one', async (t) => {
    const dir = await scratch(t);
    assert.equal(await readSeen(subject(dir)), undefined);
    for (const sequence of [3, 5, 4, 1]) await recordSeen(subject(dir), seen(sequence), { signal: t.signal });
    assert.deepEqual(await readSeen(subject(dir)), seen(5));
    assert.equal(await readSeen({ ...subject(dir), channel: 'test/other' }), undefined);
  });

  it('that is damaged or cannot be read is an error that names the file', async (t) => {
    const dir = await scratch(t);
    await recordSeen(subject(dir), seen(5), { signal: t.signal });
    const [name = ''] = await readdir(join(dir, 'seen'));
    const path = join(dir, 'seen', name);
    for (const content of [
      '',
      '{}',
      '{"presync":"seen"}',
      (await readFile(path, 'utf8')).replace('5,', '0,'),
    ]) {
      await writeFile(path, content);
      for (const work of [
        () => readSeen(subject(dir)),
        () => recordSeen(subject(dir), seen(9), { signal: t.signal }),
      ])
        await assert.rejects(
          work,
          (error) => isPresyncError(error, 'FORMAT_INVALID') && error.message.includes(path),
        );
    }
    await rm(path);
    await (await import('node:fs/promises')).mkdir(path);
    await assert.rejects(
      readSeen(subject(dir)),
      (error) => isPresyncError(error, 'IO_FAILED') && error.message.includes(path),
    );
  });
});
