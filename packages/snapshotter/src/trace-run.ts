/** Runs as traces: one span for the run, and one for each part of it. */
import { messageOf } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { SpanAttributes, Trace, Tracer } from '@presync/runtime/tracing';
import { createPhaseClock, type PhaseTime } from './lib/phases.ts';
import type { EndedRun } from './lib/runner.ts';
import { type TakeSnapshotOptions, type TakeSnapshotResult, takeSnapshot } from './take-snapshot.ts';

/** The exporter, which is loaded only when traces are wanted. */
export async function loadTracer(
  url: string | undefined,
  { log, version }: { log: Logger; version: string },
): Promise<Tracer | undefined> {
  if (url === undefined) return undefined;
  const { createTracer } = await import('@presync/runtime/tracing');
  return createTracer({
    ...{ url, service: 'presync', version },
    onProblem: (reason) => log.warn('trace.not_sent', `the trace of a run could not be sent: ${reason}`),
  });
}

/** The trace of a run of the daemon. */
export function traceOf({ record, phases }: EndedRun): Trace {
  const { id, cause, outcome, code, channel, sequence, pauseSeconds, bytes } = record;
  return build(phases, {
    began: Date.parse(record.started),
    seconds: (Date.parse(record.ended ?? record.started) - Date.parse(record.started)) / 1000,
    failure: outcome === 'published' ? undefined : (record.reason ?? outcome),
    attributes: {
      ...{ 'presync.run': id, 'presync.cause': cause, 'presync.outcome': outcome, 'presync.code': code },
      ...{ 'presync.channel': channel, 'presync.sequence': sequence, 'presync.pause_seconds': pauseSeconds },
      ...{ 'presync.bytes.total': bytes?.total, 'presync.bytes.added': bytes?.added },
    },
  });
}

/** Takes a snapshot, and sends its trace where there is a tracer, however it ends. */
export async function takeTraced(
  options: TakeSnapshotOptions,
  tracer: Tracer | undefined,
): Promise<TakeSnapshotResult> {
  if (tracer === undefined) return takeSnapshot(options);
  const clock = createPhaseClock();
  const began = Date.now();
  const send = (failure: string | undefined, attributes: SpanAttributes): Promise<void> =>
    tracer.send(
      build(clock.finish(), { began, seconds: (Date.now() - began) / 1000, failure, attributes }),
      options,
    );
  try {
    const result = await takeSnapshot({
      ...options,
      onPhase: (phase) => {
        clock.enter(phase);
        options.onPhase?.(phase);
      },
    });
    const { manifest } = result.upload ?? {};
    await send(undefined, {
      ...{ 'presync.channel': result.channel, 'presync.sequence': manifest?.sequence },
      ...{ 'presync.pause_seconds': result.pauseSeconds, 'presync.bytes.added': manifest?.totals.added },
    });
    return result;
  } catch (error) {
    await send(messageOf(error), {});
    throw error;
  }
}

function build(
  phases: readonly PhaseTime[],
  root: { began: number; seconds: number; failure: string | undefined; attributes: SpanAttributes },
): Trace {
  return {
    name: 'snapshot',
    ...root,
    children: phases.map(({ phase, began, seconds }) => ({ name: `snapshot.${phase}`, began, seconds })),
  };
}
