import { recoverPauses } from '@presync/node/pause';
import { isPresyncError, messageOf, PresyncError } from '@presync/runtime/errors';
import { startAdminServer } from '@presync/runtime/http';
import { acquireLock } from '@presync/runtime/lock';
import type { Metrics, Registry } from '@presync/runtime/metrics';
import { schedule, validate } from 'node-cron';
import { type TakeSnapshotOptions, type TakeSnapshotResult, takeSnapshot } from './take-snapshot.ts';

export interface DaemonOptions {
  /** Cron expression of five or six fields. */
  schedule: string;
  /** IANA time zone. */
  timezone: string;
  /** Where health and metrics are served; undefined for nowhere. */
  adminListen: { host: string; port: number } | undefined;
  registry: Registry;
  metrics: Metrics;
  /** Fires when the daemon shall end: a run under way is wound up, the node first of all. */
  take: TakeSnapshotOptions;
}

/**
 * Takes snapshots on a schedule until the signal fires. A run that fails, or that a gate stops, is told in log and metric, and the next one is
 * awaited; runs never overlap. One daemon at a time for a base path (LOCKED).
 */
export async function runDaemon(options: DaemonOptions): Promise<void> {
  const { take, metrics, registry } = options;
  const { log, signal, stateDir, basePath } = take;
  if (!validate(options.schedule)) {
    throw new PresyncError(
      'CONFIG_INVALID',
      `the schedule ${JSON.stringify(options.schedule)} is not a cron expression`,
      {
        hint: 'as "0 */6 * * *" for every six hours',
      },
    );
  }
  const lock = await acquireLock({ name: 'snapshotter', dir: basePath, signal });
  const state: DaemonState = { running: undefined, last: undefined };
  try {
    // A node that an earlier self left paused must not wait for the schedule.
    const onOutput = (line: string): void => log.info('hook.output', line);
    for (const recovered of await recoverPauses({ stateDir, onOutput, signal })) {
      log.warn('pause.recovered', 'an earlier presync had left an intent to pause; the node runs', {
        ...recovered,
      });
    }
    const admin =
      options.adminListen === undefined
        ? undefined
        : await startAdminServer({
            listen: options.adminListen,
            health: () => ({ ok: true }),
            ready: () => ({
              ok: state.last?.ok ?? true,
              detail: { running: state.running !== undefined, last: state.last ?? null },
            }),
            metrics: registry,
            signal,
          });
    const run = async (): Promise<void> => {
      if (state.running !== undefined) {
        metrics.snapshot.runs.inc({ outcome: 'skipped' });
        log.warn('run.skipped', 'the last run is still under way, so this one is left out');
        return;
      }
      state.running = runOnce(take, metrics, state);
      await state.running;
      state.running = undefined;
    };
    const task = schedule(options.schedule, run, { timezone: options.timezone, name: 'presync snapshot' });
    log.info('daemon.started', 'waiting for the schedule', {
      schedule: options.schedule,
      timezone: options.timezone,
      admin: admin?.url ?? null,
    });
    await untilAborted(signal);
    await task.stop();
    await state.running;
    await task.destroy();
    await admin?.close();
    log.info('daemon.stopped', 'stopped');
  } finally {
    await take.store.close();
    await lock.release();
  }
}

interface DaemonState {
  running: Promise<void> | undefined;
  last: { ok: boolean; at: string; outcome: string; reason?: string } | undefined;
}

/** One run; its failure is told, never thrown. */
async function runOnce(take: TakeSnapshotOptions, metrics: Metrics, state: DaemonState): Promise<void> {
  const started = performance.now();
  const at = new Date().toISOString();
  try {
    const result = await takeSnapshot(take);
    measure(metrics, result, (performance.now() - started) / 1000);
    state.last = { ok: true, at, outcome: 'published' };
    take.log.info('run.done', 'a snapshot was taken', {
      channel: result.channel,
      sequence: result.upload?.manifest.sequence,
      added: result.upload?.manifest.totals.added,
      pauseSeconds: result.pauseSeconds,
    });
  } catch (error) {
    const code = isPresyncError(error) ? error.code : 'INTERNAL';
    const shut = code === 'GATE_SHUT';
    metrics.snapshot.runs.inc({ outcome: shut ? 'skipped' : code });
    state.last = { ok: shut, at, outcome: code, reason: messageOf(error) };
    const fields = { code, hint: isPresyncError(error) ? error.hint : undefined };
    if (shut) take.log.info('run.skipped', messageOf(error), fields);
    else if (take.signal.aborted) take.log.info('run.stopped', messageOf(error), fields);
    else take.log.error('run.failed', messageOf(error), { ...fields, error });
  }
}

function measure(
  metrics: Metrics,
  { upload, pauseSeconds, blocksAdvanced }: TakeSnapshotResult,
  seconds: number,
): void {
  const { snapshot, node } = metrics;
  if (upload === undefined) return;
  const { totals, sequence, chain } = upload.manifest;
  snapshot.runs.inc({ outcome: 'published' });
  snapshot.seconds.observe(seconds);
  snapshot.lastPublished.setToCurrentTime();
  snapshot.lastSequence.set(sequence);
  if (chain.anchor !== null) snapshot.lastAnchor.set(chain.anchor.number);
  snapshot.lastBytes.set({ kind: 'total' }, totals.bytes);
  snapshot.lastBytes.set({ kind: 'unique' }, totals.unique);
  snapshot.lastBytes.set({ kind: 'stored' }, totals.stored);
  snapshot.lastBytes.set({ kind: 'added' }, totals.added);
  if (pauseSeconds !== undefined) snapshot.pauseSeconds.observe(pauseSeconds);
  if (blocksAdvanced === false) node.resumeFailures.inc();
}

async function untilAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
