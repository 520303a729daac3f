import { readdirSync, readFileSync } from 'node:fs';
import { errnoOf, ioError } from '@presync/runtime/errors';

/** A process, safe against its number being given to another one: pid, and start time in clock ticks since boot. */
export interface ProcessId {
  pid: number;
  startTime: string;
}

export interface ProcessStatus extends ProcessId {
  parent: number;
  /** One letter, see proc(5): `R S D T t Z X I`. */
  state: string;
  command: string;
}

/** Fields 1 to 22 of /proc/<pid>/stat, or undefined when there is no such process. */
export function processStatus(pid: number): ProcessStatus | undefined {
  const text = readProc(`/proc/${pid}/stat`);
  return text === undefined ? undefined : { pid, ...parseStat(text) };
}

/** The states of all threads; empty when the process is gone. */
export function threadStates(pid: number): string[] {
  const states: string[] = [];
  for (const thread of threadIds(pid)) {
    const text = readProc(`/proc/${pid}/task/${thread}/stat`);
    if (text !== undefined) states.push(parseStat(text).state);
  }
  return states;
}

/** True while that very process exists and has not ended: a zombie no longer counts. */
export function isAlive(process: ProcessId): boolean {
  const status = processStatus(process.pid);
  return status !== undefined && status.startTime === process.startTime && !hasEnded(status.state);
}

export function hasEnded(state: string): boolean {
  return state === 'Z' || state === 'X' || state === 'x';
}

/** This very process. */
export function ownProcess(): ProcessId {
  const status = processStatus(process.pid);
  if (status === undefined) throw ioError(new Error('no such process'), 'read', `/proc/${process.pid}/stat`);
  return { pid: status.pid, startTime: status.startTime };
}

/** The pids of this process and of all that it descends from. */
export function ancestors(): Set<number> {
  const pids = new Set<number>();
  for (let pid = process.pid; pid > 0 && !pids.has(pid); pid = processStatus(pid)?.parent ?? 0) pids.add(pid);
  return pids;
}

/** True for the process itself, too. */
export function descendsFrom(pid: number, ancestor: number): boolean {
  const seen = new Set<number>();
  for (let at = pid; at > 0 && !seen.has(at); at = processStatus(at)?.parent ?? 0) {
    if (at === ancestor) return true;
    seen.add(at);
  }
  return false;
}

function threadIds(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch (error) {
    if (isGone(error)) return [];
    throw ioError(error, 'list', `/proc/${pid}/task`);
  }
}

function readProc(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1');
  } catch (error) {
    if (isGone(error)) return undefined;
    throw ioError(error, 'read', path);
  }
}

function isGone(error: unknown): boolean {
  const code = errnoOf(error);
  return code === 'ENOENT' || code === 'ESRCH' || code === 'ENOTDIR';
}

function parseStat(text: string): { parent: number; state: string; startTime: string; command: string } {
  // The command may itself hold blanks and parentheses, so the fields are counted from its last parenthesis.
  const end = text.lastIndexOf(')');
  const fields = text
    .slice(end + 1)
    .trim()
    .split(/\s+/);
  return {
    command: text.slice(text.indexOf('(') + 1, end),
    state: fields[0] ?? '',
    parent: Number(fields[1] ?? Number.NaN),
    startTime: fields[19] ?? '',
  };
}
