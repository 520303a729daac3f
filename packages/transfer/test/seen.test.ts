import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { it } from 'node:test';
import { readSeen, recordSeen } from '../src/seen.ts';
import { scratch } from './support.ts';

it('restores that share a state folder remember what they have seen beside each other', async (t) => {
  const stateDir = await scratch(t);
  const subject = { stateDir, repositoryId: crypto.randomUUID(), channel: 'test/rocksdb' };
  const sha256 = 'a'.repeat(64);
  await Promise.all(Array.from({ length: 50 }, () => recordSeen(subject, { sequence: 7, sha256 })));
  assert.deepEqual(await readSeen(subject), { sequence: 7, sha256 });
  await recordSeen(subject, { sequence: 6, sha256: 'b'.repeat(64) });
  assert.deepEqual(await readSeen(subject), { sequence: 7, sha256 }, 'what was seen went back');
  assert.equal((await readdir(join(stateDir, 'seen'))).length, 1, 'scratch files were left');
});
