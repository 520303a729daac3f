import { setTimeout as delay } from 'node:timers/promises';
import { errnoOf, isPresyncError, messageOf, PresyncError } from './errors.ts';
import { describeFailure, type FailureReport } from './lib/failure.ts';

/** What the program learns only while it runs. */
export interface ProgramSettings {
  /** An error is one JSON document on stdout. */
  json: boolean;
  /** Stack traces also for PresyncErrors. */
  verbose: boolean;
  /** Called before anything is written to stderr, as to take a progress bar away. */
  beforeReport: (() => void) | undefined;
  /** Called on SIGHUP, which then is no reason to stop. */
  onHangup: (() => void) | undefined;
}

export interface ProgramOptions {
  /** The first word of messages on stderr. */
  name: string;
  /**
   * The program. It stops promptly, and cleans up, when the signal fires. The number is the exit code; none is 0.
   */
  run: (signal: AbortSignal, settings: ProgramSettings) => Promise<number | undefined>;
  /** Settings at the start. */
  json?: boolean | undefined;
  verbose?: boolean | undefined;
}

const SIGNAL_EXITS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

type StopSignal = keyof typeof SIGNAL_EXITS;

/** After a defect that nobody caught, clean-up gets this long: the node may be paused, and must be resumed. */
const CLEAN_UP_AFTER_DEFECT_MS = 15_000;

/**
 * Runs a program to its end and ends the process: this is the only place that does.
 *
 * - The first SIGINT, SIGTERM or SIGHUP fires the signal, with an ABORTED error as its reason; a second one ends the
 *   process at once. The exit code is then 130, 143 or 129, unless clean-up failed with another error.
 * - A program that reads its configuration again on SIGHUP (`onHangup`) is not stopped by it.
 * - A PresyncError is told as `presync: …`, its hint and its code; in JSON mode as one document on stdout. Anything else is a defect: INTERNAL, with its stack.
 * - An exception or rejection that nobody caught fires the signal too, and ends the process when clean-up is done.
 * - A closed stdout (`presync list | head -1`) does not stop work that is under way.
 * - Where a launcher waits for this process (`PRESYNC_LAUNCHED`), its death counts as SIGTERM.
 */
export async function runProgram(options: ProgramOptions): Promise<never> {
  const settings: ProgramSettings = {
    json: options.json ?? false,
    verbose: options.verbose ?? false,
    beforeReport: undefined,
    onHangup: undefined,
  };
  const controller = new AbortController();
  let stoppedBy: StopSignal | undefined;
  let defect: { error: unknown } | undefined;
  let onDefect: (() => void) | undefined;
  const defectSeen = new Promise<void>((resolve) => {
    onDefect = resolve;
  });

  const stop = (signal: StopSignal): void => {
    if (stoppedBy !== undefined) process.exit(SIGNAL_EXITS[signal]);
    stoppedBy = signal;
    settings.beforeReport?.();
    tell(`${options.name}: ${signal} received, cleaning up; a second one ends it at once\n`);
    controller.abort(new PresyncError('ABORTED', `stopped by ${signal}`));
  };
  const fail = (error: unknown): void => {
    if (defect !== undefined) return;
    defect = { error };
    controller.abort(
      new PresyncError('ABORTED', `stopped by a defect: ${messageOf(error)}`, { cause: error }),
    );
    onDefect?.();
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => stop(signal));
  process.on('SIGHUP', () => {
    if (settings.onHangup !== undefined && stoppedBy === undefined) settings.onHangup();
    else stop('SIGHUP');
  });
  process.on('uncaughtException', fail);
  process.on('unhandledRejection', fail);
  process.stdout.on('error', (error) => ignoreClosed(error, fail));
  process.stderr.on('error', (error) => ignoreClosed(error, fail));
  followLauncher(stop);

  const work = (async () => options.run(controller.signal, settings))().then(
    (code) => ({ code: code ?? 0 }),
    (error: unknown) => ({ error }),
  );
  const cutOff = defectSeen
    .then(() => delay(CLEAN_UP_AFTER_DEFECT_MS, undefined, { ref: false }))
    .then(() => undefined);
  const outcome = await Promise.race([work, keepAlive(work), cutOff]);

  let code = outcome !== undefined && 'code' in outcome ? outcome.code : 1;
  const error = defect?.error ?? (outcome !== undefined && 'error' in outcome ? outcome.error : undefined);
  if (error !== undefined && !(stoppedBy !== undefined && isStop(error))) {
    const failure = describeFailure(error);
    settings.beforeReport?.();
    await report(options.name, failure, settings);
    code = failure.exitCode;
  } else if (stoppedBy !== undefined) {
    code = SIGNAL_EXITS[stoppedBy];
    if (settings.json && error !== undefined)
      await writeOut(jsonOf({ ...describeFailure(error), exitCode: code }));
  }
  await writeOut('');
  process.exit(code);
}

/** True for an error that only says that the work was stopped. */
function isStop(error: unknown): boolean {
  return isPresyncError(error, 'ABORTED') || (error instanceof Error && error.name === 'AbortError');
}

/** Keeps the process up while the work waits for something that does not, so that it never just falls silent with exit code 0. */
async function keepAlive(work: Promise<unknown>): Promise<never> {
  const timer = setInterval(() => {}, 2 ** 30);
  await work.finally(() => clearInterval(timer));
  return new Promise<never>(() => {});
}

async function report(name: string, failure: FailureReport, settings: ProgramSettings): Promise<void> {
  if (settings.json) await writeOut(jsonOf(failure));
  tell(
    [
      `${name}: ${failure.message}`,
      ...(failure.hint === undefined ? [] : [`Try: ${failure.hint}`]),
      `Code: ${failure.code} (exit code ${failure.exitCode})`,
      ...(failure.stack !== undefined && (settings.verbose || failure.code === 'INTERNAL')
        ? [failure.stack]
        : []),
      '',
    ].join('\n'),
  );
}

function jsonOf({ code, message, hint, exitCode }: FailureReport): string {
  return `${JSON.stringify({ error: { code, message, hint, exitCode } }, null, 2)}\n`;
}

/** Resolves when the text has left the process, or cannot any more. */
function writeOut(text: string): Promise<void> {
  return new Promise((resolve) => {
    if (!process.stdout.writable) resolve();
    else process.stdout.write(text, () => resolve());
  });
}

function tell(text: string): void {
  if (process.stderr.writable) process.stderr.write(text);
}

/** EPIPE and a destroyed stream mean that nobody listens; that alone is no reason to stop the work. */
function ignoreClosed(error: Error, otherwise: (error: unknown) => void): void {
  const code = errnoOf(error);
  if (code !== 'EPIPE' && code !== 'ERR_STREAM_DESTROYED') otherwise(error);
}

function followLauncher(stop: (signal: StopSignal) => void): void {
  if (process.env.PRESYNC_LAUNCHED === undefined || process.channel === undefined) return;
  process.on('disconnect', () => stop('SIGTERM'));
  // The channel is there to be seen closing, and must not keep the process alive.
  process.channel?.unref();
  if (!process.connected) stop('SIGTERM');
}
