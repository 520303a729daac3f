import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Manifest, ManifestPart } from '@presync/format/manifest';
import { type Backend, databasePath } from '@presync/node/layout';
import { databaseHolder } from '@presync/node/locks';
import { errnoOf, ioError, PresyncError } from '@presync/runtime/errors';
import { acquireLock } from '@presync/runtime/lock';
import type { ProgressSink } from '@presync/runtime/progress';
import type { SourceReport } from '@presync/store/sources';
import { makeFolders } from '@presync/transfer/made-folders';
import type { Snapshot } from '@presync/transfer/repository';
import { interruptedRestore, type RestoreResult, restoreSnapshot } from '@presync/transfer/restore';
import { recordSeen } from '@presync/transfer/seen';
import { assertDatabaseFile, type FindSnapshotOptions, findSnapshot } from './find-snapshot.ts';

export interface RestoreDatabaseOptions extends FindSnapshotOptions {
  basePath: string;
  /** `keep` leaves a database that is there, and does nothing. */
  existing: 'refuse' | 'keep' | 'reuse' | 'replace';
  owner?: { uid: number; gid: number } | undefined;
  concurrency?: number | undefined;
  /** Check everything, and write nothing. */
  dryRun?: boolean | undefined;
  progress: ProgressSink;
}

export interface RestoreDatabaseResult {
  snapshot: Snapshot;
  /** Absent when nothing was restored: a dry run, or a database that was kept. */
  restored?: RestoreResult | undefined;
  kept: boolean;
  /** What each source did. */
  sources: SourceReport[];
  /** The database folders. */
  targets: string[];
}

/**
 * Resolves, verifies and checks a snapshot against this machine, and restores it. Every refusal comes before anything is written. One restore at a time
 * for a base path (LOCKED).
 */
export async function restoreDatabase(options: RestoreDatabaseOptions): Promise<RestoreDatabaseResult> {
  const { signal, stateDir, basePath, from } = options;
  const { repository, channel, snapshot } = await findSnapshot(options);
  const subject = { stateDir, repositoryId: repository.id, channel };
  const { manifest } = snapshot;
  const targets = manifest.node.parts.map((part) => join(basePath, ...part.path.split('/')));
  const assertTargets = async (): Promise<void> => {
    for (const part of manifest.node.parts) await assertTarget(basePath, part, signal);
  };
  await assertTargets();
  const keep = options.existing === 'keep' && (await isWhole(basePath, manifest));
  if (keep || options.dryRun === true) return { snapshot, kept: keep, targets, sources: [] };
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
    const sources = from.sources.report();
    options.log.info('restore.done', 'the database is in place', {
      channel,
      sequence: manifest.sequence,
      ...restored,
      sources,
    });
    done = true;
    return { snapshot, restored, kept: false, targets, sources };
  } finally {
    if (!done) await folders.undo();
    await lock.release();
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
