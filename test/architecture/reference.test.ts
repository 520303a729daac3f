import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { REFERENCE_PAGES, ROOT } from '../../scripts/lib/reference-pages.ts';

for (const { path, content } of REFERENCE_PAGES) {
  test(`${path} is what the sources generate`, () => {
    const file = join(ROOT, path);
    const checkedIn = existsSync(file) ? readFileSync(file, 'utf8') : '';
    assert.ok(checkedIn === content(), `${path} is stale; run "npm run docs"`);
  });
}
