import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import fs, { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { ManifestPart } from '@presync/format/manifest';
import { isPresyncError } from '@presync/runtime/errors';
import { createFileStore } from '@presync/store/file';
import { openForeignStage } from '../src/foreign.ts';
import { resolveSnapshot, type Snapshot } from '../src/repository.ts';
import { type ExistingPolicy, type RestoreResult, restoreSnapshot } from '../src/restore.ts';
import {
  CHANNEL,
  createWorld,
  describeParts,
  NEVER,
  PART,
  sampleTree,
  sourceFiles,
  type Tree,
  type World,
  writeTree,
} from './support.ts';

const RELAY = 'polkadot/chains/relay/db/full';
/** Lies in the folder of the one before it. */
const NESTED = `${RELAY}/parachains/db`;
const PARTS = [PART, RELAY, NESTED] as const;

const part = (role: string, path: string): ManifestPart => ({
  role,
  backend: 'rocksdb',
  path,
  databaseVersion: '4',
  identity: 'c0ffee',
});

type Trees = Record<string, Tree>;

/** A snapshot of three databases, and how they looked. */
async function take(world: World, dir: string, trees: Trees): Promise<Snapshot> {
  const files = [];
  for (const path of PARTS) {
    const folder = join(dir, 'parts', path);
    await rm(folder, { recursive: true, force: true });
    await writeTree(folder, trees[path] ?? {});
  }
  for (const path of PARTS) {
    files.push(...(await sourceFiles(join(dir, 'parts', path), path)));
  }
  const { manifest } = await world.snapshot({
    files,
    describe: describeParts([part('main', PART), part('relay', RELAY), part('relay-parachains', NESTED)]),
  });
  return resolveSnapshot(world.repository, {
    channel: CHANNEL,
    snapshot: manifest.sequence,
    trusted: [world.key],
    signal: NEVER,
  });
}

function madeTrees(mark: string): Trees {
  const tree = (name: string): Tree => ({
    ...sampleTree(),
    '000009.sst': Buffer.alloc(2000, `${mark} ${name}`),
    '000010.sst': randomBytes(100_000),
    CURRENT: Buffer.from(`MANIFEST of ${mark} ${name}\n`),
  });
  return Object.fromEntries(PARTS.map((path) => [path, tree(path)]));
}

describe('a snapshot of several databases', () => {
  let dir: string;
  let world: World;
  const trees = { old: madeTrees('old'), first: madeTrees('first'), second: madeTrees('second') };
  let first: Snapshot;
  let second: Snapshot;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'presync-parts-'));
    world = await createWorld(dir, createFileStore({ dir: join(dir, 'store') }));
    await mkdir(world.source, { recursive: true });
    first = await take(world, dir, trees.first);
    second = await take(world, dir, trees.second);
  });
  after(() => rm(dir, { recursive: true, force: true }));

  const restore = (
    base: string,
    snapshot: Snapshot,
    existing?: ExistingPolicy,
    relayBasePath?: string,
  ): Promise<RestoreResult> =>
    restoreSnapshot({
      repository: world.repository,
      snapshot,
      basePath: base,
      relayBasePath,
      existing,
      assertFile: () => {},
      signal: NEVER,
    });

  /** What stands at each part's place: the name of a set of trees, `none`, or `mixed` for anything else. */
  async function look(base: string): Promise<string[]> {
    const seen: string[] = [];
    for (const path of PARTS) {
      const folder = join(base, path);
      if (!existsSync(folder)) {
        seen.push('none');
        continue;
      }
      const found = await readFiles(folder);
      const name = Object.entries(trees).find(([, set]) => sameTree(set[path] ?? {}, found))?.[0];
      seen.push(name ?? 'mixed');
    }
    return seen;
  }

  async function assertDone(base: string, name: keyof typeof trees): Promise<void> {
    assert.deepEqual(await look(base), [name, name, name]);
    assert.deepEqual(await readdir(dirname(join(base, PART))), ['full']);
    assert.deepEqual(await readdir(dirname(join(base, RELAY))), ['full']);
  }

  async function oldOnes(base: string): Promise<void> {
    for (const path of PARTS) await writeTree(join(base, path), trees.old[path] ?? {});
  }

  it('says that a reader must know of several, and comes back whole', async () => {
    assert.deepEqual(first.manifest.format.features, ['parts']);
    const base = join(dir, 'fresh');
    await restore(base, first);
    await assertDone(base, 'first');
    await assert.rejects(restore(base, second), (error) => isPresyncError(error, 'TARGET_NOT_EMPTY'));
    await restore(base, second, 'reuse');
    await assertDone(base, 'second');
  });

  it('is refused whole when one place is taken', async () => {
    for (const taken of [PART, RELAY]) {
      const base = join(dir, `taken-${taken.length}`);
      await writeTree(join(base, taken), trees.old[taken] ?? {});
      await assert.rejects(restore(base, first), (error) => isPresyncError(error, 'TARGET_NOT_EMPTY'));
      const other = taken === PART ? RELAY : PART;
      assert.equal(existsSync(join(base, other)), false);
    }
  });

  it('goes to two base paths, and is not taken for sealed when they are others', async () => {
    const base = join(dir, 'two');
    const relayBase = join(dir, 'relay-base');
    await restore(base, first, undefined, relayBase);
    const at = (path: string): string => join(relayBase, path.slice('polkadot/'.length));
    assert.ok(sameTree(await readFiles(at(RELAY)), trees.first[RELAY] ?? {}));
    assert.ok(sameTree(await readFiles(at(NESTED)), trees.first[NESTED] ?? {}));
    assert.equal(existsSync(join(base, 'polkadot')), false);
    const stopped = join(dir, 'other-places');
    await killedAt(2, () => restore(stopped, first, undefined, join(dir, 'relay-a')));
    const again = await restore(stopped, first, undefined, join(dir, 'relay-b'));
    assert.equal(again.wasSealed, false);
    assert.ok(
      sameTree(await readFiles(join(dir, 'relay-b', 'chains/relay/db/full')), trees.first[RELAY] ?? {}),
    );
  });

  for (const previous of ['old', 'none'] as const) {
    it(`never shows a node a mixture, wherever it is killed (${previous} before)`, async (t) => {
      let steps = 0;
      const seen = new Set<string>();
      for (let step = 0; ; step++) {
        const base = join(dir, `${previous}-${step}`);
        if (previous === 'old') await oldOnes(base);
        const killed = await killedAt(step, () => restore(base, first, 'replace'));
        if (!killed) {
          await assertDone(base, 'first');
          break;
        }
        steps += 1;
        const left = await look(base);
        seen.add(left.join(' '));
        assertNoMixture(left, previous);
        const otherBase = `${base}-other`;
        await fs.cp(base, otherBase, { recursive: true });
        await moveNotes(base, otherBase);
        // The same again completes it.
        await restore(base, first, 'replace');
        await assertDone(base, 'first');
        // Another one that is refused brings back what was there, if the first was not in place.
        const refused = await restore(otherBase, second).then(
          () => false,
          (error: unknown) => isPresyncError(error, 'TARGET_NOT_EMPTY'),
        );
        const now = await look(otherBase);
        if (left[0] === 'first') assert.deepEqual([now, refused], [['first', 'first', 'first'], true]);
        else if (previous === 'old') assert.deepEqual([now, refused], [['old', 'old', 'old'], true]);
        else assert.deepEqual([now, refused], [['second', 'second', 'second'], false]);
      }
      t.diagnostic(`${steps} steps, seen: ${[...seen].join('; ')}`);
      assert.ok(steps >= 8 && seen.size >= 3, `${steps} steps were tried, and ${seen.size} states seen`);
    });
  }

  it('puts the old ones back when one cannot be moved', async () => {
    const base = join(dir, 'busy');
    await oldOnes(base);
    const real = fs.rename;
    fs.rename = async (from, to) => {
      if (String(from) === join(base, RELAY)) throw Object.assign(new Error('busy'), { code: 'EBUSY' });
      return real(from, to);
    };
    syncBuiltinESMExports();
    try {
      await assert.rejects(
        restore(base, first, 'replace'),
        (error) => isPresyncError(error, 'TARGET_UNWRITABLE') && /mount point/.test(error.message),
      );
    } finally {
      fs.rename = real;
      syncBuiltinESMExports();
    }
    assert.deepEqual(await look(base), ['old', 'old', 'old']);
    assert.equal((await restore(base, first, 'replace')).wasSealed, true);
    await assertDone(base, 'first');
  });

  it('a restore from an archive brings the others back before it begins', async () => {
    const base = join(dir, 'archive');
    await oldOnes(base);
    // Both old ones are aside, and the relay chain's new one is in place.
    let step = 0;
    do {
      await rm(base, { recursive: true });
      await oldOnes(base);
      await killedAt(step++, () => restore(base, first, 'replace'));
    } while ((await look(base)).join() !== 'none,first,first');
    await assert.rejects(
      openForeignStage({ basePath: base, part: PART, existing: 'refuse', identity: 'x', signal: NEVER }),
      (error) => isPresyncError(error, 'TARGET_NOT_EMPTY'),
    );
    assert.deepEqual(await look(base), ['old', 'old', 'old']);
  });

  it('a note of a swap that is damaged is an error that names it', async () => {
    const base = join(dir, 'damaged');
    const note = join(dirname(join(base, PART)), '.presync', 'swap.json');
    await mkdir(dirname(note), { recursive: true });
    await writeFile(note, '{}');
    await assert.rejects(
      restore(base, first),
      (error) => isPresyncError(error, 'TARGET_NOTES_DAMAGED') && error.message.includes(note),
    );
  });
});

/** While the main one has no database a node makes a new one; with one, it must have those of the same time. */
function assertNoMixture(left: readonly string[], previous: string): void {
  const [main, ...others] = left;
  assert.ok(!left.includes('mixed'), left.join(' '));
  if (main === 'none') return;
  const expected = main === 'old' ? previous : 'first';
  assert.deepEqual(others, [expected, expected], `a node would open ${left.join(', ')}`);
}

/** The notes of a copied base path name the places of the copy. */
async function moveNotes(from: string, to: string): Promise<void> {
  const path = join(dirname(join(to, PART)), '.presync', 'swap.json');
  if (!existsSync(path)) return;
  await writeFile(path, (await fs.readFile(path, 'utf8')).replaceAll(`${from}/`, `${to}/`));
}

/**
 * Runs a restore and stops it for ever before the n-th rename or removal from the note of the swap on, as a process that is killed there leaves the disk. False when it
 * came to its end.
 */
async function killedAt(n: number, work: () => Promise<unknown>): Promise<boolean> {
  const real = { rename: fs.rename, rm: fs.rm };
  const killed = Promise.withResolvers<true>();
  let begun = false;
  let count = 0;
  const step = async (): Promise<void> => {
    if (!begun || count++ < n) return;
    killed.resolve(true);
    await new Promise(() => {});
  };
  fs.rename = async (from, to) => {
    if (String(to).endsWith('/swap.json')) begun = true;
    await step();
    return real.rename(from, to);
  };
  fs.rm = async (path, options) => {
    await step();
    return real.rm(path, options);
  };
  syncBuiltinESMExports();
  try {
    return await Promise.race([killed.promise, work().then(() => false)]);
  } finally {
    Object.assign(fs, real);
    syncBuiltinESMExports();
  }
}

/** The files of a folder, without what lies deeper. */
async function readFiles(folder: string): Promise<Tree> {
  const tree: Tree = {};
  for (const entry of await readdir(folder, { withFileTypes: true }))
    if (entry.isFile()) tree[entry.name] = await fs.readFile(join(folder, entry.name));
  return tree;
}

function sameTree(a: Tree, b: Tree): boolean {
  const names = Object.keys(a).sort();
  return (
    names.join() === Object.keys(b).sort().join() &&
    names.every((name) => a[name]?.equals(b[name] ?? Buffer.alloc(0)))
  );
}
