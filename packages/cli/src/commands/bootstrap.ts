import { bootstrap as bringUp } from '@presync/bootstrap/bootstrap';
import { composeRestore } from '@presync/bootstrap/compose';
import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import { startAdminServer } from '@presync/runtime/http';
import { createMetrics, createRegistry } from '@presync/runtime/metrics';
import type { CommandHandler } from '../command.ts';
import { writeReport } from '../lib/report.ts';
import { restoreDocument } from './restore.ts';

const DEFAULT_RPC = 'ws://127.0.0.1:9944';

export const bootstrap: CommandHandler<'bootstrap'> = async ({
  config,
  args,
  log,
  progress,
  signal,
  stdout,
  json,
  version,
}) => {
  const command = args.length > 0 ? args : config.nodeCommand;
  if (command !== undefined && config.unit !== undefined) {
    throw new PresyncError('CONFIG_INVALID', 'both a node command and --unit are given', {
      hint: 'keep one of them',
    });
  }
  const registry = createRegistry();
  const metrics = createMetrics(registry);
  metrics.build.set({ version, program: 'bootstrap' }, 1);
  metrics.bootstrap.ready.set(0);
  let ready = false;
  const admin =
    config.adminListen === 'none'
      ? undefined
      : await startAdminServer({
          listen: config.adminListen,
          health: () => ({ ok: true }),
          ready: () => ({ ok: ready, detail: { reason: ready ? 'ready' : 'the node is being brought up' } }),
          metrics: registry,
          signal,
        });
  const options = await composeRestore(
    { ...config, existing: config.existing === 'refuse' ? 'keep' : config.existing },
    { log, progress, metrics, signal },
  );
  let report: Record<string, unknown> = {};
  try {
    const exitCode = await bringUp({
      ...options,
      start:
        command !== undefined ? { command } : config.unit !== undefined ? { unit: config.unit } : undefined,
      ready: {
        rpcUrl: config.rpc ?? DEFAULT_RPC,
        timeoutMs: config.readyTimeout,
        minPeers: config.minPeers,
        maxHeadLag: config.maxHeadLag,
        maxFinalityLag: config.maxFinalityLag,
      },
      onReady: async (result) => {
        ready = true;
        metrics.bootstrap.ready.set(1);
        metrics.bootstrap.secondsToReady.set(result.seconds);
        report = { ...restoreDocument(result.database, result.seconds), ready: result.ready };
        await writeReport(config.report, report);
        const { head } = result.ready;
        if (!json)
          await stdout.write(
            `The node is ready at block ${head.number} ${head.hash}, ${result.seconds.toFixed(1)} s after the start.\n`,
          );
      },
    });
    return { json: report, text: [], exitCode };
  } catch (error) {
    if (isPresyncError(error))
      await writeReport(config.report, {
        error: { code: error.code, message: error.message, hint: error.hint ?? null },
      });
    throw error;
  } finally {
    await admin?.close();
    await options.from.close();
  }
};
