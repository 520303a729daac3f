/**
 * Asks the daemon that runs with a state folder, over its socket.
 */
import { connect, type Socket } from 'node:net';
import {
  ERROR_CODES,
  type ErrorCode,
  errnoOf,
  ioError,
  isPresyncError,
  messageOf,
  PresyncError,
  throwIfAborted,
} from '@presync/runtime/errors';
import type { RunRecord } from './history.ts';
import {
  type Answer,
  answer,
  type DaemonStatus,
  MAX_LINE_BYTES,
  socketPath,
} from './lib/control-protocol.ts';
import { linesOf } from './lib/lines.ts';

export type { DaemonStatus } from './lib/control-protocol.ts';

export interface AskOptions {
  stateDir: string;
  signal: AbortSignal;
}

export type RunProgress = Omit<Extract<Answer, { is: 'progress' }>, 'is'>;

/** @throws DAEMON_NOT_FOUND, IO_FAILED, ABORTED */
export async function askStatus(options: AskOptions): Promise<DaemonStatus> {
  for await (const line of ask({ ask: 'status' }, options)) {
    if (line.is === 'status') return line.status;
  }
  throw brokenOff(options);
}

/**
 * Has the daemon take a snapshot now, and follows it to its end. When the signal fires, or the caller dies, the run goes on.
 *
 * @throws DAEMON_NOT_FOUND; LOCKED when a run is under way; ABORTED
 * @throws the run's own failure, with its code: GATE_SHUT, STORE_UNREACHABLE…
 */
export async function askRun(
  options: AskOptions & { onProgress: (progress: RunProgress) => void },
): Promise<RunRecord> {
  for await (const line of ask({ ask: 'run' }, options)) {
    if (line.is === 'progress') options.onProgress(line);
    if (line.is !== 'ended') continue;
    const { run, hint } = line;
    if (run.outcome === 'published') return run;
    throw new PresyncError(codeOf(run.code), run.reason ?? `run ${run.id} ended as ${run.outcome}`, {
      hint: hint ?? undefined,
    });
  }
  throw brokenOff(options);
}

async function* ask(question: object, { stateDir, signal }: AskOptions): AsyncGenerator<Answer> {
  throwIfAborted(signal);
  const path = socketPath(stateDir);
  const socket = connect({ path });
  const stop = (): void =>
    void socket.destroy(new PresyncError('ABORTED', 'stopped while the daemon worked'));
  signal.addEventListener('abort', stop, { once: true });
  try {
    await connected(socket);
    socket.write(`${JSON.stringify(question)}\n`);
    for await (const line of linesOf(socket, MAX_LINE_BYTES)) {
      const read = answer.safeParse(JSON.parse(line));
      if (!read.success) {
        throw new PresyncError('IO_FAILED', `the daemon at ${path} gives an answer of an unknown form`, {
          hint: 'use a presync of the same version as the daemon',
        });
      }
      if (read.data.is === 'refused') {
        throw new PresyncError(codeOf(read.data.code), read.data.message, {
          hint: read.data.hint ?? undefined,
        });
      }
      yield read.data;
    }
  } catch (error) {
    throwIfAborted(signal);
    throw notThere(error, stateDir) ?? ioError(error, 'ask', path);
  } finally {
    signal.removeEventListener('abort', stop);
    socket.destroy();
  }
}

function connected(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
}

function notThere(error: unknown, stateDir: string): PresyncError | undefined {
  const code = errnoOf(error);
  if (isPresyncError(error) || (code !== 'ENOENT' && code !== 'ECONNREFUSED' && code !== 'ENOTDIR'))
    return undefined;
  return new PresyncError('DAEMON_NOT_FOUND', `no daemon answers in ${stateDir}: ${messageOf(error)}`, {
    cause: error,
    hint: 'start "presync snapshotter", or give the --state-dir that it has',
  });
}

function brokenOff({ stateDir }: AskOptions): PresyncError {
  return new PresyncError('IO_FAILED', `the daemon in ${stateDir} ended before it had answered`, {
    hint: 'look at its log; "presync status" shows how its runs ended',
  });
}

function codeOf(text: string | null): ErrorCode {
  return text !== null && isErrorCode(text) ? text : 'INTERNAL';
}

function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(ERROR_CODES, text);
}
