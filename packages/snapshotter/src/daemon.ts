import { mkdir } from 'node:fs/promises';
import { ioError, isPresyncError, messageOf } from '@presync/runtime/errors';
import { type AdminServer, startAdminServer } from '@presync/runtime/http';
import { acquireLock } from '@presync/runtime/lock';
import type { Metrics, Registry } from '@presync/runtime/metrics';
import { createServiceNotify, reloading, type ServiceNotify } from '@presync/runtime/service-notify';
import type { Tracer } from '@presync/runtime/tracing';
import { type History, openHistory, type RunCause } from './history.ts';
import { addAdminRoutes } from './lib/admin-routes.ts';
import { readToken } from './lib/bearer.ts';
import type { DaemonStatus } from './lib/control-protocol.ts';
import { startControlServer } from './lib/control-server.ts';
import { sentenceOf, statusOf } from './lib/daemon-status.ts';
import { createJitter } from './lib/jitter.ts';
import { measureDisks } from './lib/measure-disks.ts';
import { measureViews } from './lib/measure-views.ts';
import { createRunObserver, recallRuns } from './lib/observe.ts';
import { readiness } from './lib/readiness.ts';
import { recoverNode } from './lib/recover-node.ts';
import { createRunner, type Heartbeat, type Runner } from './lib/runner.ts';
import { assertSchedules, lastDue, startTimetable, type Timetable } from './lib/timetable.ts';
import { startWatchdog } from './lib/watchdog.ts';
import type { TakeSnapshotOptions } from './take-snapshot.ts';
import { traceOf } from './trace-run.ts';

export { createHeartbeat } from './lib/runner.ts';

/** What may change while the daemon runs. */
export interface DaemonSettings {
  /** Cron expressions of five or six fields. */
  schedules: readonly string[];
  /** IANA time zone. */
  timezone: string;
  /** A scheduled run begins up to so many milliseconds later. */
  jitterMs: number;
  /** The newest snapshot may be so old for the daemon to be ready. */
  maxAgeMs: number | undefined;
  /** A run that stands still for so many milliseconds is stalled. */
  stallMs: number;
  /** Options of each run that override those that the daemon was started with. */
  take: Partial<TakeSnapshotOptions>;
}

export interface DaemonOptions {
  settings: DaemonSettings;
  version: string;
  /** Where health and metrics are served; undefined for nowhere. */
  adminListen: { host: string; port: number } | undefined;
  adminTokenFile?: string | undefined;
  registry: Registry;
  metrics: Metrics;
  heartbeat: Heartbeat;
  tracer?: Tracer | undefined;
  /** Its signal fires when the daemon shall end: a run under way is wound up, the node first of all. */
  take: TakeSnapshotOptions;
  /** Calls back when the settings are to be read again. */
  onHangup?: ((listener: () => void) => void) | undefined;
  /** Reads the configuration again. What it throws leaves the former settings in force. */
  reload?: (() => Promise<DaemonSettings>) | undefined;
}

/** How often numbers that nobody reports are looked at: free room, the next run. */
const LOOK_EVERY_MS = 15_000;

const NEVER = new AbortController().signal;

/**
 * Takes snapshots on a schedule until the signal fires. A run that fails, or that a gate stops, is told in log, metric and history, and the next one is
 * awaited; runs never overlap. One daemon at a time for a base path and for a state folder (LOCKED).
 */
export async function runDaemon(options: DaemonOptions): Promise<void> {
  const { take } = options;
  const { log, signal, stateDir, basePath } = take;
  const notify = createServiceNotify({
    onProblem: (reason) => log.warn('daemon.notify_failed', `systemd cannot be told: ${reason}`),
  });
  try {
    assertSchedules(options.settings.schedules);
    const token = options.adminTokenFile === undefined ? undefined : await readToken(options.adminTokenFile);
    await makePrivate(stateDir);
    await using locks = new AsyncDisposableStack();
    for (const [name, dir] of [
      ['snapshotter', basePath],
      ['daemon', stateDir],
    ] as const) {
      const lock = await acquireLock({ name, dir, signal });
      locks.defer(() => lock.release());
    }
    // A node that an earlier self left paused must not wait for the schedule.
    await recoverNode({ stateDir, log, signal });
    const history = await openHistory(stateDir);
    locks.defer(() => history.close());
    if (history.unreadable > 0) {
      log.warn('history.unreadable', `${history.unreadable} lines of the run history could not be read`);
    }
    await work(options, { history, notify, token });
  } finally {
    await take.store.close();
  }
}

/** What lies there is for the daemon's user only. A folder that is there already keeps its mode. */
async function makePrivate(dir: string): Promise<void> {
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw ioError(error, 'make', dir);
  }
}

interface Parts {
  history: History;
  notify: ServiceNotify;
  token: string | undefined;
}

async function work(options: DaemonOptions, { history, notify, token }: Parts): Promise<void> {
  const { take, metrics, heartbeat } = options;
  const { log, signal } = take;
  const since = new Date().toISOString();
  let { settings } = options;
  recallRuns(metrics, history.runs);
  metrics.config.ok.set(1);
  const observer = createRunObserver({ log, metrics });
  let traced: Promise<unknown> = Promise.resolve();
  const runner = createRunner({
    history,
    heartbeat,
    take: () => ({
      ...take,
      ...settings.take,
      onPhase: (phase) =>
        metrics.node.paused.set(phase === 'pause' && take.pause.strategy !== 'none' ? 1 : 0),
      onBlocksStalled: () => metrics.node.resumeFailures.inc(),
      onQuarantined: () => metrics.snapshot.quarantined.inc(),
    }),
    observer: {
      ...observer,
      ended: (end) => {
        observer.ended(end);
        // A daemon that ends waits for it, so that the signal, which has fired by then, is not the one.
        traced = options.tracer?.send(traceOf(end), { signal: NEVER }) ?? traced;
        void say();
      },
    },
  });
  const jitter = createJitter({
    jitterMs: () => settings.jitterMs,
    isBusy: () => runner.current !== undefined,
  });
  const start = (cause: RunCause): void => {
    // A left-out run has been told.
    begin(runner, cause);
    void say();
  };
  const timetableOf = ({ schedules, timezone }: DaemonSettings): Timetable =>
    startTimetable({
      schedules,
      timezone,
      onDue: (cause) => (cause === 'catch-up' ? start(cause) : jitter.soon(() => start(cause))),
    });
  let timetable = timetableOf(settings);
  const watchdog = startWatchdog({
    feedMs: notify.watchdogMs,
    stallMs: () => settings.stallMs,
    current: () => runner.current,
    movedAt: () => heartbeat.at,
    feed: () => void notify.send('WATCHDOG=1'),
    onStalled: (stalled) => metrics.snapshot.stalled.set(stalled ? 1 : 0),
    log,
  });
  const status = (): DaemonStatus =>
    statusOf({
      version: options.version,
      settings,
      history,
      runner,
      timetable,
      since,
      stalled: watchdog.stalled,
    });
  const say = (...more: string[]): Promise<void> => notify.send(...more, `STATUS=${sentenceOf(status())}`);
  const look = (): void => {
    metrics.snapshot.nextRun.set((timetable.next()?.getTime() ?? 0) / 1000);
    metrics.snapshot.maxAge.set((settings.maxAgeMs ?? 0) / 1000);
    void measureDisks(take, metrics);
    void measureViews(take, { metrics, isIdle: () => runner.current === undefined });
  };
  const timer = setInterval(look, LOOK_EVERY_MS);
  look();

  let admin: AdminServer | undefined;
  let control: { close(): Promise<void> } | undefined;
  try {
    control = await startControlServer({ stateDir: take.stateDir, runner, status, log });
    if (options.adminListen !== undefined) {
      admin = await startAdminServer({
        listen: options.adminListen,
        health: () => ({ ok: !watchdog.stalled, detail: { running: runner.current?.id ?? null } }),
        ready: () => readiness(history.runs, { maxAgeMs: settings.maxAgeMs, now: Date.now() }),
        metrics: options.registry,
        routes: (app) => addAdminRoutes(app, { history, runner, token }),
        signal,
      });
    }
    const { reload } = options;
    if (reload !== undefined) {
      let last: Promise<void> = Promise.resolve();
      const again = async (): Promise<void> => {
        await notify.send(...reloading());
        const read = await readAgain(reload, options);
        if (read !== undefined) {
          settings = read;
          await timetable.stop();
          timetable = timetableOf(read);
          look();
        }
        await say('READY=1');
      };
      // One after the other: the last configuration that was read is the one in force.
      options.onHangup?.(() => {
        last = last.then(again);
      });
    }
    log.info('daemon.started', 'waiting for the schedule', {
      schedules: settings.schedules,
      timezone: settings.timezone,
      next: timetable.next()?.toISOString() ?? null,
      admin: admin?.url ?? null,
    });
    await say('READY=1');
    if (isOverdue(history, settings)) {
      log.warn('schedule.missed', 'a run was due while presync did not run, and is caught up now');
      start('catch-up');
    }
    await untilAborted(signal);
    await notify.send('STOPPING=1', 'STATUS=stopping');
  } finally {
    clearInterval(timer);
    jitter.stop();
    await timetable.stop();
    await runner.idle();
    await traced;
    watchdog.stop();
    await control?.close();
    await admin?.close();
  }
  log.info('daemon.stopped', 'stopped');
}

function begin(runner: Runner, cause: RunCause): void {
  try {
    runner.start(cause);
  } catch (error) {
    if (!isPresyncError(error, 'LOCKED')) throw error;
  }
}

async function readAgain(
  reload: () => Promise<DaemonSettings>,
  { take: { log }, metrics: { config } }: DaemonOptions,
): Promise<DaemonSettings | undefined> {
  try {
    const settings = await reload();
    assertSchedules(settings.schedules);
    config.reloads.inc({ outcome: 'applied' });
    config.ok.set(1);
    log.info('daemon.reloaded', 'the configuration was read again', {
      schedules: settings.schedules,
      timezone: settings.timezone,
    });
    return settings;
  } catch (error) {
    config.reloads.inc({ outcome: 'refused' });
    config.ok.set(0);
    log.error('daemon.reload_refused', `the former configuration stays in force: ${messageOf(error)}`, {
      code: isPresyncError(error) ? error.code : 'INTERNAL',
      hint: isPresyncError(error) ? error.hint : undefined,
    });
    return undefined;
  }
}

/** True when a run was due since the last one that came to an end of its own, or when the last one was interrupted. */
function isOverdue({ runs }: History, settings: DaemonSettings): boolean {
  if (runs.at(-1)?.outcome === 'interrupted' || runs.at(-1)?.outcome === 'stopped') return true;
  const ended = runs.at(-1)?.ended;
  if (ended === undefined || ended === null) return false;
  return lastDue(settings, { after: new Date(ended), upTo: new Date() }) !== undefined;
}

async function untilAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
