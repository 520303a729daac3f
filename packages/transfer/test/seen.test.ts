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
  const numbers = Array.from({ length: 50 }, (_, index) => ((index * 13) % 7) + 1);
  await Promise.all(
    numbers.map((sequence) => recordSeen(subject, { sequence, sha256 }, { signal: t.signal })),
  );
  assert.deepEqual(await readSeen(subject), { sequence: 7, sha256 });
  await recordSeen(subject, { sequence: 6, sha256: 'b'.repeat(64) }, { signal: t.signal });
  assert.deepEqual(await readSeen(subject), { sequence: 7, sha256 }, 'what was seen went back');
  assert.equal((await readdir(join(stateDir, 'seen'))).length, 1, 'scratch files were left');
});
