import { chmod, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { errnoOf, ioError, isPresyncError, messageOf, PresyncError } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import { type Answer, type DaemonStatus, request, socketPath } from './control-protocol.ts';
import { linesOf } from './lines.ts';
import type { CurrentRun, EndedRun, Runner } from './runner.ts';

export interface ControlOptions {
  stateDir: string;
  runner: Runner;
  status: () => DaemonStatus;
  log: Logger;
}

/** Requests are short; so is the time that a client has to make one. */
const MAX_REQUEST_BYTES = 4096;
const REQUEST_MS = 10_000;

/** Often enough to look alive. */
const PROGRESS_EVERY_MS = 1000;

/**
 * Listens on the socket in the state folder, mode 0600. The caller holds the lock on that folder, so that a socket which is there already is one that a
 * killed daemon has left.
 *
 * @throws CONFIG_INVALID when the path is too long for a socket; IO_FAILED
 */
export async function startControlServer(options: ControlOptions): Promise<{ close(): Promise<void> }> {
  const path = socketPath(options.stateDir);
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    // A client that goes away concerns nobody here: its run goes on.
    socket.on('error', () => socket.destroy());
    void converse(socket, options);
  });
  try {
    await rm(path, { force: true });
    await listen(server, path);
    await chmod(path, 0o600);
  } catch (error) {
    server.close();
    throw tooLong(error, path) ?? ioError(error, 'listen on', path);
  }
  return {
    close: async () => {
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      });
      await rm(path, { force: true });
    },
  };
}

/** Nobody else may ever connect, so the mode is right from the first instant: the socket is bound before `listen` returns. */
function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    const before = process.umask(0o177);
    try {
      server.listen({ path }, () => {
        server.off('error', reject);
        resolve();
      });
    } finally {
      process.umask(before);
    }
  });
}

function tooLong(error: unknown, path: string): PresyncError | undefined {
  const code = errnoOf(error);
  if (code !== 'EINVAL' && code !== 'ENAMETOOLONG') return undefined;
  return new PresyncError('CONFIG_INVALID', `the path ${path} is too long for a socket`, {
    cause: error,
    hint: 'choose a shorter --state-dir: sockets take 107 characters',
  });
}

async function converse(socket: Socket, options: ControlOptions): Promise<void> {
  const say = (line: Answer): void => {
    if (socket.writable) socket.write(`${JSON.stringify(line)}\n`);
  };
  const late = setTimeout(() => socket.destroy(), REQUEST_MS);
  try {
    for await (const line of linesOf(socket, MAX_REQUEST_BYTES)) {
      clearTimeout(late);
      await reply(line, say, options);
      break;
    }
  } catch (error) {
    options.log.warn('control.failed', messageOf(error));
    say(refusal(error));
  } finally {
    clearTimeout(late);
    socket.end();
  }
}

async function reply(
  line: string,
  say: (answer: Answer) => void,
  { runner, status }: ControlOptions,
): Promise<void> {
  const asked = request.safeParse(parse(line));
  if (!asked.success) {
    throw new PresyncError('USAGE', 'the daemon does not understand what it was asked', {
      hint: 'use a presync of the same version as the daemon',
    });
  }
  if (asked.data.ask === 'status') {
    say({ is: 'status', status: status() });
    return;
  }
  const { run, ended } = runner.start('command');
  say({ is: 'begun', id: run.id });
  const timer = setInterval(() => say(progressOf(run)), PROGRESS_EVERY_MS);
  try {
    say(endOf(await ended));
  } finally {
    clearInterval(timer);
  }
}

function progressOf({ phase, progress }: CurrentRun): Answer {
  return {
    is: 'progress',
    phase: phase ?? null,
    label: progress?.label ?? null,
    done: progress?.done ?? 0,
    total: progress?.total ?? null,
  };
}

function endOf({ record, error }: EndedRun): Answer {
  return {
    is: 'ended',
    run: record,
    hint: (error instanceof PresyncError ? error.hint : undefined) ?? null,
  };
}

function refusal(error: unknown): Answer {
  const known = isPresyncError(error) ? error : undefined;
  return {
    is: 'refused',
    code: known?.code ?? 'INTERNAL',
    message: messageOf(error),
    hint: known?.hint ?? null,
  };
}

function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
