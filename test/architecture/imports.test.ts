import assert from 'node:assert/strict';
import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ALLOWED, breaches, importsOf, packageOf } from './rules.ts';

const ROOT = join(import.meta.dirname, '../..');

interface PackageJson {
  name: string;
  exports?: Record<string, string>;
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
}

function packageJson(folder: string): PackageJson {
  return JSON.parse(readFileSync(join(ROOT, 'packages', folder, 'package.json'), 'utf8'));
}

function declaredBy(folder: string): Set<string> {
  const { dependencies, optionalDependencies } = packageJson(folder);
  return new Set([...Object.keys(dependencies ?? {}), ...Object.keys(optionalDependencies ?? {})]);
}

const folders = readdirSync(join(ROOT, 'packages')).filter((folder) =>
  existsSync(join(ROOT, 'packages', folder, 'package.json')),
);

for (const folder of folders) {
  test(`packages/${folder} keeps the import rules`, () => {
    const paths = globSync(`packages/${folder}/{src,bin}/**/*.{ts,mjs}`, { cwd: ROOT });
    const declared = declaredBy(folder);
    const found = paths.flatMap((path) =>
      breaches({ package: folder, path, text: readFileSync(join(ROOT, path), 'utf8') }, declared),
    );
    assert.deepEqual(found, []);
    assert.ok(paths.length > 0);
  });

  test(`packages/${folder} declares what it uses and no more, and its references match`, () => {
    const used = new Set(
      globSync(`packages/${folder}/src/**/*.ts`, { cwd: ROOT }).flatMap((path) =>
        importsOf(readFileSync(join(ROOT, path), 'utf8')).flatMap(
          ({ specifier }) => packageOf(specifier) ?? [],
        ),
      ),
    );
    const idle = [...declaredBy(folder)].filter((name) => !used.has(name) && name.startsWith('@presync/'));
    assert.deepEqual(idle, [], 'declared and not imported');
    const { references }: { references: { path: string }[] } = JSON.parse(
      readFileSync(join(ROOT, 'packages', folder, 'tsconfig.json'), 'utf8'),
    );
    const referenced = new Set(
      references.map((reference) => `@presync/${reference.path.replace('../', '')}`),
    );
    const unreferenced = [...used].filter((name) => name.startsWith('@presync/') && !referenced.has(name));
    assert.deepEqual(unreferenced, [], 'imported, and not among the references of tsconfig.json');
  });
}

test('every import of a sibling resolves to a file', () => {
  const missing: string[] = [];
  for (const path of globSync('{packages/*/{src,test},test,scripts,bench}/**/*.ts', { cwd: ROOT })) {
    for (const { specifier } of importsOf(readFileSync(join(ROOT, path), 'utf8'))) {
      const [, sibling, entry] = /^@presync\/([a-z]+)\/(.+)$/.exec(specifier) ?? [];
      if (sibling === undefined) continue;
      const target = packageJson(sibling).exports?.['./*']?.replace('*', entry ?? '') ?? '';
      if (!existsSync(join(ROOT, 'packages', sibling, target))) missing.push(`${path}: ${specifier}`);
    }
  }
  assert.deepEqual(missing, []);
});

test('the graph names every package and has no cycle', () => {
  assert.deepEqual(folders.toSorted(), Object.keys(ALLOWED).toSorted());
  const depth = (name: string, above: readonly string[]): void => {
    assert.ok(!above.includes(name), `${[...above, name].join(' → ')}`);
    for (const next of ALLOWED[name] ?? []) depth(next, [...above, name]);
  };
  for (const name of folders) depth(name, []);
});

test('the lockfile names no host', () => {
  const lock: { packages: Record<string, { resolved?: string; integrity?: string; link?: boolean }> } =
    JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8'));
  const hosts = Object.entries(lock.packages)
    .filter(([, entry]) => /^[a-z+]+:\/\//.test(entry.resolved ?? ''))
    .map(([path]) => path);
  assert.deepEqual(hosts, []);
});

const DECLARED = new Set([
  '@presync/runtime',
  '@presync/store',
  '@aws-sdk/client-s3',
  '@polkadot/api',
  'zod',
]);

function check(folder: string, file: string, text: string): string[] {
  return breaches({ package: folder, path: `packages/${folder}/${file}`, text }, DECLARED);
}

for (const [what, folder, file, text, expected] of [
  [
    'a sibling that is not allowed',
    'runtime',
    'src/a.ts',
    "import { x } from '@presync/store/s3';",
    /must not import/,
  ],
  [
    'a program that imports another',
    'snapshotter',
    'src/a.ts',
    "import '@presync/bootstrap/x';",
    /must not import boot/,
  ],
  [
    'internals of another package',
    'cli',
    'src/a.ts',
    "import { x } from '@presync/store/src/lib/x';",
    /no public/,
  ],
  [
    'a path into another package',
    'cli',
    'src/a.ts',
    "import { x } from '../../store/src/s3.ts';",
    /reaches into/,
  ],
  [
    'an undeclared dependency',
    'format',
    'src/a.ts',
    "import {\n  type A,\n  b,\n} from 'left-pad';",
    /does not declare/,
  ],
  ['an undeclared re-export', 'format', 'src/a.ts', "export * from 'left-pad';", /does not declare/],
  ['a cloud SDK elsewhere', 'store', 'src/open.ts', "await import('@aws-sdk/client-s3');", /adapter only/],
  [
    'a cloud SDK at start',
    'store',
    'src/s3.ts',
    "import { S3Client } from '@aws-sdk/client-s3';",
    /by import\(\)/,
  ],
  [
    "a cloud's API in an adapter",
    'store',
    'src/s3.ts',
    "await import('@aws-sdk/client-auto-scaling');",
    /adapter only/,
  ],
  [
    "a store's SDK in a cloud",
    'bootstrap',
    'src/lib/cloud-aws.ts',
    "await import('@aws-sdk/client-s3');",
    /adapter only/,
  ],
  [
    "a cloud's API at start",
    'bootstrap',
    'src/lib/cloud-aws-group.ts',
    "import { AutoScalingClient } from '@aws-sdk/client-auto-scaling';",
    /by import\(\)/,
  ],
  ['@polkadot elsewhere', 'store', 'src/a.ts', "await import('@polkadot/api');", /packages\/node only/],
  ['@polkadot at start', 'node', 'src/a.ts', "import { ApiPromise } from '@polkadot/api';", /by import\(\)/],
  ['an exit in a library', 'store', 'src/a.ts', 'if (x) process.exit(1);', /ends the process/],
  ['a file that is too long', 'store', 'src/a.ts', 'x;\n'.repeat(451), /451 lines/],
  ['a package outside the graph', 'extra', 'src/a.ts', '', /not in the graph/],
] as const) {
  test(`the rules find ${what}`, () => {
    const found = check(folder, file, text);
    assert.ok(
      found.some((line) => expected.test(line)),
      `${JSON.stringify(found)} has no ${expected}`,
    );
  });
}

test('the rules leave alone what is right', () => {
  assert.deepEqual(
    check(
      'store',
      'src/s3.ts',
      "import type { S3Client } from '@aws-sdk/client-s3';\nawait import('@aws-sdk/client-s3');",
    ),
    [],
  );
  assert.deepEqual(
    check(
      'store',
      'src/a.ts',
      "// import x from 'left-pad'\n/* process.exit(1) */\nimport { join } from 'node:path';",
    ),
    [],
  );
  assert.deepEqual(
    check(
      'store',
      'src/a.ts',
      "export const hint = 'https://x'; import { z } from 'zod';\nimport { y } from './y.ts';",
    ),
    [],
  );
  assert.deepEqual(check('runtime', 'src/lifecycle.ts', 'process.exit(1);'), []);
  assert.deepEqual(check('cli', 'bin/presync.mjs', 'process.exit(1);'), []);
});
