import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createSeal } from '../src/lib/seal.ts';

test('a seal is set at once, and tells what it said when it is broken', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'presync-seal-'));
  t.after(() => rm(dir, { recursive: true }));
  const path = join(dir, 'run/presync/sealed');
  const seal = createSeal(path);
  assert.equal(await seal.break(), undefined);
  await seal.set('first\n');
  await seal.set('second\n');
  assert.equal(await readFile(path, 'utf8'), 'second\n');
  assert.deepEqual(await readdir(join(dir, 'run/presync')), ['sealed']);
  assert.equal(await seal.break(), 'second\n');
  assert.deepEqual(await readdir(join(dir, 'run/presync')), []);
});

test('a seal that cannot be set or broken is an error that names the file', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'presync-seal-'));
  t.after(() => rm(dir, { recursive: true }));
  await writeFile(join(dir, 'file'), '');
  const path = join(dir, 'file/sealed');
  assert.equal(await createSeal(path).break(), undefined);
  await assert.rejects(createSeal(path).set('x'), (error: Error) => error.message.includes(path));
  await assert.rejects(createSeal(dir).break(), (error: Error) => error.message.includes(dir));
});

test('without a path nothing is written', async () => {
  const seal = createSeal(undefined);
  await seal.set('x');
  assert.equal(await seal.break(), undefined);
});
