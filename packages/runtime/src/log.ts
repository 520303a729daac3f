import { Writable } from 'node:stream';
import { pino, stdTimeFunctions } from 'pino';
import { messageOf, PresyncError } from './errors.ts';
import type { EventName } from './events.ts';
import { redactText, redactValue } from './redact.ts';
import type { StatusLine } from './status-line.ts';

export type LogFields = Readonly<Record<string, unknown>>;

/** What is worth a line. */
export interface Verbosity {
  /** Warnings and errors only. */
  quiet?: boolean | undefined;
  /** Details, and stack traces. */
  verbose?: boolean | undefined;
}

/** One record a call: `event`, a sentence for people, and fields. An Error belongs in the field `error`. */
export interface Logger {
  debug(event: EventName, message: string, fields?: LogFields): void;
  info(event: EventName, message: string, fields?: LogFields): void;
  warn(event: EventName, message: string, fields?: LogFields): void;
  error(event: EventName, message: string, fields?: LogFields): void;
  /** The same logger, with fields that each record carries. */
  child(fields: LogFields): Logger;
}

/** A program's own logger, from which all others come. */
export interface RootLogger extends Logger {
  /** Changes what this logger and all its children write from now on. */
  setVerbosity(verbosity: Verbosity): void;
}

export interface LoggerOptions extends Verbosity {
  /** The program, as field `name`. */
  name: string;
  /** Where lines go: stderr, or the terminal that also shows progress. */
  output: Pick<StatusLine, 'print'>;
  /** Lines for people in place of JSON. */
  pretty: boolean;
  /** Default: not when `NO_COLOR` is set (no-color.org). Only with `pretty`. */
  color?: boolean | undefined;
  /** Each line begins with its priority, `<3>` for an error, as journald reads it from a service (sd-daemon(3)). */
  journal?: boolean | undefined;
}

const LEVELS = ['debug', 'info', 'warn', 'error'] as const;

type Level = (typeof LEVELS)[number];

/** Of syslog(3). */
const PRIORITIES: Readonly<Record<Level, number>> = { debug: 7, info: 6, warn: 4, error: 3 };

/** Shared by a logger and its children. */
interface Threshold {
  least: number;
  stacks: boolean;
}

/**
 * JSON lines with `level`, `time` (ISO 8601), `name`, `event` and `msg`. Credentials are taken out of texts and fields.
 * Writing is synchronous, so that the last words of a process that dies are not lost.
 */
export async function createLogger(options: LoggerOptions): Promise<RootLogger> {
  const threshold = thresholdOf(options);
  let prefix = '';
  const sink = new Writable({
    decodeStrings: false,
    write(chunk: string | Uint8Array, _encoding, done) {
      options.output.print(prefix + (typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString()));
      done();
    },
  });
  const root = pino(
    {
      name: options.name,
      // What is worth a line is decided here, for all children at once.
      level: 'debug',
      timestamp: stdTimeFunctions.isoTime,
      base: { pid: process.pid },
      formatters: { level: (label) => ({ level: label }) },
    },
    options.pretty ? await prettyStream(sink, options) : sink,
  );
  const before = (level: Level): void => {
    // The sink is written to synchronously, so that the next line is this one's.
    if (options.journal === true) prefix = `<${PRIORITIES[level]}>`;
  };
  return {
    ...wrap(root, threshold, before),
    setVerbosity: (verbosity) => Object.assign(threshold, thresholdOf(verbosity)),
  };
}

function thresholdOf({ quiet, verbose }: Verbosity): Threshold {
  const least = LEVELS.indexOf(quiet === true ? 'warn' : verbose === true ? 'debug' : 'info');
  return { least, stacks: verbose === true };
}

async function prettyStream(destination: Writable, options: LoggerOptions): Promise<Writable> {
  const { PinoPretty } = await import('pino-pretty');
  return PinoPretty({
    destination,
    sync: true,
    colorize: options.color ?? (process.env.NO_COLOR ?? '') === '',
    ignore: options.verbose === true ? 'pid,name' : 'pid,name,event',
    translateTime: 'SYS:HH:MM:ss',
    singleLine: true,
  });
}

function wrap(target: pino.Logger, threshold: Threshold, before: (level: Level) => void): Logger {
  const level =
    (name: Level) =>
    (event: EventName, message: string, fields: LogFields = {}): void => {
      if (LEVELS.indexOf(name) < threshold.least) return;
      before(name);
      target[name]({ ...record(fields, threshold.stacks), event }, redactText(message));
    };
  return {
    debug: level('debug'),
    info: level('info'),
    warn: level('warn'),
    error: level('error'),
    child: (fields) => wrap(target.child(record(fields, threshold.stacks)), threshold, before),
  };
}

function record(fields: LogFields, verbose: boolean): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [
      name,
      value instanceof Error
        ? describeError(value, verbose)
        : name === 'event'
          ? String(value)
          : redact(name, value),
    ]),
  );
}

/** Through an object, so that the field's own name counts. */
function redact(name: string, value: unknown): unknown {
  const hidden = redactValue({ [name]: value });
  return typeof hidden === 'object' && hidden !== null ? Object.values(hidden)[0] : undefined;
}

/** An error as fields. Errors that are no PresyncError are defects, so their stack is always told. */
function describeError(error: Error, verbose: boolean, depth = 0): Record<string, unknown> {
  const own = error instanceof PresyncError;
  return {
    type: error.name,
    message: redactText(error.message),
    ...(own ? { code: error.code, hint: error.hint } : {}),
    ...((verbose || !own) && depth === 0 ? { stack: redactText(error.stack ?? '') } : {}),
    ...(error.cause === undefined || depth >= 4
      ? {}
      : {
          cause:
            error.cause instanceof Error
              ? describeError(error.cause, verbose, depth + 1)
              : redactText(messageOf(error.cause)),
        }),
  };
}

/** A logger that says nothing. */
export function createSilentLogger(): Logger {
  const silent: Logger = {
    debug: () => {},
    info: () => {},
    warn: () => {},
    error: () => {},
    child: () => silent,
  };
  return silent;
}
