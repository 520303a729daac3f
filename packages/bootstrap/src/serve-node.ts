import type { Manifest } from '@presync/format/manifest';
import { messageOf } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { Group, Notice } from './group.ts';
import type { ReadyRules } from './lib/ask-node.ts';
import { drain } from './lib/drain.ts';
import type { Phase } from './lib/timeline.ts';
import { watchNode } from './lib/watch-node.ts';
import type { StartedNode } from './start-node.ts';

/** Whether load balancers may send requests here. */
export interface AgentState {
  ready: boolean;
  phase: Phase | 'serving' | 'draining' | 'drained' | 'failed';
  /** Why not. */
  reason: string;
}

export interface ServeNodeOptions {
  node: StartedNode | undefined;
  chain: Manifest['chain'] | undefined;
  ready: Omit<ReadyRules, 'chain'>;
  drainMs: number;
  group?: Group | undefined;
  onState: (state: AgentState) => void;
  log: Logger;
  signal: AbortSignal;
}

type Outcome = { kind: 'stopped' } | { kind: 'ended'; code: number } | { kind: 'notice'; notice: Notice };

/**
 * Looks after a node that is ready: says so for as long as it is right, and lets it go in good order when the cloud takes the machine or, if it is a child,
 * when somebody stops the agent. Returns the exit code: a child's own where it ended by itself.
 *
 * @throws NODE_WRONG_CHAIN
 */
export async function serveNode(options: ServeNodeOptions): Promise<number> {
  const { node, signal, onState, log } = options;
  onState({ ready: true, phase: 'serving', reason: 'ready' });
  const enough = new AbortController();
  const either = AbortSignal.any([signal, enough.signal]);
  let outcome: Outcome;
  try {
    outcome = await Promise.race([
      watch(options, either),
      ...(node === undefined ? [] : [node.exit.then((code): Outcome => ({ kind: 'ended', code }))]),
      firstFinalNotice(options, either),
    ]);
  } catch (error) {
    onState({ ready: false, phase: 'failed', reason: messageOf(error) });
    if (node?.isChild === true) await node.stop();
    throw error;
  } finally {
    enough.abort();
  }
  if (outcome.kind === 'ended') {
    onState({ ready: false, phase: 'failed', reason: `the node ended with code ${outcome.code}` });
    log.error('node.ended', 'the node ended', { exitCode: outcome.code });
    return outcome.code;
  }
  if (outcome.kind === 'notice') await leave(options, outcome.notice);
  else if (node?.isChild === true)
    await letGo(options, { reason: 'presync was stopped', deadline: undefined });
  return 0;
}

async function watch(
  { ready, chain, onState, log }: ServeNodeOptions,
  signal: AbortSignal,
): Promise<Outcome> {
  await watchNode({
    ...ready,
    chain,
    onChange: (answer) => {
      const reason = answer.ok ? 'ready' : answer.reason;
      onState({ ready: answer.ok, phase: 'serving', reason });
      if (answer.ok) log.info('node.ready', 'the node is right again');
      else log.warn('node.not_ready', 'the node is not right any more', { reason });
    },
    signal,
  });
  return { kind: 'stopped' };
}

/** The first word that the machine will be gone. */
async function firstFinalNotice({ group, log }: ServeNodeOptions, signal: AbortSignal): Promise<Outcome> {
  if (group !== undefined) {
    for await (const notice of group.notices(signal)) {
      const { kind, final, deadline, detail } = notice;
      log.warn('group.notice', `the cloud tells of this instance: ${detail ?? kind}`, {
        kind,
        final,
        deadline: deadline?.toISOString() ?? null,
      });
      if (final) return { kind: 'notice', notice };
    }
  }
  // The watch tells when it is over.
  return new Promise(() => {});
}

/** Red first, then the node's end, then the group's. After that the machine only waits to be taken away. */
async function leave(options: ServeNodeOptions, notice: Notice): Promise<void> {
  const { group, signal, log, onState } = options;
  await letGo(options, { reason: notice.kind, deadline: notice.deadline });
  try {
    await group?.completeTermination(notice, signal);
  } catch (error) {
    log.warn('group.leave_failed', `the group was not told that the node has stopped: ${messageOf(error)}`);
  }
  onState({ ready: false, phase: 'drained', reason: notice.kind });
  if (!signal.aborted)
    await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
}

async function letGo(
  { node, drainMs, onState, log, signal }: ServeNodeOptions,
  { reason, deadline }: { reason: string; deadline: Date | undefined },
): Promise<void> {
  onState({ ready: false, phase: 'draining', reason });
  // A signal to presync is what begins the wait of a child; a second one ends the program.
  const cutShort = deadline === undefined ? new AbortController().signal : signal;
  const stop = async (): Promise<void> => {
    try {
      await node?.stop();
    } catch (error) {
      log.error('node.stop_failed', 'the node could not be stopped', { reason: messageOf(error) });
    }
  };
  await drain({ drainMs, deadline, stop, log, signal: cutShort });
}
