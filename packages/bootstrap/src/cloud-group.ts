import type { Cloud, Notice as CloudNotice } from './cloud.ts';
import type { Group, Notice } from './group.ts';
import { sleepQuietly } from './lib/sleep-quietly.ts';

export interface CloudGroup extends Group {
  /** Lets go of the cloud. May be called twice. */
  close(): void;
}

/** A hold ends where nothing waits, which may change: it is begun again after this long. */
const HOLD_AGAIN_MS = 60_000;

/** What is known long before is acted upon this long before its time, besides the time for requests to end. */
const STOP_MS = 60_000;

/** Timers of Node have less than 25 days. */
const MOST_SLEEP_MS = 3_600_000;

/**
 * The group of an instance in a cloud. Its notices are those for which the node has to go, each at the time when that is to begin: at once
 * when the machine is taken away, and shortly before its time for maintenance, which may be days ahead. All others are logged only.
 */
export function createCloudGroup(cloud: Cloud, { drainMs }: { drainMs: number }): CloudGroup {
  const told = new Map<string, CloudNotice>();
  const leaving = new AbortController();
  let held: Promise<unknown> = Promise.resolve();

  return {
    heartbeatMs: cloud.name === 'aws' ? HOLD_AGAIN_MS : undefined,

    async heartbeat(signal) {
      await cloud.hold('launch', signal);
    },

    completeLaunch: (result, signal) => cloud.completeLaunch(result, signal),

    async *notices(signal): AsyncGenerator<Notice, void> {
      for await (const notice of dueNotices(cloud, drainMs + STOP_MS, signal)) {
        told.set(notice.id, notice);
        // Not with the caller's signal: it has heard enough now, and the node is yet to stop.
        if (!signal.aborted) held = cloud.hold('termination', leaving.signal);
        const { id, kind, deadline, detail } = notice;
        yield { id, kind, deadline, detail, final: true };
      }
    },

    async completeTermination({ id }, signal) {
      const notice = told.get(id ?? '');
      leaving.abort();
      await held;
      if (notice !== undefined) await cloud.completeTermination(notice, signal);
    },

    close() {
      leaving.abort();
      cloud.close();
    },
  };
}

/** Each notice that is not over by then, when it is due. */
async function* dueNotices(
  cloud: Cloud,
  leadMs: number,
  signal: AbortSignal,
): AsyncGenerator<CloudNotice, void> {
  const stop = new AbortController();
  const either = AbortSignal.any([signal, stop.signal]);
  const notices = cloud.notices(either)[Symbol.asyncIterator]();
  const pending = new Map<string, CloudNotice>();
  let next = notices.next();
  try {
    while (!either.aborted) {
      const first = firstOf(pending, leadMs);
      const waitMs = first === undefined ? MOST_SLEEP_MS : first.at - Date.now();
      if (first !== undefined && waitMs <= 0) {
        pending.delete(first.notice.id);
        yield first.notice;
        continue;
      }
      const enough = new AbortController();
      const timer = sleepQuietly(Math.min(waitMs, MOST_SLEEP_MS), AbortSignal.any([either, enough.signal]));
      const step = await Promise.race([next, timer.then(() => undefined)]);
      enough.abort();
      if (step === undefined) continue;
      if (step.done === true) return;
      next = notices.next();
      const { id, effect, state } = step.value;
      if (state !== 'over' && (effect === 'ends' || effect === 'restarts')) pending.set(id, step.value);
      else pending.delete(id);
    }
  } finally {
    stop.abort();
    await next;
  }
}

/** The notice that is due first, and when (milliseconds since the epoch). */
function firstOf(
  pending: ReadonlyMap<string, CloudNotice>,
  leadMs: number,
): { notice: CloudNotice; at: number } | undefined {
  const dues = [...pending.values()].map((notice) => ({
    notice,
    at:
      notice.kind === 'maintenance' && notice.deadline !== undefined ? notice.deadline.getTime() - leadMs : 0,
  }));
  return dues.toSorted((a, b) => a.at - b.at)[0];
}
