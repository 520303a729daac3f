// Writes the generated reference (`npm run docs`), or with --check fails when a checked-in page is stale.
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { errnoOf } from '../packages/runtime/src/errors.ts';
import { REFERENCE_PAGES, ROOT } from './lib/reference-pages.ts';

const check = process.argv.includes('--check');
let stale = 0;

for (const page of REFERENCE_PAGES) {
  const path = join(ROOT, page.path);
  const content = page.content();
  if ((await currentContent(path)) === content) continue;
  stale++;
  if (check) {
    process.stderr.write(`${relative(ROOT, path)} is stale; run "npm run docs"\n`);
    continue;
  }
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, content);
  process.stdout.write(`wrote ${relative(ROOT, path)}\n`);
}

process.exitCode = check && stale > 0 ? 1 : 0;

async function currentContent(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}
