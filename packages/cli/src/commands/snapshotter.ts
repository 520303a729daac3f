import { createMetrics, createRegistry } from '@presync/runtime/metrics';
import { composeTakeSnapshot } from '@presync/snapshotter/compose';
import { runDaemon } from '@presync/snapshotter/daemon';
import type { CommandHandler } from '../command.ts';

export const snapshotter: CommandHandler<'snapshotter'> = async ({
  config,
  log,
  progress,
  signal,
  version,
}) => {
  const registry = createRegistry();
  const metrics = createMetrics(registry);
  metrics.build.set({ version, program: 'snapshotter' }, 1);
  const take = await composeTakeSnapshot(config, { log, progress, metrics, signal });
  await runDaemon({
    schedule: config.schedule,
    timezone: config.timezone,
    adminListen: config.adminListen === 'none' ? undefined : config.adminListen,
    registry,
    metrics,
    take,
  });
  return { json: { stopped: true }, text: [] };
};
