import { GATE_IDS } from '@presync/node/gate';
import { messageOf, PresyncError } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { Metrics } from '@presync/runtime/metrics';
import type { RunRecord } from '../history.ts';
import { gatesOf } from './pass-gates.ts';
import type { EndedRun, RunObserver } from './runner.ts';

/** What is told of runs: events in the log and numbers in the metrics. */
export function createRunObserver({ log, metrics }: { log: Logger; metrics: Metrics }): RunObserver {
  const { snapshot } = metrics;
  for (const gate of GATE_IDS) snapshot.gate.set({ gate }, 0);
  return {
    began({ id, cause }) {
      snapshot.running.set(1);
      log.info('run.started', 'a run begins', { run: id, cause });
    },
    ended(end) {
      snapshot.running.set(0);
      metrics.node.paused.set(0);
      tell(log, end);
      measure(metrics, end);
    },
    leftOut(cause) {
      snapshot.runs.inc({ outcome: 'skipped' });
      log.warn('run.skipped', 'the last run is still under way, so this one is left out', { cause });
    },
    notSaved(run, error) {
      metrics.history.failures.inc();
      log.error('history.not_saved', messageOf(error), { run });
    },
  };
}

/** What is known from before the daemon was started. */
export function recallRuns({ snapshot }: Metrics, runs: readonly RunRecord[]): void {
  const newest = runs.findLast(({ outcome }) => outcome === 'published');
  if (newest !== undefined) {
    snapshot.lastPublished.set(secondsOf(newest.ended ?? newest.started));
    if (newest.sequence !== null) snapshot.lastSequence.set(newest.sequence);
    if (newest.anchor !== null) snapshot.lastAnchor.set(newest.anchor);
    setBytes(snapshot, newest);
  }
  for (const { outcome, ended } of runs) {
    if (ended !== null) snapshot.lastRun.set({ outcome }, secondsOf(ended));
  }
}

function tell(log: Logger, { record, error }: EndedRun): void {
  const { id: run, code, reason, gates, channel, sequence, pauseSeconds, phases } = record;
  const hint = error instanceof PresyncError ? error.hint : undefined;
  const why = reason ?? '';
  switch (record.outcome) {
    case 'published':
      log.info('run.done', 'a snapshot was taken', {
        ...{ run, channel, sequence, pauseSeconds, phases },
        added: record.bytes?.added,
      });
      return;
    case 'skipped':
      log.warn('gate.shut', why, {
        run,
        gates,
        reasons: gatesOf(error)?.map((gate) => gate.reason),
        hint,
      });
      log.info('run.skipped', 'no snapshot was taken, because a gate is shut', { run, code, gates });
      return;
    case 'stopped':
      log.info('run.stopped', why, { run, code, hint });
      return;
    default:
      log.error('run.failed', why, { run, code, hint, error });
  }
}

function measure({ snapshot, node }: Metrics, { record, phases }: EndedRun): void {
  const { outcome, code, gates, started, ended } = record;
  for (const gate of GATE_IDS) snapshot.gate.set({ gate }, gates.includes(gate) ? 1 : 0);
  for (const gate of gates) snapshot.gateShut.inc({ gate });
  if (code === 'NODE_RESUME_FAILED') node.resumeFailures.inc();
  if (code === 'NODE_PAUSE_BUDGET') node.pauseOverruns.inc();
  snapshot.runs.inc({ outcome: outcome === 'failed' || outcome === 'stopped' ? (code ?? outcome) : outcome });
  for (const { phase, seconds } of phases) snapshot.phaseSeconds.observe({ phase }, seconds);
  if (ended === null) return;
  snapshot.lastRun.set({ outcome }, secondsOf(ended));
  if (outcome !== 'published') return;
  snapshot.seconds.observe(secondsOf(ended) - secondsOf(started));
  snapshot.lastPublished.set(secondsOf(ended));
  if (record.sequence !== null) snapshot.lastSequence.set(record.sequence);
  if (record.anchor !== null) snapshot.lastAnchor.set(record.anchor);
  if (record.pauseSeconds !== null) snapshot.pauseSeconds.observe(record.pauseSeconds);
  setBytes(snapshot, record);
  if (record.bytes !== null) {
    snapshot.bytes.inc({ kind: 'read' }, record.bytes.read);
    snapshot.bytes.inc({ kind: 'added' }, record.bytes.added);
  }
}

function setBytes(snapshot: Metrics['snapshot'], { bytes }: RunRecord): void {
  if (bytes === null) return;
  for (const [kind, value] of Object.entries(bytes)) snapshot.lastBytes.set({ kind }, value);
  if (bytes.unique > 0) snapshot.ratio.set(bytes.stored / bytes.unique);
  if (bytes.stored > 0) snapshot.bloat.set(bytes.allocated / bytes.stored);
}

function secondsOf(time: string): number {
  return Date.parse(time) / 1000;
}
