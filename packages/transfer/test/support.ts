import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zeroDigest } from '@presync/format/digest';
import { readIndex } from '@presync/format/index-file';
import type { Manifest } from '@presync/format/manifest';
import { generateKey, type PrivateKey } from '@presync/format/signature';
import type { ObjectStore } from '@presync/store/object-store';
import {
  downloadIndex,
  openOrCreateRepository,
  type Repository,
  resolveSnapshot,
  type Snapshot,
} from '../src/repository.ts';
import { restoreSnapshot } from '../src/restore.ts';
import {
  type SnapshotDescription,
  type UploadOptions,
  type UploadResult,
  uploadSnapshot,
} from '../src/snapshot.ts';
import type { SourceFile } from '../src/source.ts';

export const PART = 'chains/test/db/full';
export const CHANNEL = 'test/rocksdb';
const GENESIS = `0x${'11'.repeat(32)}`;
export const NEVER: AbortSignal = new AbortController().signal;

/** A scratch folder that goes when the test ends. */
export async function scratch(t: { after(fn: () => Promise<void>): void }): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'presync-test-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

export type Tree = Record<string, Buffer>;

/** A database-like tree: tables that never change, a big one with holes, a log, and a seal. */
export function sampleTree(): Tree {
  const sparse = Buffer.alloc(700_000);
  randomBytes(1000).copy(sparse, 400_000);
  return {
    '000001.sst': randomBytes(300_000),
    '000002.sst': Buffer.alloc(200_000, 'chain'),
    '000003.sst': randomBytes(1000),
    '000004.sst': sparse,
    '000005.log': randomBytes(90_001),
    IDENTITY: Buffer.from('c0ffee'),
    'empty.log': Buffer.alloc(0),
    CURRENT: Buffer.from('MANIFEST-000001\n'),
  };
}

export async function writeTree(dir: string, tree: Tree): Promise<void> {
  await mkdir(dir, { recursive: true });
  for (const [name, bytes] of Object.entries(tree)) await writeFile(join(dir, name), bytes);
}

export async function readTree(dir: string): Promise<Tree> {
  const tree: Tree = {};
  for (const name of (await readdir(dir)).sort()) tree[name] = await readFile(join(dir, name));
  return tree;
}

export async function sourceFiles(dir: string, part = PART): Promise<SourceFile[]> {
  const files: SourceFile[] = [];
  for (const name of await readdir(dir)) {
    const path = join(dir, name);
    const info = await stat(path, { bigint: true });
    if (!info.isFile()) continue;
    files.push({
      path: `${part}/${name}`,
      size: Number(info.size),
      class: name === 'CURRENT' ? 'seal' : name.endsWith('.sst') ? 'immutable' : 'mutable',
      mode: Number(info.mode & 0o7777n),
      mtimeMs: Number(info.mtimeMs),
      readPath: path,
      identity: { dev: info.dev, ino: info.ino, mtimeNs: info.mtimeNs, birthtimeNs: info.birthtimeNs },
    });
  }
  return files;
}

export interface World {
  repository: Repository;
  key: PrivateKey;
  /** The source database's folder. */
  source: string;
  stateDir: string;
  dir: string;
  snapshot(options?: Partial<UploadOptions>): Promise<UploadResult>;
}

export async function createWorld(dir: string, store: ObjectStore, chunkSize = 64 * 1024): Promise<World> {
  const repository = await openOrCreateRepository(store, { chunkSize, signal: NEVER });
  const key = generateKey();
  const source = join(dir, 'source', ...PART.split('/'));
  const stateDir = join(dir, 'state');
  return {
    repository,
    key,
    source,
    stateDir,
    dir,
    snapshot: async (options = {}) =>
      uploadSnapshot({
        repository,
        channel: CHANNEL,
        files: await sourceFiles(source),
        databaseIdentity: 'c0ffee',
        describe: describeParts([
          { role: 'main', backend: 'rocksdb', path: PART, databaseVersion: '4', identity: 'c0ffee' },
        ]),
        keys: [key],
        stateDir,
        signal: NEVER,
        ...options,
      }),
  };
}

/** Digests of the chunks that a restore of the snapshot fetches: a whole chunk of zeros never is. */
export async function neededChunks(
  repository: Repository,
  manifest: Manifest,
  scratchFile: string,
): Promise<string[]> {
  await downloadIndex(repository, manifest, scratchFile, { signal: NEVER });
  const needed = new Set<string>();
  const options = {
    length: manifest.index.length,
    chunkSize: repository.chunkSize,
    parts: [PART],
    what: 'the index',
    signal: NEVER,
  };
  for await (const chunk of readIndex(scratchFile, options)) {
    if (chunk.segments.length > 0 && chunk.sha256 !== zeroDigest(repository.chunkSize))
      needed.add(chunk.sha256);
  }
  return [...needed];
}

/** The channel's newest snapshot, trusted by the world's own key. */
export function newestSnapshot({ repository, key }: World): Promise<Snapshot> {
  return resolveSnapshot(repository, { channel: CHANNEL, snapshot: 'latest', trusted: [key], signal: NEVER });
}

/** Restores the newest snapshot to a new base path and compares every byte with the source. */
export async function assertRestoresNewest(world: World, basePath: string): Promise<void> {
  const { repository, source } = world;
  const snapshot = await newestSnapshot(world);
  await restoreSnapshot({ repository, snapshot, basePath, assertFile: () => {}, signal: NEVER });
  assert.deepEqual(await readTree(join(basePath, PART)), await readTree(source));
}

/** What a manifest says beside its totals, of a source that has no node. */
export function describeParts(parts: SnapshotDescription['node']['parts']): SnapshotDescription {
  return {
    expires: null,
    chain: {
      specId: 'test',
      name: null,
      genesisHash: GENESIS,
      anchor: null,
      head: null,
      blockTimeMs: null,
    },
    node: { implementation: null, version: null, statePruning: null, blocksPruning: null, parts },
    pause: { strategy: 'none', seconds: 0 },
  };
}
