import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { needs } from '../support/needs.ts';
import { builtPackage, hasProgram } from '../support/package.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const recipe = await readFile(join(ROOT, 'deploy/image/Containerfile'), 'utf8');
const ignored = await readFile(join(ROOT, 'deploy/image/Containerfile.dockerignore'), 'utf8');

/** What `npm run build:executable` writes. */
const BUILT = 'dist/presync';

test('the image is made of files that are there, and of no others', async () => {
  const sources = [...recipe.matchAll(/^COPY (?:--\S+ )*(\S+) \S+$/gm)].map(([, source = '']) => source);
  assert.deepEqual(sources.toSorted(), ['LICENSE', BUILT]);
  for (const source of sources) {
    if (source !== BUILT) assert.ok(existsSync(join(ROOT, source)), source);
    assert.ok(ignored.split('\n').includes(`!${source}`), `${source} is not sent to the builder`);
  }
  assert.match(await readFile(join(ROOT, 'scripts/build-executable.ts'), 'utf8'), /'dist\/presync'/);
});

test('the image runs presync as its first process, not as root', () => {
  assert.match(recipe, /^USER [1-9]\d*:[1-9]\d*$/m);
  assert.match(recipe, /^ENTRYPOINT \["\/usr\/bin\/presync"\]$/m);
});

/** The packages of Debian that hold the libraries; libc6 is in every image. */
const LIBRARIES: Readonly<Record<string, string>> = {
  'libatomic.so.1': 'libatomic1',
  'libstdc++.so.6': 'libstdc++6',
  'libgcc_s.so.1': 'libgcc-s1',
  'ld-linux-x86-64.so.2': 'libc6',
  'libc.so.6': 'libc6',
  'libdl.so.2': 'libc6',
  'libm.so.6': 'libc6',
  'libpthread.so.0': 'libc6',
};

test(
  'image and package bring every library that the executable is linked with',
  needs('objdump', await hasProgram('objdump')),
  async () => {
    const { executable } = await builtPackage();
    const { stdout } = await promisify(execFile)('objdump', ['-p', executable]);
    const needed = [...stdout.matchAll(/^ +NEEDED +(\S+)$/gm)].map(([, library = '']) => library);
    assert.ok(needed.length > 0, stdout);
    const control = await readFile(join(ROOT, 'deploy/debian/control'), 'utf8');
    for (const library of needed) {
      const name = LIBRARIES[library];
      assert.ok(name !== undefined, `${library} belongs to no known package`);
      assert.ok(control.includes(`${name} `) || control.includes(`${name},`), `${name} is not in Depends`);
      // libstdc++6 brings libgcc-s1 and libc6.
      if (name !== 'libc6' && name !== 'libgcc-s1')
        assert.ok(recipe.includes(name), `${name} is not in the image`);
    }
  },
);
