/** The events that the sources log are those of the list, and each of the list is logged somewhere. */
import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { EVENTS } from '../../packages/runtime/src/events.ts';
import { withoutComments } from './rules.ts';

const ROOT = join(import.meta.dirname, '../..');

/** A call that logs with a name that stands there; names in variables are held to the list by their type. */
const CALL = /\b(?:log|root|logger)\??\.(?:debug|info|warn|error)\??\.?\(\s*'([^'\n]*)'/g;

function logged(text: string): string[] {
  return [...withoutComments(text).matchAll(CALL)].map(([, name = '']) => name);
}

const sources = globSync('packages/*/src/**/*.ts', { cwd: ROOT })
  .filter((path) => !path.endsWith('runtime/src/events.ts'))
  .map((path) => ({ path, text: readFileSync(join(ROOT, path), 'utf8') }));

test('every event that is logged is in the list', () => {
  const known = new Set(Object.keys(EVENTS));
  const strange = sources.flatMap(({ path, text }) =>
    logged(text)
      .filter((name) => !known.has(name))
      .map((name) => `${path}: ${name}`),
  );
  assert.deepEqual(strange, []);
  assert.ok(sources.flatMap(({ text }) => logged(text)).length > 40);
});

test('every event of the list is logged', () => {
  const all = sources.map(({ text }) => withoutComments(text)).join('\n');
  // `store.settings` and its like are put together from a kind.
  const idle = Object.keys(EVENTS).filter(
    (name) => !all.includes(`'${name}'`) && !all.includes(`\`${name.split('.')[0]}.\${`),
  );
  assert.deepEqual(idle, []);
});

test('names have their form, and meanings are sentences', () => {
  for (const [name, meaning] of Object.entries(EVENTS)) {
    assert.match(name, /^[a-z]+\.[a-z_]+$/);
    assert.match(meaning, /^[A-Z].{10,}\.$/);
  }
});

test('the search finds a call over two lines, and none in a comment', () => {
  assert.deepEqual(logged("log.info(\n  'a.b',\n  'x');\n// log.warn('c.d')\nlog?.warn('e.f', 'x')"), [
    'a.b',
    'e.f',
  ]);
});
