import { acquireLock } from '@presync/runtime/lock';
import type { ProgressSink } from '@presync/runtime/progress';
import type { SourceReport } from '@presync/store/sources';
import { assertDatabaseFile } from '@presync/transfer/database-file';
import { makeFolders } from '@presync/transfer/made-folders';
import { partTargets, placeOf } from '@presync/transfer/part-targets';
import type { Snapshot } from '@presync/transfer/repository';
import { type RestoreResult, restoreSnapshot } from '@presync/transfer/restore';
import { recordSeen } from '@presync/transfer/seen';
import { type FindSnapshotOptions, findSnapshot } from './find-snapshot.ts';
import { assertTarget, isWhole } from './lib/target.ts';

export interface RestoreDatabaseOptions extends FindSnapshotOptions {
  basePath: string;
  /** The relay chain's, where the target's is not `polkadot/` in the base path. */
  relayBasePath?: string | undefined;
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
  const targets = partTargets(manifest, options).map(({ target }) => target);
  const parts = manifest.node.parts.map((part) => ({ ...part, ...placeOf(part, options) }));
  const assertTargets = async (): Promise<void> => {
    for (const part of parts) await assertTarget(part.basePath, part, signal);
  };
  await assertTargets();
  const keep = options.existing === 'keep' && (await isWhole(parts));
  if (keep || options.dryRun === true) return { snapshot, kept: keep, targets, sources: [] };
  const folders = await makeFolders(basePath, options.owner);
  const { relayBasePath } = options;
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
      relayBasePath,
      existing: options.existing === 'keep' ? 'refuse' : options.existing,
      assertFile: (file) => assertDatabaseFile(manifest, file),
      owner: options.owner,
      concurrency: options.concurrency,
      onProgress: (bytes) => options.progress.advance(bytes),
      onEvent: (event, message, details) => options.log.info(event, message, details),
      signal,
    });
    options.progress.finish();
    await recordSeen(subject, { sequence: manifest.sequence, sha256: snapshot.sha256 }, { signal });
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
