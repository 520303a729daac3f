import type { Logger } from './log.ts';
import type { StatusLine } from './status-line.ts';
import { formatBytes, formatDuration } from './units.ts';

/** Where long work tells how far it is. One task at a time; `start` ends the one before. */
export interface ProgressSink {
  /** `total` in bytes, where it is known. */
  start(task: { label: string; total?: number | undefined }): void;
  /** So many bytes more are done. */
  advance(bytes: number): void;
  /** What is going on now, in a few words. */
  note(text: string): void;
  finish(): void;
}

export interface ProgressOptions {
  /** `bar` on a terminal, `lines` in a log, `none` for `--quiet`. */
  form: 'bar' | 'lines' | 'none';
  statusLine: StatusLine;
  log: Logger;
  /** Milliseconds between lines. Default 10,000. */
  lineEveryMs?: number | undefined;
  /** Milliseconds, monotonic. */
  now?: (() => number) | undefined;
}

const DEFAULT_LINE_EVERY_MS = 10_000;

/** Often enough to look alive, seldom enough for a slow terminal. */
const REDRAW_EVERY_MS = 200;

/** The rate is the average of about this long, so that the time left does not jump. */
const RATE_WINDOW_MS = 10_000;

const BAR_WIDTH = 20;

interface Task {
  label: string;
  total: number | undefined;
  done: number;
  note: string;
  began: number;
  /** Bytes a millisecond, smoothed. */
  rate: number;
  measuredAt: number;
  measuredDone: number;
}

/** A sink that draws a bar with bytes, rate and time left, or logs `progress.advanced` every ten seconds. */
export function createProgress(options: ProgressOptions): ProgressSink {
  const now = options.now ?? (() => performance.now());
  let task: Task | undefined;
  let timer: NodeJS.Timeout | undefined;

  const tell = (): void => {
    if (task === undefined) return;
    measure(task, now());
    if (options.form === 'bar') options.statusLine.show(barOf(task));
    else options.log.info('progress.advanced', sentenceOf(task), fieldsOf(task));
  };

  const finish = (): void => {
    clearInterval(timer);
    if (task === undefined) return;
    const { label, done, began } = task;
    const elapsed = now() - began;
    task = undefined;
    if (options.form === 'bar') options.statusLine.show(undefined);
    if (options.form === 'none') return;
    options.log.info(
      'progress.finished',
      `${label}: ${formatBytes(done)} in ${formatDuration(elapsed)}, ${formatBytes((done / Math.max(1, elapsed)) * 1000)}/s`,
      { task: label, bytes: done, seconds: elapsed / 1000 },
    );
  };

  return {
    start({ label, total }) {
      finish();
      const began = now();
      task = { label, total, done: 0, note: '', began, rate: 0, measuredAt: began, measuredDone: 0 };
      if (options.form === 'none') return;
      const every = options.form === 'bar' ? REDRAW_EVERY_MS : (options.lineEveryMs ?? DEFAULT_LINE_EVERY_MS);
      // Progress alone must not keep a process alive.
      timer = setInterval(tell, every).unref();
      if (options.form === 'bar') tell();
    },
    advance(bytes) {
      if (task !== undefined) task.done += bytes;
    },
    note(text) {
      if (task !== undefined) task.note = text;
    },
    finish,
  };
}

function measure(task: Task, at: number): void {
  const elapsed = at - task.measuredAt;
  if (elapsed <= 0) return;
  const current = (task.done - task.measuredDone) / elapsed;
  // A young task has no past to be smoothed with.
  const weight = Math.min(1, elapsed / Math.min(RATE_WINDOW_MS, Math.max(1, at - task.began)));
  task.rate += (current - task.rate) * weight;
  task.measuredAt = at;
  task.measuredDone = task.done;
}

/** Milliseconds until the total is reached at this rate, where both are known. */
function timeLeft({ total, done, rate }: Task): number | undefined {
  return total === undefined || rate <= 0 ? undefined : Math.max(0, total - done) / rate;
}

function amountOf({ done, total }: Task): string {
  return total === undefined ? formatBytes(done) : `${formatBytes(done)} of ${formatBytes(total)}`;
}

function sentenceOf(task: Task): string {
  const left = timeLeft(task);
  return [
    `${task.label}: ${amountOf(task)}`,
    `${formatBytes(task.rate * 1000)}/s`,
    ...(left === undefined ? [] : [`${formatDuration(left)} left`]),
    ...(task.note === '' ? [] : [task.note]),
  ].join(', ');
}

function fieldsOf(task: Task): Record<string, unknown> {
  const left = timeLeft(task);
  return {
    task: task.label,
    bytes: task.done,
    ...(task.total === undefined ? {} : { totalBytes: task.total }),
    bytesPerSecond: Math.round(task.rate * 1000),
    ...(left === undefined ? {} : { secondsLeft: Math.round(left / 1000) }),
  };
}

function barOf(task: Task): string {
  if (task.total === undefined || task.total === 0) return sentenceOf(task);
  const share = Math.min(1, task.done / task.total);
  const full = Math.floor(share * BAR_WIDTH);
  return `[${'#'.repeat(full)}${'.'.repeat(BAR_WIDTH - full)}] ${String(Math.floor(share * 100)).padStart(3)}% ${sentenceOf(task)}`;
}
