/** A repository that an earlier release wrote stays readable for ever. Nothing in test/fixtures/golden is ever written again. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { cp, readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { describe, it } from 'node:test';
import { parsePublicKey } from '@presync/format/signature';
import { createFileStore } from '@presync/store/file';
import { openRepository, resolveSnapshot } from '../src/repository.ts';
import { restoreSnapshot } from '../src/restore.ts';
import { verifyRepository } from '../src/verify-repository.ts';
import { CHANNEL, NEVER, PART, readTree, scratch } from './support.ts';

const GOLDEN = resolve(import.meta.dirname, '../../../test/fixtures/golden');

/** SHA-256 of each file of the newest snapshot, as the source had it. */
const FILES = {
  '000001.sst': '87e7c2127090355baab8d97f9220ffcb4e9817f1ef29a746b97d255a633a5e6b',
  '000002.sst': 'cfe1fa70c0810af1790d15fea15208cdf4711802bec79b6ea4d45bfd8a1fde94',
  '000003.sst': 'e8f03d52178d12221df971092ae5c74149e94e6715daef2cdc16a3e3b678ee13',
  '000004.sst': '01c9ace220399c7945492cf03a63ed142125a998867d034c25588ae2e4a6bdf1',
  '000005.log': 'c13ccacb1edfe3d41958afa579acbe69a384ed1a0e7e4294ea25363fa9a49413',
  '000006.sst': '188fbee09b4281cdf5771fa2b0392cd77368a5f11adef81c87914d6affed0ed7',
  CURRENT: '0f1bad70c7bd1e0a69562853ec529355462fcd0423263a3d39d6d0d70b780443',
  IDENTITY: 'fb0288872031fc4818c03a7253bd3a78de192d05e6bccd09ceabeda65b4d7c6f',
  'empty.log': 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
};

describe('the golden repository of format 1', () => {
  it('verifies and restores', async (t) => {
    const dir = await scratch(t);
    await cp(join(GOLDEN, 'v1/store'), join(dir, 'store'), { recursive: true });
    const trusted = [
      parsePublicKey(await readFile(join(GOLDEN, 'v1/trusted.pub'), 'utf8'), 'the golden key'),
    ];
    const repository = await openRepository(createFileStore({ dir: join(dir, 'store') }), { signal: NEVER });
    const verified = await verifyRepository({
      repository,
      trusted,
      seenOf: async () => undefined,
      scope: 'full',
      scratchDir: dir,
      signal: NEVER,
    });
    assert.deepEqual(verified.problems, []);
    assert.deepEqual(
      verified.snapshots.map(({ sequence, sound }) => ({ sequence, sound })),
      [
        { sequence: 1, sound: true },
        { sequence: 2, sound: true },
      ],
    );
    const snapshot = await resolveSnapshot(repository, {
      channel: CHANNEL,
      snapshot: 'latest',
      trusted,
      signal: NEVER,
    });
    await restoreSnapshot({
      repository,
      snapshot,
      basePath: join(dir, 'target'),
      assertFile: () => {},
      signal: NEVER,
    });
    const restored = Object.entries(await readTree(join(dir, 'target', PART)));
    assert.deepEqual(
      Object.fromEntries(
        restored.map(([name, bytes]) => [name, createHash('sha256').update(bytes).digest('hex')]),
      ),
      FILES,
    );
  });
});
