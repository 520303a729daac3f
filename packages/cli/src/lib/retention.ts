import { join } from 'node:path';
import type { CommandConfig } from '@presync/runtime/commands';
import type { Logger } from '@presync/runtime/log';
import type { Metrics } from '@presync/runtime/metrics';
import type { TakeSnapshotOptions } from '@presync/snapshotter/take-snapshot';
import { readStoreAccess } from '@presync/store/access';
import type { Clock } from '@presync/transfer/clock';
import { type PruneResult, pruneRepository } from '@presync/transfer/prune';
import type { KeepRules } from '@presync/transfer/retention';
import { createStoreClock } from '@presync/transfer/store-clock';

/** What the options say of retention. */
export function keepRules(
  config: Pick<
    CommandConfig<'prune'>,
    'keepLast' | 'keepHourly' | 'keepDaily' | 'keepWeekly' | 'keepMonthly'
  >,
): KeepRules {
  return {
    last: config.keepLast,
    hourly: config.keepHourly,
    daily: config.keepDaily,
    weekly: config.keepWeekly,
    monthly: config.keepMonthly,
  };
}

/** Where it is kept what the repository's indexes name. */
export function indexCache({ stateDir }: { stateDir: string }): string {
  return join(stateDir, 'index-cache');
}

/** What the daemon does after each snapshot: retention in its own channel, where there is a rule; undefined without one. */
export function retainAfterSnapshot(
  config: CommandConfig<'snapshotter'>,
  { log, metrics, signal }: { log: Logger; metrics: Metrics; signal: AbortSignal },
): TakeSnapshotOptions['afterSnapshot'] {
  const keep = keepRules(config);
  if (Object.values(keep).every((rule) => rule === undefined)) return undefined;
  const { repository: gauges } = metrics;
  return async (repository, channel) => {
    let clock: Clock;
    let result: PruneResult;
    try {
      clock = await createStoreClock(config.store, { access: await readStoreAccess(config), signal });
      result = await pruneRepository({
        repository,
        channel,
        keep,
        graceMs: config.grace,
        scratchDir: config.stateDir,
        cacheDir: indexCache(config),
        concurrency: config.concurrency,
        clock,
        onEvent: (event, message, details) =>
          log[event === 'prune.damaged' ? 'error' : 'info'](event, message, details),
        signal,
      });
    } catch (error) {
      if (!signal.aborted) gauges.retentionFailed.set(1);
      throw error;
    }
    const { removed, found, damaged, blocked, waiting } = result;
    const { chunks, bytes } = removed;
    gauges.damaged.set(damaged.length);
    gauges.removedBytes.inc(bytes);
    gauges.retentionFailed.set(blocked === undefined ? 0 : 1);
    gauges.overdue.set(countOverdue(waiting, config.grace, clock));
    if (blocked !== undefined) log.error('prune.blocked', blocked, { channel });
    log.info('prune.done', 'retention is applied', { channel, chunks, bytes, found: found.chunks });
  };
}

/** Those whose grace is over: they wait for somebody's lease, or for a repository that can be read. */
export function countOverdue(
  waiting: PruneResult['waiting'],
  graceMs: number,
  clock: Pick<Clock, 'now'>,
): number {
  return waiting.filter(
    ({ phase, created }) => phase === 'marked' && clock.now() >= Date.parse(created) + graceMs,
  ).length;
}
