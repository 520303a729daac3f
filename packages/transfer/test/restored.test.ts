import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { it } from 'node:test';
import { createMemoryStore } from '@presync/store/memory';
import { readRestored, recordRestored } from '../src/restored.ts';
import { createWorld, newestSnapshot, sampleTree, scratch, writeTree } from './support.ts';

it('what was restored to a place is remembered until something else is, and damage to it is told', async (t) => {
  const stateDir = await scratch(t);
  const world = await createWorld(await scratch(t), createMemoryStore());
  await writeTree(world.source, sampleTree());
  await world.snapshot();
  const snapshot = await newestSnapshot(world);
  const here = { stateDir, basePath: '/srv/node' };
  assert.equal(await readRestored(here), undefined);
  await recordRestored(here, snapshot);
  const { manifest, sha256, trustedBy } = snapshot;
  assert.deepEqual(await readRestored(here), { manifest, sha256, trustedBy });
  assert.deepEqual(await readRestored({ stateDir, basePath: '/srv/x/../node' }), {
    manifest,
    sha256,
    trustedBy,
  });
  assert.equal(await readRestored({ stateDir, basePath: '/srv/other' }), undefined);
  assert.equal(await readRestored({ ...here, relayBasePath: '/srv/relay' }), undefined);

  const [name = ''] = await readdir(join(stateDir, 'restored'));
  const path = join(stateDir, 'restored', name);
  await writeFile(path, (await readFile(path, 'utf8')).replace('"restored"', '"restares"'));
  await assert.rejects(readRestored(here), (error: Error) => error.message.includes(path));
});
