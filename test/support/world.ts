/** A real database and a repository for it, for tests that begin there. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { presyncOk } from './presync.ts';
import { DEV_GENESIS, type FixtureBackend, unpackFixture } from './real-node.ts';

export interface Source {
  /** Everything lies below this folder, which goes when the test ends. */
  dir: string;
  /** Base path of the source. */
  base: string;
  /** The database folder, below a base path. */
  database: string;
  /** Folder of the file store, and its URL. */
  storeDir: string;
  store: string;
  /** Arguments that `presync snapshot` and `presync snapshotter` take from it. */
  takeArgs: string[];
  /** The public key, as `--trust` takes it. */
  trust: string;
}

export interface World extends Source {
  /** Arguments of `presync snapshot` for another one. */
  snapshotArgs: string[];
}

interface SourceOptions {
  backend?: FixtureBackend;
  more?: string[];
}

/** A real database that no node has open, a key and a place for a repository. */
export async function createSource(
  t: Pick<TestContext, 'after'>,
  { backend = 'rocksdb', more = [] }: SourceOptions = {},
): Promise<Source> {
  const dir = await mkdtemp(join(tmpdir(), 'presync-world-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const base = join(dir, 'source');
  await unpackFixture(backend, base);
  const key = join(dir, 'key.pem');
  await presyncOk(['keys', 'new', '--out', key]);
  const trust = (await presyncOk(['keys', 'public', key])).stdout.trim();
  const storeDir = join(dir, 'store');
  const store = `file://${storeDir}`;
  const takeArgs = [
    ...['--base-path', base, '--store', store, '--pause', 'none', '--genesis', DEV_GENESIS],
    ...['--sign-key', key, '--state-dir', join(dir, 'source-state'), ...more],
  ];
  const database = backend === 'rocksdb' ? 'chains/dev/db/full' : 'chains/dev/paritydb/full';
  return { dir, base, database, storeDir, store, takeArgs, trust };
}

/** A source of which one snapshot is taken. */
export async function createWorld(
  t: Pick<TestContext, 'after'>,
  options: SourceOptions = {},
): Promise<World> {
  const source = await createSource(t, options);
  const snapshotArgs = ['snapshot', ...source.takeArgs];
  await presyncOk(snapshotArgs);
  return { ...source, snapshotArgs };
}
