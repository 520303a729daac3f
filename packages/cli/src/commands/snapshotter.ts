import type { CommandConfig } from '@presync/runtime/commands';
import type { LoadedConfig } from '@presync/runtime/config';
import type { RootLogger } from '@presync/runtime/log';
import { createMetrics, createRegistry } from '@presync/runtime/metrics';
import type { OptionName } from '@presync/runtime/options';
import { composeTakeSnapshot } from '@presync/snapshotter/compose';
import { createHeartbeat, type DaemonSettings, runDaemon } from '@presync/snapshotter/daemon';
import { loadTracer } from '@presync/snapshotter/trace-run';
import type { CommandHandler } from '../command.ts';
import { retainAfterSnapshot } from '../lib/retention.ts';

/** What SIGHUP puts into force; the rest of the configuration holds until the next start. */
const RELOADABLE: readonly OptionName[] = [
  'schedule',
  'timezone',
  'jitter',
  'quietHours',
  'minPeers',
  'maxFinalityLag',
  'diskReserve',
  'allowValidator',
  'anchorAge',
  'expires',
  'maxAge',
  'keepLast',
  'keepHourly',
  'keepDaily',
  'keepWeekly',
  'keepMonthly',
  'grace',
  'stallTimeout',
  'quiet',
  'verbose',
];

export const snapshotter: CommandHandler<'snapshotter'> = async (context) => {
  const { config, log, progress, signal, version } = context;
  const registry = createRegistry();
  const metrics = createMetrics(registry);
  metrics.build.set({ version, program: 'snapshotter' }, 1);
  const heartbeat = createHeartbeat();
  const take = await composeTakeSnapshot(config, {
    ...{ log, progress, metrics, signal },
    onStoreCall: () => heartbeat.beat(),
  });
  let { loaded } = context;
  await runDaemon({
    settings: settingsOf(config, { log, metrics, signal }),
    version,
    adminListen: config.adminListen === 'none' ? undefined : config.adminListen,
    adminTokenFile: config.adminTokenFile,
    registry,
    metrics,
    heartbeat,
    tracer: await loadTracer(config.traceOtlp, { log, version }),
    take,
    onHangup: context.onHangup,
    reload: async () => {
      const fresh = await context.reload();
      tellOfChanges(loaded, fresh, log);
      loaded = fresh;
      log.setVerbosity(fresh.output);
      return settingsOf(fresh.values, { log, metrics, signal });
    },
  });
  return { json: { stopped: true }, text: [] };
};

function settingsOf(
  config: CommandConfig<'snapshotter'>,
  parts: Parameters<typeof retainAfterSnapshot>[1],
): DaemonSettings {
  return {
    schedules: config.schedule,
    timezone: config.timezone,
    jitterMs: config.jitter,
    maxAgeMs: config.maxAge,
    // Nothing moves while the anchor ages.
    stallMs: config.stallTimeout + config.anchorAge,
    take: {
      minPeers: config.minPeers,
      maxFinalityLag: config.maxFinalityLag,
      diskReserve: config.diskReserve,
      allowValidator: config.allowValidator,
      quietHours: config.quietHours,
      timezone: config.timezone,
      anchorAgeMs: config.anchorAge,
      expiresMs: config.expires,
      afterSnapshot: retainAfterSnapshot(config, parts),
    },
  };
}

function tellOfChanges(
  before: LoadedConfig<'snapshotter'>,
  after: LoadedConfig<'snapshotter'>,
  log: RootLogger,
): void {
  const former = new Map(before.explained.map(({ name, value }) => [name, JSON.stringify(value)]));
  const idle = after.explained
    .filter(({ name, value }) => former.get(name) !== JSON.stringify(value) && !RELOADABLE.includes(name))
    .map(({ name }) => name);
  if (idle.length === 0) return;
  log.warn('daemon.restart_needed', `${idle.join(', ')} changed, which only a restart puts into force`, {
    options: idle,
  });
}
