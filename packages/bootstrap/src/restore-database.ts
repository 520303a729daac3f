import type { Manifest } from '@presync/format/manifest';
import { isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { acquireLock } from '@presync/runtime/lock';
import type { ProgressSink } from '@presync/runtime/progress';
import { formatBytes } from '@presync/runtime/units';
import type { SourceReport } from '@presync/store/sources';
import { assertDatabaseFile } from '@presync/transfer/database-file';
import { discardRestores } from '@presync/transfer/discard-restores';
import { forgetFailures, readFailed, recordFailure, recordSuccess } from '@presync/transfer/failed';
import { makeFolders } from '@presync/transfer/made-folders';
import { partTargets, placeOf } from '@presync/transfer/part-targets';
import type { Snapshot } from '@presync/transfer/repository';
import { type RestoreResult, restoreSnapshot } from '@presync/transfer/restore';
import { forgetRestored, type Restored, readRestored, recordRestored } from '@presync/transfer/restored';
import { recordSeen } from '@presync/transfer/seen';
import { type ChooseOptions, createChoice, type FoundSnapshot, type PassedOver } from './choose-snapshot.ts';
import { isFit } from './lib/fit.ts';
import { createSeal } from './lib/seal.ts';
import { anyDatabase, assertTarget, isWhole } from './lib/target.ts';
import type { Phase } from './lib/timeline.ts';
import { type Planned, planRestore, type RestorePlan } from './plan-restore.ts';
import { isWarpFaster } from './planner.ts';
import {
  type Finding,
  heed,
  isOnlyAboutSnapshot,
  type PreflightSettings,
  preflight,
  subjectOf,
  toldBackend,
} from './preflight.ts';

export interface RestoreDatabaseOptions extends ChooseOptions {
  basePath: string;
  /** The relay chain's, where the target's is not `polkadot/` in the base path. */
  relayBasePath?: string | undefined;
  /** `keep` leaves a database that is there, and does nothing. */
  existing: 'refuse' | 'keep' | 'reuse' | 'replace';
  /** Where the disk has no room for both, remove the old database before the new one is there. */
  freeRoom?: boolean | undefined;
  owner?: { uid: number; gid: number } | undefined;
  /** What is compared. Default: only what needs no knowledge of the node. */
  preflight?: PreflightSettings | undefined;
  concurrency?: number | undefined;
  /** Check everything, and write nothing. */
  dryRun?: boolean | undefined;
  /** Snapshots in a row that may turn out damaged on this machine. Default: any number. */
  maxAttempts?: number | undefined;
  /** Blocks a second that the node imports, for estimates. */
  importRate?: number | undefined;
  /** How long a warp sync takes: when the restore would take longer, `peer` and `warp` of the fall-backs come first. */
  warpSyncTimeMs?: number | undefined;
  /** Make a plan of what is to be done, which the result holds. A dry run, a question and a comparison with warp sync make one anyway. */
  wantsPlan?: boolean | undefined;
  /** Asked once, with the plan, before anything is written; when it says no, the restore ends with ABORTED. */
  confirm?: ((plan: RestorePlan) => Promise<boolean>) | undefined;
  /** The file that says that the database is whole: taken away before anything is changed, and put back afterwards. */
  sealedFile?: string | undefined;
  /** Called when a step of the work begins. */
  onPhase?: ((phase: Phase) => void) | undefined;
  progress: ProgressSink;
}

export interface RestoreDatabaseResult {
  /** What the database is, or would be. Undefined when the fall-backs have come to warp sync: then the node begins with an empty one. */
  snapshot: Restored | undefined;
  /** Absent when nothing was restored: a dry run, a database that was kept, or warp sync. */
  restored?: RestoreResult | undefined;
  kept: boolean;
  /** Where one was made: for a dry run, a confirmation, or a comparison with warp sync. */
  plan?: RestorePlan | undefined;
  /** What was not used, and why. */
  passed: readonly PassedOver[];
  /** What each source did. */
  sources: SourceReport[];
  /** The database folders. */
  targets: string[];
  /** What the preflight found; none of it is a refusal. */
  findings: readonly Finding[];
}

/**
 * Resolves, verifies and checks a snapshot against this machine, and restores it. Every refusal comes before anything is written. One restore at a time
 * for a base path (LOCKED). A whole database that presync has restored and that is to be kept needs no store. When a snapshot turns out damaged on the way, it is remembered, and the fall-backs that are configured are taken.
 */
export async function restoreDatabase(options: RestoreDatabaseOptions): Promise<RestoreDatabaseResult> {
  const { stateDir, signal } = options;
  options.onPhase?.('resolve');
  const kept = await findKept(options);
  if (kept !== undefined) return kept;
  if (options.retryFailed === true && options.dryRun !== true) await forgetFailures(stateDir);
  const choice = createChoice(options);
  const { passed } = choice;
  let confirm = options.confirm;
  for (;;) {
    const found = await choice.next();
    if (found.kind === 'warp') return leaveEmpty(options, passed);
    const attempt: Attempt = { passed, begun: false, isUnfit: false };
    try {
      const result = await restoreFound({ ...options, confirm }, found, attempt);
      if (result.restored !== undefined) await recordSuccess(stateDir, found.snapshot, { signal });
      return { ...result, passed };
    } catch (error) {
      throwIfAborted(signal);
      if (isPresyncError(error, 'RESTORE_GIVEN_UP') && options.fallback?.includes('warp') === true)
        return leaveEmpty(options, passed);
      if (!isPresyncError(error) || !(attempt.isUnfit || isAboutSnapshot(error))) throw error;
      if (isDamage(error) && attempt.begun) await remember(options, found.snapshot, error);
      choice.pass(error);
      // Whoever said yes has said it to the fall-backs as well, which are configured.
      confirm = undefined;
    }
  }
}

interface Attempt {
  passed: readonly PassedOver[];
  /** True when chunks have come: what is refused before costs nothing the next time, and need not be remembered. */
  begun: boolean;
  /** The node's own settings stand against this snapshot, and may not stand against another. */
  isUnfit: boolean;
}

/** True when another snapshot may do where this one did not. */
function isAboutSnapshot(error: PresyncError): boolean {
  return isDamage(error) || error.code === 'SNAPSHOT_NOT_FOUND' || error.code === 'WARP_SYNC_FASTER';
}

/** True when the snapshot itself is no good: what is wrong with it will be wrong the next time. */
function isDamage({ code, exitCode }: PresyncError): boolean {
  return exitCode === 4 && code !== 'RESTORE_GIVEN_UP';
}

async function remember(
  { stateDir, log, signal }: RestoreDatabaseOptions,
  snapshot: Snapshot,
  error: PresyncError,
): Promise<void> {
  const failuresInARow = await recordFailure(stateDir, snapshot, error, { signal });
  const { channel, sequence } = snapshot.manifest;
  log.error('restore.snapshot_failed', `snapshot ${channel}#${sequence} is damaged: ${error.message}`, {
    channel,
    sequence,
    code: error.code,
    failuresInARow,
  });
}

/** RESTORE_GIVEN_UP when so many have failed that the next one is not to be tried. */
async function assertMayTry({ stateDir, maxAttempts }: RestoreDatabaseOptions): Promise<void> {
  if (maxAttempts === undefined) return;
  const { inARow, failures } = await readFailed(stateDir);
  if (inARow < maxAttempts) return;
  const last = failures.at(-1);
  const why = last === undefined ? '' : `; the last was ${last.channel}#${last.sequence}: ${last.reason}`;
  throw new PresyncError(
    'RESTORE_GIVEN_UP',
    `${inARow} snapshots in a row have turned out damaged on this machine, and no other is downloaded${why}`,
    {
      hint: 'run "presync verify" on the repository, and mend it; then say --retry-failed once',
    },
  );
}

/** The end of the fall-backs: nothing that looks like a database stays, and no half of one takes room. */
async function leaveEmpty(
  options: RestoreDatabaseOptions,
  passed: readonly PassedOver[],
): Promise<RestoreDatabaseResult> {
  const { basePath, log } = options;
  const there = await anyDatabase(basePath);
  // That of a warp sync which was fallen back to at an earlier boot.
  if (there?.isWhole === true && options.existing === 'keep')
    return { snapshot: undefined, kept: true, passed, targets: [there.dir], sources: [], findings: [] };
  if (there !== undefined) {
    throw new PresyncError(
      'TARGET_NOT_EMPTY',
      `no snapshot can be used, and a node cannot warp sync either, since ${there.dir} holds a database`,
      { hint: 'start the node with the database that is there, or move it away' },
    );
  }
  const removed = options.dryRun === true ? [] : await discardRestores(options);
  if (options.dryRun !== true) await forgetRestored(options);
  log.warn('restore.fell_back', 'nothing is restored: the node has to warp sync (--sync warp)', {
    fallback: 'warp',
    removed,
  });
  return { snapshot: undefined, kept: false, passed, targets: [], sources: [], findings: [] };
}

type FoundResult = Omit<RestoreDatabaseResult, 'passed'>;

async function restoreFound(
  options: RestoreDatabaseOptions,
  found: FoundSnapshot,
  attempt: Attempt,
): Promise<FoundResult> {
  const { snapshot } = found;
  const { manifest } = snapshot;
  const targets = partTargets(manifest, options).map(({ target }) => target);
  const parts = manifest.node.parts.map((part) => ({ ...part, ...placeOf(part, options) }));
  const isKept = options.existing === 'keep' && (await isWhole(parts));
  const findings = await lookAtAll(options, snapshot, { restores: !isKept });
  attempt.isUnfit = isOnlyAboutSnapshot(findings);
  heed(findings, options.log);
  attempt.isUnfit = false;
  if (isKept) return { snapshot, kept: true, targets, sources: [], findings };
  if (options.dryRun !== true) await assertMayTry(options);
  const planned = await planIfWanted(options, found, { passed: attempt.passed, findings });
  try {
    const plan = planned?.plan;
    if (options.dryRun === true) return { snapshot, kept: false, targets, sources: [], findings, plan };
    if (plan !== undefined) await assertWanted(options, plan);
    const done = await place(options, found, { parts, findings, index: planned?.index, attempt });
    return { snapshot, kept: false, targets, findings, plan, ...done };
  } finally {
    await planned?.close();
  }
}

async function planIfWanted(
  options: RestoreDatabaseOptions,
  found: FoundSnapshot,
  known: Pick<RestorePlan, 'passed' | 'findings'>,
): Promise<Planned | undefined> {
  const { dryRun, confirm, warpSyncTimeMs, wantsPlan } = options;
  if (dryRun !== true && wantsPlan !== true && confirm === undefined && warpSyncTimeMs === undefined)
    return undefined;
  return planRestore(options, found, known);
}

/** Says whether warp sync would be faster, and asks. */
async function assertWanted(options: RestoreDatabaseOptions, plan: RestorePlan): Promise<void> {
  const { estimate, warpSyncSeconds } = plan;
  if (estimate !== null && warpSyncSeconds !== null && isWarpFaster(estimate, warpSyncSeconds)) {
    const ready =
      estimate.readySeconds === null ? 'never catch up' : `take ${Math.round(estimate.readySeconds)} s`;
    const message = `by estimate the node would ${ready} from snapshot ${plan.channel}#${plan.sequence}, and a warp sync takes ${warpSyncSeconds} s`;
    options.log.warn('restore.warp_sync_faster', message, { ...estimate, warpSyncSeconds });
    // Without a way to warp sync the snapshot is still the best there is.
    if (options.fallback?.includes('warp') === true && (await anyDatabase(options.basePath)) === undefined)
      throw new PresyncError('WARP_SYNC_FASTER', message, { hint: 'start the node with --sync warp' });
  }
  if (options.confirm === undefined) {
    const message = `restoring ${plan.channel}#${plan.sequence} of ${plan.created}: at most ${formatBytes(plan.fetch.fetchBytes)} to fetch`;
    options.log.info('restore.plan', message, { plan });
    return;
  }
  if (await options.confirm(plan)) return;
  throw new PresyncError('ABORTED', 'the plan was not accepted, and nothing was done', {
    hint: 'run it again and answer y, or change what is planned',
  });
}

interface Placing {
  parts: (Manifest['node']['parts'][number] & { basePath: string })[];
  findings: readonly Finding[];
  index: string | undefined;
  attempt: Attempt;
}

/** Puts the database in its place. */
async function place(
  options: RestoreDatabaseOptions,
  { repository, channel, snapshot }: FoundSnapshot,
  { parts, findings, index, attempt }: Placing,
): Promise<{ restored: RestoreResult; sources: SourceReport[] }> {
  const { signal, stateDir, basePath, relayBasePath, from, log } = options;
  const subject = { stateDir, repositoryId: repository.id, channel };
  const { manifest } = snapshot;
  const folders = await makeFolders(basePath, options.owner);
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
      freeRoom: options.freeRoom,
      index,
      assertFile: (file) => assertDatabaseFile(manifest, file),
      owner: options.owner,
      concurrency: options.concurrency,
      onProgress: (bytes) => options.progress.advance(bytes),
      onEvent: (event, message, details) =>
        log[event === 'restore.old_removed' ? 'warn' : 'info'](event, message, details),
      beforeSwap: () => recordRestored(options, snapshot),
      onPhase: (phase) => {
        attempt.begun ||= phase === 'restore';
        options.onPhase?.(phase);
      },
      signal,
    });
    options.progress.finish();
    await recordSeen(subject, { sequence: manifest.sequence, sha256: snapshot.sha256 }, { signal });
    if (before !== undefined) await seal.set(sealOf(snapshot));
    const sources = from.sources.report();
    log.info('restore.done', 'the database is in place', {
      channel,
      sequence: manifest.sequence,
      ...restored,
      sources,
    });
    done = true;
    return { restored, sources };
  } finally {
    if (!done) {
      // What comes next may be a node that runs for days.
      options.progress.finish();
      await folders.undo();
      // What was there before was not touched.
      if (before !== undefined && (await isWhole(parts))) await seal.set(before);
    }
    await lock.release();
  }
}

/** What the seal says of the database. */
export function sealOf(restored: Restored | undefined): string {
  const sealed = new Date().toISOString();
  if (restored === undefined) return `${JSON.stringify({ warpSync: true, sealed })}\n`;
  const { manifest, sha256 } = restored;
  const { channel, sequence, chain } = manifest;
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
  const findings = await lookAtAll(options, snapshot, { restores: false });
  heed(findings, options.log);
  return { snapshot, kept: true, targets, passed: [], sources: [], findings };
}

function lookAtAll(
  options: RestoreDatabaseOptions,
  snapshot: Restored,
  { restores }: { restores: boolean },
): Promise<readonly Finding[]> {
  const { basePath, relayBasePath, existing, freeRoom, owner, signal } = options;
  options.onPhase?.('preflight');
  return preflight({
    ...(options.preflight ?? { ignore: [], reserve: 0 }),
    subject: subjectOf(snapshot, options),
    basePath,
    relayBasePath,
    existing,
    freeRoom,
    restores,
    owner,
    signal,
  });
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
