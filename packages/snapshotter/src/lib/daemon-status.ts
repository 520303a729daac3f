import { formatDuration } from '@presync/runtime/units';
import type { DaemonSettings } from '../daemon.ts';
import type { History } from '../history.ts';
import type { DaemonStatus } from './control-protocol.ts';
import { newestOf } from './readiness.ts';
import type { Runner } from './runner.ts';
import type { Timetable } from './timetable.ts';

const SHOWN_RUNS = 20;

interface StatusParts {
  version: string;
  settings: Pick<DaemonSettings, 'schedules' | 'timezone'>;
  history: History;
  runner: Runner;
  timetable: Timetable;
  since: string;
  stalled: boolean;
}

export function statusOf({
  version,
  settings,
  history,
  runner,
  timetable,
  since,
  stalled,
}: StatusParts): DaemonStatus {
  const run = runner.current;
  return {
    pid: process.pid,
    version,
    since,
    schedules: [...settings.schedules],
    timezone: settings.timezone,
    next: timetable.next()?.toISOString() ?? null,
    stalled,
    run:
      run === undefined
        ? null
        : {
            id: run.id,
            cause: run.cause,
            started: run.started,
            phase: run.phase ?? null,
            label: run.progress?.label ?? null,
            done: run.progress?.done ?? 0,
            total: run.progress?.total ?? null,
          },
    newest: newestOf(history.runs) ?? null,
    runs: history.runs.slice(-SHOWN_RUNS).reverse(),
  };
}

/** One line for `systemctl status`. */
export function sentenceOf({ run, runs, next }: DaemonStatus): string {
  if (run !== null) return `run ${run.id} (${run.cause}) is under way`;
  const [last] = runs;
  const said =
    last === undefined
      ? 'no run yet'
      : `last run ${last.outcome}${last.code === null ? '' : ` (${last.code})`}`;
  return `${said}; next ${next === null ? 'never' : `in ${formatDuration(Date.parse(next) - Date.now())}`}`;
}
