import type { CommandConfig } from '@presync/runtime/commands';
import type { RootLogger } from '@presync/runtime/log';
import type { Metrics } from '@presync/runtime/metrics';
import type { TakeSnapshotOptions } from '@presync/snapshotter/take-snapshot';
import { readStoreAccess } from '@presync/store/access';
import { pruneRepository } from '@presync/transfer/prune';
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

/** What the daemon does after each snapshot: retention in its own channel, where there is a rule; undefined without one. */
export function retainAfterSnapshot(
  config: CommandConfig<'snapshotter'>,
  { log, metrics, signal }: { log: RootLogger; metrics: Metrics; signal: AbortSignal },
): TakeSnapshotOptions['afterSnapshot'] {
  const keep = keepRules(config);
  if (Object.values(keep).every((rule) => rule === undefined)) return undefined;
  return async (repository, channel) => {
    const { removed, found, damaged, blocked } = await pruneRepository({
      repository,
      channel,
      keep,
      graceMs: config.grace,
      scratchDir: config.stateDir,
      concurrency: config.concurrency,
      clock: await createStoreClock(config.store, { access: await readStoreAccess(config), signal }),
      onEvent: (event, message, details) =>
        log[event === 'prune.damaged' ? 'error' : 'info'](event, message, details),
      signal,
    });
    const { chunks, bytes } = removed;
    metrics.repository.damaged.set(damaged.length);
    metrics.repository.removedBytes.inc(bytes);
    if (blocked !== undefined) log.error('prune.blocked', blocked, { channel });
    log.info('prune.done', 'retention is applied', { channel, chunks, bytes, found: found.chunks });
  };
}
