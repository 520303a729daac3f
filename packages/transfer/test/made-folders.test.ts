import assert from 'node:assert/strict';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { it } from 'node:test';
import { makeFolders } from '../src/made-folders.ts';
import { scratch } from './support.ts';

it('folders that were made are taken back, also when they were named from where the process stands', async (t) => {
  const dir = await scratch(t);
  const before = process.cwd();
  t.after(() => process.chdir(before));
  process.chdir(dir);
  for (const path of ['t', 'a/b/c', 'target/x', join(dir, 'absolute/y')]) {
    const folders = await makeFolders(path);
    assert.deepEqual(await readdir(path), []);
    await folders.undo();
    assert.deepEqual(await readdir(dir), [], path);
  }
  await mkdir('kept');
  const folders = await makeFolders('kept/made/deep');
  await writeFile('kept/made/file', 'of somebody else');
  await folders.undo();
  assert.deepEqual(await readdir('kept'), ['made']);
});
