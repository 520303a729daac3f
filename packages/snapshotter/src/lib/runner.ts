import { randomBytes } from 'node:crypto';
import { isPresyncError, messageOf, PresyncError } from '@presync/runtime/errors';
import type { ProgressSink } from '@presync/runtime/progress';
import type { History, RunCause, RunRecord } from '../history.ts';
import { type TakeSnapshotOptions, type TakeSnapshotResult, takeSnapshot } from '../take-snapshot.ts';
import { gatesOf } from './pass-gates.ts';
import { createPhaseClock, type PhaseClock, type PhaseTime } from './phases.ts';

/** Tells that the work moves: whatever ends a call to the store, a part or a byte of it, beats. */
export interface Heartbeat {
  /** The last beat, by the monotonic clock, in milliseconds. */
  readonly at: number;
  beat(): void;
}

export function createHeartbeat(): Heartbeat {
  let at = performance.now();
  return {
    get at() {
      return at;
    },
    beat() {
      at = performance.now();
    },
  };
}

export interface RunnerOptions {
  history: History;
  heartbeat: Heartbeat;
  /** Asked at each run, since the configuration may have been read again. */
  take: () => TakeSnapshotOptions;
  /** Told of everything that becomes known of a run. */
  observer: RunObserver;
}

export interface RunObserver {
  began(run: CurrentRun): void;
  ended(run: EndedRun): void;
  /** A run was not begun, because another one is under way. */
  leftOut(cause: RunCause): void;
  /** A run could not be written into the history. */
  notSaved(id: string, error: unknown): void;
}

export interface EndedRun {
  record: RunRecord;
  phases: readonly PhaseTime[];
  result?: TakeSnapshotResult | undefined;
  error?: unknown;
}

/** What is known of a run while it is under way. */
export interface CurrentRun {
  readonly id: string;
  readonly cause: RunCause;
  readonly started: string;
  readonly phase: string | undefined;
  /** What is being done, its bytes so far and in all. */
  readonly progress: { label: string; done: number; total: number | undefined } | undefined;
}

export interface Runner {
  readonly current: CurrentRun | undefined;
  /**
   * Begins a run. Its failure is told to the observer and stands in the record, and never rejects.
   *
   * @throws LOCKED when another one is under way
   */
  start(cause: RunCause): { run: CurrentRun; ended: Promise<EndedRun> };
  /** Resolves when no run is under way. */
  idle(): Promise<void>;
}

/** More says no more; a reason stands in each record. */
const MAX_REASON = 500;

type MutableRun = { -readonly [K in keyof CurrentRun]: CurrentRun[K] };

/** Runs one snapshot at a time. */
export function createRunner({ history, heartbeat, take, observer }: RunnerOptions): Runner {
  let current: MutableRun | undefined;
  let ended: Promise<EndedRun> | undefined;

  const work = async (run: MutableRun): Promise<EndedRun> => {
    const options = take();
    const clock = createPhaseClock();
    try {
      await history.begin({ id: run.id, cause: run.cause, started: run.started });
    } catch (error) {
      observer.notSaved(run.id, error);
    }
    const outcome = await attempt(options, run, { clock, heartbeat });
    const phases = clock.finish();
    const record = recordOf(run, outcome, phases, options.signal);
    try {
      await history.end(record);
    } catch (error) {
      observer.notSaved(run.id, error);
    }
    return { record, phases, ...outcome };
  };

  return {
    get current() {
      return current;
    },
    start(cause) {
      if (current !== undefined) {
        observer.leftOut(cause);
        throw new PresyncError('LOCKED', `run ${current.id} is under way since ${current.started}`, {
          hint: 'wait until it has ended; "presync status" shows how far it is',
        });
      }
      const run: MutableRun = {
        id: randomBytes(6).toString('hex'),
        cause,
        started: new Date().toISOString(),
        phase: undefined,
        progress: undefined,
      };
      current = run;
      heartbeat.beat();
      observer.began(run);
      ended = work(run).then((end) => {
        current = undefined;
        observer.ended(end);
        return end;
      });
      return { run, ended };
    },
    async idle() {
      await ended;
    },
  };
}

interface Outcome {
  result?: TakeSnapshotResult | undefined;
  error?: unknown;
}

async function attempt(
  options: TakeSnapshotOptions,
  run: MutableRun,
  { clock, heartbeat }: { clock: PhaseClock; heartbeat: Heartbeat },
): Promise<Outcome> {
  try {
    const log = options.log.child({ run: run.id });
    const result = await takeSnapshot({
      ...options,
      log,
      progress: watched(options.progress, run, heartbeat),
      onMove: () => heartbeat.beat(),
      onPhase: (phase) => {
        run.phase = phase;
        heartbeat.beat();
        clock.enter(phase);
        options.onPhase?.(phase);
      },
    });
    return { result };
  } catch (error) {
    return { error };
  } finally {
    options.progress.finish();
  }
}

/** The same sink, whose progress the run shows. */
function watched(sink: ProgressSink, run: MutableRun, heartbeat: Heartbeat): ProgressSink {
  return {
    ...sink,
    start(task) {
      run.progress = { label: task.label, done: 0, total: task.total };
      sink.start(task);
    },
    advance(bytes) {
      heartbeat.beat();
      if (run.progress !== undefined) run.progress = { ...run.progress, done: run.progress.done + bytes };
      sink.advance(bytes);
    },
  };
}

function recordOf(
  { id, cause, started }: CurrentRun,
  { result, error }: Outcome,
  phases: readonly PhaseTime[],
  signal: AbortSignal,
): RunRecord {
  const gates = gatesOf(error);
  const manifest = result?.upload?.manifest;
  const failed = error === undefined ? undefined : messageOf(error).slice(0, MAX_REASON);
  return {
    id,
    cause,
    started,
    ended: new Date().toISOString(),
    outcome:
      failed === undefined
        ? 'published'
        : signal.aborted
          ? 'stopped'
          : gates === undefined
            ? 'failed'
            : 'skipped',
    code: failed === undefined ? null : isPresyncError(error) ? error.code : 'INTERNAL',
    reason: failed ?? null,
    gates: gates?.map(({ gate }) => gate) ?? [],
    channel: result?.channel ?? null,
    sequence: manifest?.sequence ?? null,
    anchor: manifest?.chain.anchor?.number ?? null,
    pauseSeconds: result?.pauseSeconds ?? null,
    phases: Object.fromEntries(phases.map(({ phase, seconds }) => [phase, Number(seconds.toFixed(3))])),
    bytes:
      manifest === undefined
        ? null
        : {
            total: manifest.totals.bytes,
            allocated: result?.allocated ?? manifest.totals.bytes,
            unique: manifest.totals.unique,
            stored: manifest.totals.stored,
            added: manifest.totals.added,
            read: result?.upload?.readBytes ?? 0,
          },
  };
}
