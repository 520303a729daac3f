import { type BootstrapResult, bootstrap as bringUp, type Sealed } from '@presync/bootstrap/bootstrap';
import type { CloudGroup } from '@presync/bootstrap/cloud-group';
import { composeGroup, composeRestore } from '@presync/bootstrap/compose';
import type { AgentState } from '@presync/bootstrap/serve-node';
import type { StartHow } from '@presync/bootstrap/start-node';
import type { CommandConfig } from '@presync/runtime/commands';
import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import { startAdminServer } from '@presync/runtime/http';
import { createMetrics, createRegistry } from '@presync/runtime/metrics';
import { createServiceNotify } from '@presync/runtime/service-notify';
import type { CommandHandler } from '../command.ts';
import { writeReport } from '../lib/report.ts';
import { restoreDocument } from '../lib/restore-text.ts';

const DEFAULT_RPC = 'ws://127.0.0.1:9944';

export const bootstrap: CommandHandler<'bootstrap'> = async (context) => {
  const { config, log, progress, signal, stdout, json, version } = context;
  const start = howToStart(context);
  const registry = createRegistry();
  const metrics = createMetrics(registry);
  metrics.build.set({ version, program: 'bootstrap' }, 1);
  const notify = createServiceNotify({
    onProblem: (reason) => log.warn('daemon.notify_failed', `systemd was not told: ${reason}`),
  });
  let state: AgentState = { ready: false, phase: 'resolve', reason: 'presync has just started' };
  const onState = (next: AgentState): void => {
    metrics.bootstrap.phase.set({ phase: state.phase }, 0);
    state = next;
    metrics.bootstrap.phase.set({ phase: state.phase }, 1);
    metrics.bootstrap.ready.set(state.ready ? 1 : 0);
    void notify.send(`STATUS=${state.phase}: ${state.reason}`);
  };
  onState(state);
  // While the node is let go after a signal, load balancers still ask.
  const served = new AbortController();
  const admin =
    config.adminListen === 'none'
      ? undefined
      : await startAdminServer({
          listen: config.adminListen,
          health: () => ({ ok: true }),
          ready: () => ({ ok: state.ready, detail: { phase: state.phase, reason: state.reason } }),
          metrics: registry,
          signal: served.signal,
        });
  const options = await composeRestore(
    { ...config, existing: config.existing === 'refuse' ? 'keep' : config.existing },
    { log, progress, metrics, signal },
  );
  let report: Record<string, unknown> = {};
  let group: CloudGroup | undefined;
  try {
    group = await composeGroup(config, { log, metrics, signal });
    const exitCode = await bringUp({
      ...options,
      start,
      group,
      until: config.until,
      ready: {
        rpcUrl: config.rpc ?? DEFAULT_RPC,
        timeoutMs: config.readyTimeout,
        minPeers: config.minPeers,
        maxHeadLag: config.maxHeadLag,
        maxFinalityLag: config.maxFinalityLag,
      },
      drainMs: config.drainTime,
      onState,
      onPhaseEnd: (phase, seconds) => metrics.bootstrap.phaseSeconds.set({ phase }, seconds),
      onSealed: async (sealed) => {
        report = sealedDocument(sealed);
        await notify.send('READY=1');
        if (config.until !== 'sealed') return;
        await writeReport(config.report, report);
        if (!json) await stdout.write(`The database is in place after ${sealed.seconds.toFixed(1)} s.\n`);
      },
      onReady: async (result) => {
        metrics.bootstrap.secondsToReady.set(result.seconds);
        report = readyDocument(result);
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
        ...report,
        error: { code: error.code, message: error.message, hint: error.hint ?? null },
      });
    throw error;
  } finally {
    group?.close();
    await admin?.close();
    await options.from.close();
  }
};

function howToStart({
  config,
  args,
}: {
  config: CommandConfig<'bootstrap'>;
  args: readonly string[];
}): StartHow | undefined {
  const command = args.length > 0 ? args : config.nodeCommand;
  if (command === undefined) return config.unit === undefined ? undefined : { unit: config.unit };
  if (config.unit !== undefined) {
    throw new PresyncError('CONFIG_INVALID', 'both a node command and --unit are given', {
      hint: 'keep one of them',
    });
  }
  if (config.until !== 'stopped') {
    throw new PresyncError(
      'CONFIG_INVALID',
      `--until ${config.until} ends presync while its child, the node, runs or before it does`,
      { hint: 'leave the node command out, or leave --until out' },
    );
  }
  return { command };
}

function sealedDocument({ database, seconds, phases }: Sealed): Record<string, unknown> {
  return { ...restoreDocument(database, seconds), phases };
}

function readyDocument(result: BootstrapResult): Record<string, unknown> {
  const { ready, notJoined } = result;
  return { ...sealedDocument(result), ready, joined: notJoined === undefined, notJoined: notJoined ?? null };
}
