import { messageOf } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { Metrics } from '@presync/runtime/metrics';
import type { Notice } from '../cloud.ts';
import { sleepQuietly } from './sleep-quietly.ts';

/** What is logged and counted on behalf of a cloud. */
export interface CloudSinks {
  log: Logger;
  metrics?: Metrics['cloud'] | undefined;
}

/** One place where a cloud tells what will happen. */
export interface NoticeSource {
  /** For log and metrics, such as `spot`. */
  name: string;
  /** Milliseconds between two looks. */
  everyMs: number;
  /** All that stands there now. What it threw is tried again. */
  look(signal: AbortSignal): Promise<readonly Notice[]>;
}

/** Between looks that fail. A spot instance may have but 30 seconds, so it is never long. */
const MAX_DELAY_MS = 15_000;

/** Notices whose deadline moves by less are the same: some are counted from the time of the answer. */
const SAME_MS = 1000;

/**
 * Looks at all sources side by side, and gives each notice when it is new, when it has changed, and as `over` when it stands there no more.
 * A source that fails hides no other; it is logged when it begins to fail, and when it answers again. Ends when the signal fires.
 */
export async function* watchNotices(
  sources: readonly NoticeSource[],
  { log, metrics }: CloudSinks,
  signal: AbortSignal,
): AsyncGenerator<Notice, void> {
  const queue: Notice[] = [];
  let wake = (): void => {};
  const stop = new AbortController();
  const either = AbortSignal.any([signal, stop.signal]);
  either.addEventListener('abort', () => wake(), { once: true });
  const put = (notice: Notice): void => {
    tell(notice, { log, metrics });
    queue.push(notice);
    wake();
  };
  const loops = Promise.all(sources.map((source) => follow(source, put, { log, metrics }, either)));
  try {
    while (!either.aborted) {
      const next = queue.shift();
      if (next !== undefined) {
        yield next;
        continue;
      }
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  } finally {
    stop.abort();
    await loops;
  }
}

async function follow(
  source: NoticeSource,
  put: (notice: Notice) => void,
  { log, metrics }: CloudSinks,
  signal: AbortSignal,
): Promise<void> {
  const known = new Map<string, Notice>();
  let failures = 0;
  while (!signal.aborted) {
    try {
      const found = await source.look(signal);
      if (failures > 0)
        log.info('cloud.metadata_back', `${source.name} is told again`, { source: source.name });
      failures = 0;
      for (const notice of changesOf(known, found)) put(notice);
    } catch (error) {
      if (signal.aborted) return;
      failures++;
      metrics?.failures.inc({ source: source.name });
      const level = failures === 1 ? 'warn' : 'debug';
      log[level](
        'cloud.metadata_failed',
        `whether ${source.name} is due is not known: ${messageOf(error)}; it is tried again`,
        { source: source.name, error },
      );
    }
    const delay = failures === 0 ? source.everyMs : Math.min(MAX_DELAY_MS, 500 * 2 ** failures);
    await sleepQuietly(delay, signal);
  }
}

/** What is to be told after a look; `known` is brought up to date. */
function changesOf(known: Map<string, Notice>, found: readonly Notice[]): Notice[] {
  const changes: Notice[] = [];
  const standing = new Set(found.map(({ id }) => id));
  for (const [id, before] of known) {
    if (standing.has(id)) continue;
    known.delete(id);
    changes.push({ ...before, state: 'over' });
  }
  for (const notice of found) {
    const before = known.get(notice.id);
    if (before !== undefined && isSame(before, notice)) continue;
    known.set(notice.id, notice);
    changes.push(notice);
  }
  return changes;
}

function isSame(a: Notice, b: Notice): boolean {
  if (a.kind !== b.kind || a.effect !== b.effect || a.state !== b.state) return false;
  if (a.deadline === undefined || b.deadline === undefined) return a.deadline === b.deadline;
  return Math.abs(a.deadline.getTime() - b.deadline.getTime()) < SAME_MS;
}

function tell(notice: Notice, { log, metrics }: CloudSinks): void {
  const { id, kind, effect, state, deadline, detail } = notice;
  if (state === 'over') {
    metrics?.deadline.remove({ kind });
    log.info('cloud.notice_over', `over: ${detail}`, { id, kind });
    return;
  }
  metrics?.notices.inc({ kind });
  if (deadline !== undefined) metrics?.deadline.set({ kind }, deadline.getTime() / 1000);
  const level = effect === 'none' ? 'info' : 'warn';
  log[level]('cloud.notice', detail, {
    id,
    kind,
    effect,
    state,
    ...(deadline === undefined
      ? {}
      : {
          deadline: deadline.toISOString(),
          secondsLeft: Math.round((deadline.getTime() - Date.now()) / 1000),
        }),
  });
}
