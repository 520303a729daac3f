import type { ProcessId } from './proc.ts';

/** What is held still, and how: enough to let it go again, for whoever finds it on disk. */
export type PauseTarget =
  | { kind: 'process'; node: ProcessId }
  | { kind: 'cgroup'; version: 1 | 2; dir: string }
  | { kind: 'unit'; action: 'stop'; unit: string }
  | { kind: 'unit'; action: 'freeze'; unit: string; dir: string }
  | { kind: 'container'; action: 'pause' | 'stop'; socket: string; id: string }
  | HooksTarget;

export interface HooksTarget {
  kind: 'hooks';
  before: string;
  after: string;
  /** Milliseconds that each of them may take. */
  timeoutMs: number;
  /** Where the hooks leave a frozen copy of the base path; null when they hold the node still instead. */
  view: string | null;
  /** The databases' folders, for the hooks to know. */
  databases: string[];
  /** Of this pause. */
  id: string;
  stateDir: string;
}

/** For messages: whom it is about. */
export function describeTarget(target: PauseTarget): string {
  switch (target.kind) {
    case 'process':
      return `process ${target.node.pid}`;
    case 'cgroup':
      return `cgroup ${target.dir}`;
    case 'unit':
      return `unit ${target.unit}`;
    case 'container':
      return `container ${target.id.slice(0, 12)}`;
    case 'hooks':
      return 'the node that the hooks are for';
  }
}

/** True when both are about the same node held in the same way. */
export function isSameTarget(one: PauseTarget, other: PauseTarget): boolean {
  return keyOf(one) === keyOf(other);
}

function keyOf(target: PauseTarget): string {
  switch (target.kind) {
    case 'process':
      return `process ${target.node.pid} ${target.node.startTime}`;
    case 'cgroup':
      return `cgroup ${target.dir}`;
    case 'unit':
      return `unit ${target.unit}`;
    case 'container':
      return `container ${target.socket} ${target.id}`;
    case 'hooks':
      return `hooks ${target.databases.join(' ')}`;
  }
}

/**
 * Whether a restart of the machine undoes the hold. What was stopped, and what hooks have left, outlives it: the node must be started again all the
 * same.
 */
export function endsWithBoot(target: PauseTarget): boolean {
  if (target.kind === 'hooks') return false;
  return target.kind === 'process' || target.kind === 'cgroup' || target.action !== 'stop';
}

/** Undefined when it is none. */
export function parseTarget(value: unknown): PauseTarget | undefined {
  if (!isRecord(value)) return undefined;
  const { kind, action, unit, socket, id, dir, version, node } = value;
  if (kind === 'process' && isProcessId(node))
    return { kind, node: { pid: node.pid, startTime: node.startTime } };
  if (kind === 'cgroup' && (version === 1 || version === 2) && typeof dir === 'string')
    return { kind, version, dir };
  if (kind === 'unit' && action === 'stop' && typeof unit === 'string') return { kind, action, unit };
  if (kind === 'unit' && action === 'freeze' && typeof unit === 'string' && typeof dir === 'string')
    return { kind, action, unit, dir };
  if (
    kind === 'container' &&
    (action === 'pause' || action === 'stop') &&
    typeof socket === 'string' &&
    typeof id === 'string'
  )
    return { kind, action, socket, id };
  return kind === 'hooks' ? parseHooks(value) : undefined;
}

function parseHooks(value: Record<string, unknown>): HooksTarget | undefined {
  const { before, after, timeoutMs, view, databases, id, stateDir } = value;
  if (typeof before !== 'string' || typeof after !== 'string' || typeof timeoutMs !== 'number')
    return undefined;
  if (typeof id !== 'string' || typeof stateDir !== 'string') return undefined;
  if (view !== null && typeof view !== 'string') return undefined;
  if (!Array.isArray(databases) || !databases.every((entry) => typeof entry === 'string')) return undefined;
  return { kind: 'hooks', before, after, timeoutMs, view, databases, id, stateDir };
}

export function isProcessId(value: unknown): value is ProcessId {
  return (
    isRecord(value) &&
    Number.isSafeInteger(value.pid) &&
    Number(value.pid) > 1 &&
    typeof value.startTime === 'string'
  );
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
