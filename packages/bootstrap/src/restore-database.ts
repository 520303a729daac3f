import { readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { IndexedFile } from '@presync/format/index-file';
import type { Manifest, ManifestPart } from '@presync/format/manifest';
import type { PublicKey } from '@presync/format/signature';
import { type Backend, classifyFile, databasePath } from '@presync/node/layout';
import { databaseHolder } from '@presync/node/locks';
import { errnoOf, ioError, PresyncError } from '@presync/runtime/errors';
import { acquireLock } from '@presync/runtime/lock';
import type { Logger } from '@presync/runtime/log';
import type { ProgressSink } from '@presync/runtime/progress';
import type { ObjectStore } from '@presync/store/object-store';
import { makeFolders } from '@presync/transfer/made-folders';
import {
  listChannels,
  openRepository,
  type Repository,
  resolveSnapshot,
  type Snapshot,
} from '@presync/transfer/repository';
import { interruptedRestore, type RestoreResult, restoreSnapshot } from '@presync/transfer/restore';
import { readSeen, recordSeen } from '@presync/transfer/seen';

export interface RestoreDatabaseOptions {
  store: ObjectStore;
  basePath: string;
  /** Default: the repository's only channel. */
  channel?: string | undefined;
  snapshot: 'latest' | number;
  trusted: readonly PublicKey[] | 'anybody';
  /** Demanded of the snapshot, where given. */
  chain?: string | undefined;
  backend?: Backend | undefined;
  genesisHash?: string | undefined;
  /** Refuse a snapshot that is older, milliseconds. */
  maxAgeMs?: number | undefined;
  /** `keep` leaves a database that is there, and does nothing. */
  existing: 'refuse' | 'keep' | 'reuse' | 'replace';
  owner?: { uid: number; gid: number } | undefined;
  concurrency?: number | undefined;
  stateDir: string;
  /** Check everything, and write nothing. */
  dryRun?: boolean | undefined;
  log: Logger;
  progress: ProgressSink;
  signal: AbortSignal;
}

export interface RestoreDatabaseResult {
  snapshot: Snapshot;
  /** Absent when nothing was restored: a dry run, or a database that was kept. */
  restored?: RestoreResult | undefined;
  kept: boolean;
  /** The database folders. */
  targets: string[];
}

/**
 * Resolves, verifies and checks a snapshot against this machine, and restores it. Every refusal comes before anything is written. One restore at a time
 * for a base path (LOCKED).
 */
export async function restoreDatabase(options: RestoreDatabaseOptions): Promise<RestoreDatabaseResult> {
  const { store, signal, stateDir, basePath } = options;
  const repository = await openRepository(store, { signal });
  const channel = options.channel ?? (await onlyChannel(repository, signal));
  const subject = { stateDir, repositoryId: repository.id, channel };
  const snapshot = await resolveSnapshot(repository, {
    channel,
    snapshot: options.snapshot,
    trusted: options.trusted,
    genesisHash: options.genesisHash,
    seen: await readSeen(subject),
    signal,
  });
  const { manifest } = snapshot;
  assertFits(manifest, options);
  const targets = manifest.node.parts.map((part) => join(basePath, ...part.path.split('/')));
  const assertTargets = async (): Promise<void> => {
    for (const part of manifest.node.parts) await assertTarget(basePath, part, signal);
  };
  await assertTargets();
  const keep = options.existing === 'keep' && (await isWhole(basePath, manifest));
  if (keep || options.dryRun === true) return { snapshot, kept: keep, targets };
  const folders = await makeFolders(basePath, options.owner);
  const lock = await acquireLock({ name: 'restore', dir: basePath, signal });
  let done = false;
  try {
    // Again, now that nobody else restores here.
    await assertTargets();
    options.progress.start({
      label: `Restore of ${channel}#${manifest.sequence}`,
      total: manifest.totals.bytes,
    });
    const restored = await restoreSnapshot({
      repository,
      snapshot,
      basePath,
      existing: options.existing === 'keep' ? 'refuse' : options.existing,
      assertFile: (file) => assertDatabaseFile(manifest, file),
      owner: options.owner,
      concurrency: options.concurrency,
      onProgress: (bytes) => options.progress.advance(bytes),
      signal,
    });
    options.progress.finish();
    await recordSeen(subject, { sequence: manifest.sequence, sha256: snapshot.sha256 });
    options.log.info('restore.done', 'the database is in place', {
      channel,
      sequence: manifest.sequence,
      ...restored,
    });
    done = true;
    return { snapshot, restored, kept: false, targets };
  } finally {
    if (!done) await folders.undo();
    await lock.release();
  }
}

/** The channel to use when none is named. */
export async function onlyChannel(repository: Repository, signal: AbortSignal): Promise<string> {
  const channels: string[] = [];
  for await (const channel of listChannels(repository, { signal })) {
    channels.push(channel);
    if (channels.length > 10) break;
  }
  const [first] = channels;
  if (first === undefined) {
    throw new PresyncError('CHANNEL_NOT_FOUND', `${repository.store.location} holds no finished snapshot`, {
      hint: 'take one with "presync snapshot"',
    });
  }
  if (channels.length > 1) {
    throw new PresyncError(
      'CONFIG_INVALID',
      `${repository.store.location} has several channels: ${channels.join(', ')}`,
      { hint: 'choose one with --channel' },
    );
  }
  return first;
}

/** Checks the snapshot against what this machine is for. */
function assertFits(manifest: Manifest, options: RestoreDatabaseOptions): void {
  const name = `snapshot ${manifest.channel}#${manifest.sequence}`;
  if (options.chain !== undefined && manifest.chain.specId !== options.chain) {
    throw new PresyncError(
      'MANIFEST_FOREIGN',
      `${name} is of chain ${manifest.chain.specId}, not ${options.chain}`,
      { hint: 'check --channel and --chain' },
    );
  }
  for (const part of manifest.node.parts) {
    if (options.backend !== undefined && part.backend !== options.backend) {
      throw new PresyncError(
        'TARGET_BACKEND',
        `${name} is a ${part.backend} database, and the node here uses ${options.backend}`,
        {
          hint: 'choose a channel with that backend, or start the node with the other --database',
        },
      );
    }
    if (part.path !== databasePath(manifest.chain.specId, part.backend)) {
      throw new PresyncError(
        'PATH_UNSAFE',
        `${name} would be restored to ${part.path}, where no node of chain ${manifest.chain.specId} looks for it`,
        {
          hint: 'do not use this snapshot',
        },
      );
    }
  }
  const age = Date.now() - Date.parse(manifest.created);
  if (options.maxAgeMs !== undefined && age > options.maxAgeMs) {
    throw new PresyncError(
      'SNAPSHOT_NOT_FOUND',
      `${name} of ${manifest.created} is older than --max-age allows`,
      {
        hint: 'find out why the source node takes no snapshots, or allow an older one',
      },
    );
  }
}

/** Checks the place: nobody has the database open, and no other database would be opened in its stead. */
async function assertTarget(basePath: string, part: ManifestPart, signal: AbortSignal): Promise<void> {
  const target = join(basePath, ...part.path.split('/'));
  const holder = await databaseHolder({ dir: target, backend: part.backend }, { signal });
  if (holder !== undefined) {
    throw new PresyncError(
      'TARGET_RUNNING',
      `${holder.pid === undefined ? 'a node' : `process ${holder.pid}`} has ${target} open`,
      { hint: 'stop the node first' },
    );
  }
  const other: Backend = part.backend === 'rocksdb' ? 'paritydb' : 'rocksdb';
  const specId = part.path.split('/')[1] ?? '';
  const sibling = join(basePath, ...databasePath(specId, other).split('/'));
  if ((await names(sibling)).some((name) => name === 'CURRENT' || name === 'metadata')) {
    throw new PresyncError(
      'TARGET_BACKEND',
      `${sibling} holds a ${other} database of the same chain, which a node may open instead of the restored one`,
      {
        hint: 'move it away, or restore a snapshot with that backend',
      },
    );
  }
  // Substrate takes these for a database of an old layout and moves it into the folder below.
  const stray = (await names(dirname(target))).find(
    (name) => name === 'db_version' || name === 'metadata' || name === 'CURRENT',
  );
  if (stray !== undefined) {
    throw new PresyncError(
      'TARGET_NOT_EMPTY',
      `${join(dirname(target), stray)} belongs to a database of an old layout, which a node would migrate`,
      { hint: 'move it away' },
    );
  }
}

async function names(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return [];
    throw ioError(error, 'list', dir);
  }
}

/** True when every part has a database that can be opened, and none is half restored. */
async function isWhole(basePath: string, manifest: Manifest): Promise<boolean> {
  for (const part of manifest.node.parts) {
    if ((await interruptedRestore(basePath, part.path)) !== undefined) return false;
    const found = await names(join(basePath, ...part.path.split('/')));
    if (!found.includes(part.backend === 'rocksdb' ? 'CURRENT' : 'metadata')) return false;
  }
  return true;
}

/** A snapshot may hold what is on the allow-list of its backend, and nothing else, whoever signed it. */
function assertDatabaseFile(manifest: Manifest, file: IndexedFile): void {
  const part = manifest.node.parts.find(({ path }) => path === dirname(file.path));
  const found = part === undefined ? undefined : classifyFile(part.backend, basename(file.path));
  if (found === file.class) return;
  throw new PresyncError(
    'PATH_UNSAFE',
    `${file.path} is not a file of a ${part?.backend ?? 'known'} database`,
    { hint: 'do not use this snapshot' },
  );
}
