import { isPresyncError, messageOf, PresyncError } from '@presync/runtime/errors';
import type { Group } from './group.ts';
import type { ReadyRules } from './lib/ask-node.ts';
import { abandonLaunch, joinGroup, startHeartbeats } from './lib/join-group.ts';
import { createSeal } from './lib/seal.ts';
import { createTimeline, type Phase, type PhaseTime, type Timeline } from './lib/timeline.ts';
import {
  type RestoreDatabaseOptions,
  type RestoreDatabaseResult,
  restoreDatabase,
  sealOf,
} from './restore-database.ts';
import { type AgentState, serveNode } from './serve-node.ts';
import { type StartedNode, type StartHow, startNode } from './start-node.ts';
import { type ReadyReport, waitReady } from './wait-ready.ts';

export interface BootstrapOptions extends RestoreDatabaseOptions {
  /** How the node is started; undefined when something else does it. */
  start: StartHow | undefined;
  /** How far the agent goes: until the database is in place, the node is ready, or somebody stops it. */
  until: 'sealed' | 'ready' | 'stopped';
  ready: Omit<ReadyRules, 'chain'> & { timeoutMs: number };
  /** How long requests get to end before the node is stopped, milliseconds. */
  drainMs: number;
  /** The group that this instance belongs to. */
  group?: Group | undefined;
  /** Called whenever it changes whether the node may serve, and why not. */
  onState: (state: AgentState) => void;
  onPhaseEnd: (phase: Phase, seconds: number) => void;
  /** Called when the database is whole and sealed, before the node is started. */
  onSealed: (result: Sealed) => Promise<void>;
  /** Called once, when the node is ready and the group knows. */
  onReady: (result: BootstrapResult) => Promise<void>;
}

export interface Sealed {
  database: RestoreDatabaseResult;
  /** Seconds since the call. */
  seconds: number;
  phases: PhaseTime[];
}

export interface BootstrapResult extends Sealed {
  ready: ReadyReport;
  /** Why the group does not know that the instance may serve; undefined when it does, or there is none. */
  notJoined: string | undefined;
}

const REASONS: Record<Phase, string> = {
  resolve: 'a snapshot is looked for',
  preflight: 'this machine is checked',
  lease: 'the snapshot is held in the store',
  restore: 'the database is being restored',
  start: 'the node is being started',
  'catch-up': 'the node catches up',
  join: 'the group is told',
};

/**
 * Brings a node up from the newest fit snapshot: restore (or keep a whole database), seal, start, wait until it is right, join, and then look after it until
 * somebody stops the agent or the cloud takes the machine. Each step may be cut off at any moment and done again. Returns the exit code.
 *
 * A node that was started as a child ends with the agent; a unit is left to systemd.
 */
export async function bootstrap(options: BootstrapOptions): Promise<number> {
  const { log, signal } = options;
  const timeline = createTimeline(options.onPhaseEnd);
  const stopHeartbeats = startHeartbeats(options);
  let up: { node: StartedNode | undefined; database: RestoreDatabaseResult } | undefined;
  try {
    up = await bringUp(options, timeline);
  } catch (error) {
    timeline.end();
    options.onState({ ready: false, phase: 'failed', reason: messageOf(error) });
    // What no second attempt heals, as systemd is told too: the group need not wait for its timer.
    if (isPresyncError(error) && HOPELESS.has(error.exitCode))
      await abandonLaunch({ group: options.group, log, signal });
    throw error;
  } finally {
    await stopHeartbeats();
  }
  if (up === undefined || options.until !== 'stopped') return 0;
  return serveNode({ ...options, node: up.node, chain: up.database.snapshot?.manifest.chain });
}

/** Exit codes of failures that are the same the next time: configuration, verification, preflight. */
const HOPELESS: ReadonlySet<number> = new Set([2, 4, 6]);

async function bringUp(
  options: BootstrapOptions,
  timeline: Timeline,
): Promise<{ node: StartedNode | undefined; database: RestoreDatabaseResult } | undefined> {
  const { log } = options;
  const begin = (phase: Phase): void => {
    timeline.begin(phase);
    options.onState({ ready: false, phase, reason: REASONS[phase] });
  };
  const sealed = async (database: RestoreDatabaseResult): Promise<void> => {
    await createSeal(options.sealedFile).set(sealOf(database.snapshot));
    await options.onSealed({ database, seconds: timeline.elapsed(), phases: timeline.phases() });
  };
  const database = await restoreDatabase({ ...options, onPhase: begin });
  if (options.until === 'sealed') {
    timeline.end();
    await sealed(database);
    return undefined;
  }
  begin('start');
  await sealed(database);
  const node = await start(options);
  try {
    begin('catch-up');
    const ready = await catchUp(options, database, node, (reason) =>
      options.onState({ ready: false, phase: 'catch-up', reason }),
    );
    timeline.begin('join');
    // Green first: a group that is told looks at once whether it is so.
    options.onState({ ready: true, phase: 'join', reason: 'ready' });
    const notJoined = await joinGroup(options);
    timeline.end();
    await options.onReady({
      ...{ database, ready, notJoined },
      seconds: timeline.elapsed(),
      phases: timeline.phases(),
    });
    log.info('node.ready', 'the node is ready', { ...ready });
    return { node, database };
  } catch (error) {
    log.error('node.not_ready', 'the node did not become ready', { reason: messageOf(error) });
    if (node?.isChild === true) await node.stop();
    throw error;
  }
}

async function catchUp(
  options: BootstrapOptions,
  { snapshot }: RestoreDatabaseResult,
  node: StartedNode | undefined,
  onReason: (reason: string) => void,
): Promise<ReadyReport> {
  const enough = new AbortController();
  const ended = node?.exit.then((code) => {
    throw new PresyncError('NODE_START_FAILED', `the node ended with code ${code} before it was ready`, {
      hint: 'read its output above',
    });
  });
  try {
    return await Promise.race([
      waitReady({
        ...options.ready,
        chain: snapshot?.manifest.chain,
        onReason,
        log: options.log,
        signal: AbortSignal.any([options.signal, enough.signal]),
      }),
      ...(ended === undefined ? [] : [ended]),
    ]);
  } finally {
    enough.abort();
    ended?.catch(() => {});
  }
}

async function start({ start: how, signal, log }: BootstrapOptions): Promise<StartedNode | undefined> {
  if (how === undefined) return undefined;
  const node = await startNode(how, { signal });
  log.info('node.started', 'the node was started', { pid: node.pid ?? null });
  return node;
}
