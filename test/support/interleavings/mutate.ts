/**
 * `node mutate.ts [--count N] [--only TEXT] [--profile NAME]`: breaks one rule after the other in a copy of the packages, and says in which world that was found. Exits with 1 when
 * one was not found, or does not apply any more. Before that, worlds with nothing broken must be sound, unless `--only` is given.
 */
import { spawn } from 'node:child_process';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { COLLECTOR_MUTATIONS } from './mutations/collector.ts';
import type { Mutation } from './mutations/mutation.ts';
import { RETENTION_MUTATIONS } from './mutations/retention.ts';
import { WRITER_MUTATIONS } from './mutations/writer.ts';
import { PROFILES } from './profiles.ts';

const MUTATIONS = [...COLLECTOR_MUTATIONS, ...WRITER_MUTATIONS, ...RETENTION_MUTATIONS];
const ROOT = resolve(import.meta.dirname, '../../..');
const { values } = parseArgs({
  options: {
    count: { type: 'string', default: '40' },
    only: { type: 'string', default: '' },
    aimed: { type: 'boolean', default: false },
    after: { type: 'string', default: '' },
    profile: { type: 'string' },
  },
});

const profiles = new Set(PROFILES.filter((name) => values.profile === undefined || name === values.profile));

/** The packages and the campaign, with everything else linked. */
async function copyTo(dir: string): Promise<void> {
  const skip = (from: string): boolean => !/\/(?:node_modules|dist)$/.test(from);
  await cp(join(ROOT, 'packages'), join(dir, 'packages'), { recursive: true, filter: skip });
  await cp(join(ROOT, 'test/support/interleavings'), join(dir, 'test/support/interleavings'), {
    recursive: true,
  });
  const modules = join(dir, 'node_modules');
  await mkdir(join(modules, '@presync'), { recursive: true });
  for (const name of await readdir(join(ROOT, 'node_modules')))
    if (name !== '@presync') await symlink(join(ROOT, 'node_modules', name), join(modules, name));
  for (const name of await readdir(join(dir, 'packages')))
    await symlink(join(dir, 'packages', name), join(modules, '@presync', name));
  await cp(join(ROOT, 'package.json'), join(dir, 'package.json'));
}

/** The first world that shows something wrong. */
function hunt(dir: string, profile: string): Promise<{ seed: number; violation: string } | undefined> {
  const script = join(dir, 'test/support/interleavings/run-worlds.ts');
  const child = spawn(process.execPath, [script, '--count', values.count, '--profile', profile], {
    env: { ...process.env, UV_THREADPOOL_SIZE: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let found: { seed: number; violation: string } | undefined;
  let errors = '';
  createInterface({ input: child.stdout }).on('line', (line) => {
    const { seed, violations } = JSON.parse(line);
    if (violations.length === 0 || found !== undefined) return;
    found = { seed, violation: violations[0] };
    child.kill('SIGTERM');
  });
  child.stderr.on('data', (text) => {
    errors += text;
  });
  return new Promise((done) => {
    child.on('close', (code) => {
      // A world that never ends, or cannot begin, is found as well.
      if (found === undefined && code !== 0) found = { seed: 0, violation: errors.trim().slice(0, 500) };
      done(found);
    });
  });
}

async function tryMutation(dir: string, { name, aimed, also = [], ...edit }: Mutation): Promise<boolean> {
  const intact = new Map<string, string>();
  try {
    for (const { file, from, to } of [edit, ...also]) {
      const path = join(dir, file);
      const text = await readFile(path, 'utf8');
      if (!intact.has(path)) intact.set(path, text);
      if (text.split(from).length !== 2) {
        process.stdout.write(`DOES NOT APPLY  ${name}: ${JSON.stringify(from)}\n`);
        return false;
      }
      await writeFile(
        path,
        text.replace(from, () => to),
      );
    }
    // Those that are aimed at it first.
    for (const profile of [...profiles].sort((a, b) => Number(b === aimed) - Number(a === aimed))) {
      if (values.aimed && aimed !== undefined && profile !== aimed) continue;
      const found = await hunt(dir, profile);
      if (found === undefined) continue;
      process.stdout.write(`found  ${name}: ${profile} ${found.seed}: ${found.violation.split('\n')[0]}\n`);
      return true;
    }
    process.stdout.write(`NOT FOUND  ${name}\n`);
    return false;
  } finally {
    for (const [path, text] of intact) await writeFile(path, text);
  }
}

const dir = await mkdtemp(join(tmpdir(), 'presync-mutations-'));
try {
  await copyTo(dir);
  let missed = 0;
  for (const profile of values.only === '' ? profiles : []) {
    const found = await hunt(dir, profile);
    if (found !== undefined)
      throw new Error(`${profile} ${found.seed}, with nothing broken: ${found.violation}`);
  }
  const begin = MUTATIONS.findIndex(({ name }) => values.after !== '' && name.includes(values.after)) + 1;
  for (const mutation of MUTATIONS.slice(begin)) {
    if (!mutation.name.includes(values.only)) continue;
    if (!(await tryMutation(dir, mutation))) missed += 1;
  }
  process.exitCode = missed === 0 ? 0 : 1;
} finally {
  await rm(dir, { recursive: true, force: true });
}
