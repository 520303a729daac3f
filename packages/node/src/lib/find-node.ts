import { readFile } from 'node:fs/promises';
import { errnoOf, ioError, PresyncError } from '@presync/runtime/errors';
import type { DatabaseHolder } from '../locks.ts';
import { ancestors, hasEnded, type ProcessId, processStatus } from './proc.ts';

/** How the node's process is told. */
export interface NodeProcessOptions {
  pid?: number | undefined;
  /** A file that holds the pid as decimal text. Read anew for each pause. */
  pidFile?: string | undefined;
  /** Who holds the database's lock, see `databaseHolder`. Any other process is refused. */
  holder?: DatabaseHolder | undefined;
}

/**
 * The node's process: the one that was named, or else the one that has the database open.
 *
 * @throws NODE_NOT_RUNNING, NODE_PAUSE_FAILED for everything that can be seen not to be the node, IO_FAILED
 */
export async function findNodeProcess(options: NodeProcessOptions): Promise<ProcessId> {
  return identify(await findPid(options), options.holder?.pid);
}

async function findPid(options: NodeProcessOptions): Promise<number> {
  if (options.pid !== undefined) return options.pid;
  if (options.pidFile === undefined) return pidOf(options.holder);
  let text: string;
  try {
    text = await readFile(options.pidFile, 'utf8');
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw ioError(error, 'read', options.pidFile);
    throw new PresyncError('NODE_NOT_RUNNING', `there is no pid file ${options.pidFile}`, {
      cause: error,
      hint: 'start the node, or check --pid-file',
    });
  }
  if (!/^\s*[1-9]\d{0,9}\s*$/.test(text)) {
    throw new PresyncError('NODE_PAUSE_FAILED', `the pid file ${options.pidFile} does not hold a pid`, {
      hint: 'check --pid-file',
    });
  }
  return Number(text);
}

function pidOf(holder: DatabaseHolder | undefined): number {
  if (holder === undefined) {
    throw new PresyncError(
      'NODE_NOT_RUNNING',
      'no process that can be seen from here has the database open',
      {
        hint: 'start the node; for one that shall stay down, use --pause none',
      },
    );
  }
  if (holder.pid !== undefined) return holder.pid;
  throw new PresyncError(
    'NODE_PAUSE_FAILED',
    'the database is open, but it cannot be seen which process has it',
    {
      hint: 'name the node with --pid-file or --pid',
    },
  );
}

/** Refuses everything that can be seen not to be the node. */
function identify(pid: number, expected: number | undefined): ProcessId {
  if (!Number.isSafeInteger(pid) || pid < 1)
    throw new PresyncError('CONFIG_INVALID', `${pid} is not a pid`, { hint: 'check --pid-file' });
  if (pid === 1) throw refused(pid, 'it is the system’s first process');
  if (ancestors().has(pid)) throw refused(pid, 'it is presync itself, or started presync');
  if (expected !== undefined && expected !== pid)
    throw refused(pid, `the database is held open by process ${expected}, not by this one`);
  const status = processStatus(pid);
  if (status === undefined || hasEnded(status.state)) {
    throw new PresyncError('NODE_NOT_RUNNING', `there is no process ${pid}`, {
      hint: 'start the node, or check --pid-file',
    });
  }
  return { pid, startTime: status.startTime };
}

function refused(pid: number, why: string): PresyncError {
  return new PresyncError('NODE_PAUSE_FAILED', `process ${pid} is not paused: ${why}`, {
    hint: 'give the pid of the node, by --pid-file',
  });
}
