import { PresyncError } from '@presync/runtime/errors';
import { createTask, parse, type ScheduledTask, schedule, validate } from 'node-cron';

export type DueCause = 'schedule' | 'catch-up';

export interface Timetable {
  /** When the next run is due, without jitter. */
  next(): Date | undefined;
  stop(): Promise<void>;
}

/** @throws CONFIG_INVALID for an expression that cron does not know */
export function assertSchedules(schedules: readonly string[]): void {
  const wrong = schedules.find((expression) => !validate(expression));
  if (wrong === undefined && schedules.length > 0) return;
  throw new PresyncError(
    'CONFIG_INVALID',
    wrong === undefined
      ? 'there is no schedule'
      : `the schedule ${JSON.stringify(wrong)} is not a cron expression`,
    { hint: 'as "0 */6 * * *" for every six hours' },
  );
}

/** node-cron tells of what it passes over as an event; its own words to the console are not wanted. */
const SILENT = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} };

/**
 * Calls `onDue` at each time of the schedules, by the clocks of the zone, and once for all times that went by while the process or the machine slept.
 */
export function startTimetable({
  schedules,
  timezone,
  onDue,
}: {
  schedules: readonly string[];
  timezone: string;
  onDue: (cause: DueCause) => void;
}): Timetable {
  assertSchedules(schedules);
  let missed: NodeJS.Immediate | undefined;
  const onMissed = (): void => {
    // A long sleep misses many times at once; they make one run.
    missed ??= setImmediate(() => {
      missed = undefined;
      onDue('catch-up');
    });
  };
  const tasks = schedules.map((expression): ScheduledTask => {
    const task = schedule(expression, () => onDue('schedule'), {
      timezone,
      name: `presync snapshot ${expression}`,
      suppressMissedWarning: true,
      logger: SILENT,
    });
    task.on('execution:missed', onMissed);
    return task;
  });
  return {
    next: () =>
      tasks
        .map((task) => task.getNextRun())
        .filter((date) => date !== null)
        .toSorted((a, b) => a.getTime() - b.getTime())[0],
    stop: async () => {
      if (missed !== undefined) clearImmediate(missed);
      for (const task of tasks) await task.destroy();
    },
  };
}

const MINUTE = 60_000;

/** Longer ago a schedule is not looked back: a daemon that was away for a year takes a snapshot when it is due next. */
const LOOK_BACK_MS = 400 * 24 * 60 * MINUTE;

/**
 * The last time after `after` and up to `upTo` at which a run was due; undefined when there was none. A time that the clocks leave out in spring
 * counts as none.
 */
export function lastDue(
  { schedules, timezone }: { schedules: readonly string[]; timezone: string },
  { after, upTo }: { after: Date; upTo: Date },
): Date | undefined {
  const found = schedules.map((expression) => lastOf(expression, timezone, after.getTime(), upTo.getTime()));
  const last = Math.max(...found.map((time) => time ?? Number.NEGATIVE_INFINITY));
  return Number.isFinite(last) ? new Date(last) : undefined;
}

function lastOf(expression: string, timezone: string, after: number, upTo: number): number | undefined {
  const task = createTask(expression, () => {}, { timezone, logger: SILENT });
  try {
    const { second, minute } = parse(expression);
    const seconds = second.toSorted((a, b) => b - a);
    // The clocks of every zone differ from UTC by quarters of an hour, so that few minutes come into question.
    const minutes = new Set(minute.map((value) => value % 15));
    const floor = Math.max(after, upTo - LOOK_BACK_MS);
    for (let at = Math.floor(upTo / MINUTE) * MINUTE; at > floor - MINUTE; at -= MINUTE) {
      if (!minutes.has((at / MINUTE) % 15)) continue;
      for (const value of seconds) {
        const time = at + value * 1000;
        if (time > upTo) continue;
        if (time <= after) break;
        if (task.match(new Date(time))) return time;
      }
    }
    return undefined;
  } finally {
    void task.destroy();
  }
}
