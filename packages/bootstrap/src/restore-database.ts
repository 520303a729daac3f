import { isPresyncError } from '@presync/runtime/errors';
import { acquireLock } from '@presync/runtime/lock';
import type { ProgressSink } from '@presync/runtime/progress';
import type { SourceReport } from '@presync/store/sources';
import { assertDatabaseFile } from '@presync/transfer/database-file';
import { makeFolders } from '@presync/transfer/made-folders';
import { partTargets, placeOf } from '@presync/transfer/part-targets';
import { type RestoreResult, restoreSnapshot } from '@presync/transfer/restore';
import { type Restored, readRestored, recordRestored } from '@presync/transfer/restored';
import { recordSeen } from '@presync/transfer/seen';
import { type FindSnapshotOptions, findSnapshot, isFit } from './find-snapshot.ts';
import { createSeal } from './lib/seal.ts';
import { assertTarget, isWhole } from './lib/target.ts';
import type { Phase } from './lib/timeline.ts';
import {
  type Finding,
  heed,
  type PreflightSettings,
  preflight,
  subjectOf,
  toldBackend,
} from './preflight.ts';

export interface RestoreDatabaseOptions extends FindSnapshotOptions {
  basePath: string;
  /** The relay chain's, where the target's is not `polkadot/` in the base path. */
  relayBasePath?: string | undefined;
  /** `keep` leaves a database that is there, and does nothing. */
  existing: 'refuse' | 'keep' | 'reuse' | 'replace';
  owner?: { uid: number; gid: number } | undefined;
  /** What is compared. Default: only what needs no knowledge of the node. */
  preflight?: PreflightSettings | undefined;
  concurrency?: number | undefined;
  /** Check everything, and write nothing. */
  dryRun?: boolean | undefined;
  /** The file that says that the database is whole: taken away before anything is changed, and put back afterwards. */
  sealedFile?: string | undefined;
  /** Called when a step of the work begins. */
  onPhase?: ((phase: Phase) => void) | undefined;
  progress: ProgressSink;
}

export interface RestoreDatabaseResult {
  /** What the database is, or would be. */
  snapshot: Restored;
  /** Absent when nothing was restored: a dry run, or a database that was kept. */
  restored?: RestoreResult | undefined;
  kept: boolean;
  /** What each source did. */
  sources: SourceReport[];
  /** The database folders. */
  targets: string[];
  /** What the preflight found; none of it is a refusal. */
  findings: readonly Finding[];
}

/**
 * Resolves, verifies and checks a snapshot against this machine, and restores it. Every refusal comes before anything is written. One restore at a time
 * for a base path (LOCKED). A whole database that presync has restored and that is to be kept needs no store.
 */
export async function restoreDatabase(options: RestoreDatabaseOptions): Promise<RestoreDatabaseResult> {
  const { signal, stateDir, basePath, from, onPhase = () => {} } = options;
  onPhase('resolve');
  const kept = await findKept(options);
  if (kept !== undefined) return kept;
  const { repository, channel, snapshot } = await findSnapshot(options);
  const subject = { stateDir, repositoryId: repository.id, channel };
  const { manifest } = snapshot;
  const targets = partTargets(manifest, options).map(({ target }) => target);
  const parts = manifest.node.parts.map((part) => ({ ...part, ...placeOf(part, options) }));
  const isKept = options.existing === 'keep' && (await isWhole(parts));
  const findings = await checkAll(options, snapshot, { restores: !isKept });
  if (isKept || options.dryRun === true) return { snapshot, kept: isKept, targets, sources: [], findings };
  const folders = await makeFolders(basePath, options.owner);
  const { relayBasePath } = options;
  const lock = await acquireLock({ name: 'restore', dir: basePath, signal });
  const seal = createSeal(options.sealedFile);
  let before: string | undefined;
  let done = false;
  try {
    // Again, now that nobody else restores here.
    for (const part of parts)
      await assertTarget(part.basePath, part, { opens: toldBackend(findings, part), signal });
    before = await seal.break();
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
      onPhase,
      beforeSwap: () => recordRestored(options, snapshot),
      signal,
    });
    options.progress.finish();
    await recordSeen(subject, { sequence: manifest.sequence, sha256: snapshot.sha256 }, { signal });
    if (before !== undefined) await seal.set(sealOf(snapshot));
    const sources = from.sources.report();
    options.log.info('restore.done', 'the database is in place', {
      channel,
      sequence: manifest.sequence,
      ...restored,
      sources,
    });
    done = true;
    return { snapshot, restored, kept: false, targets, sources, findings };
  } finally {
    if (!done) {
      await folders.undo();
      // What was there before was not touched.
      if (before !== undefined && (await isWhole(parts))) await seal.set(before);
    }
    await lock.release();
  }
}

/** What the seal says of the database. */
export function sealOf({ manifest, sha256 }: Restored): string {
  const { channel, sequence, chain } = manifest;
  const sealed = new Date().toISOString();
  return `${JSON.stringify({ channel, sequence, manifest: sha256, anchor: chain.anchor, sealed })}\n`;
}

/** The whole database that presync has put here and that is to be kept, if there is one. */
async function findKept(options: RestoreDatabaseOptions): Promise<RestoreDatabaseResult | undefined> {
  if (options.existing !== 'keep') return undefined;
  const snapshot = await recallRestored(options);
  if (snapshot === undefined || !isFit(snapshot.manifest, options)) return undefined;
  const { manifest } = snapshot;
  const parts = manifest.node.parts.map((part) => ({ ...part, ...placeOf(part, options) }));
  if (!(await isWhole(parts))) return undefined;
  const targets = partTargets(manifest, options).map(({ target }) => target);
  const findings = await checkAll(options, snapshot, { restores: false });
  return { snapshot, kept: true, targets, sources: [], findings };
}

/** Throws all refusals together. */
async function checkAll(
  options: RestoreDatabaseOptions,
  snapshot: Restored,
  { restores }: { restores: boolean },
): Promise<readonly Finding[]> {
  const { basePath, relayBasePath, existing, owner, signal } = options;
  options.onPhase?.('preflight');
  const findings = await preflight({
    ...(options.preflight ?? { ignore: [], reserve: 0 }),
    subject: subjectOf(snapshot, options),
    basePath,
    relayBasePath,
    existing,
    restores,
    owner,
    signal,
  });
  heed(findings, options.log);
  return findings;
}

/** A record that is damaged is no reason to leave the node down: then the store says what there is. */
async function recallRestored(options: RestoreDatabaseOptions): Promise<Restored | undefined> {
  try {
    return await readRestored(options);
  } catch (error) {
    if (!isPresyncError(error, 'FORMAT_INVALID')) throw error;
    options.log.warn('restore.record_unusable', error.message);
    return undefined;
  }
}
