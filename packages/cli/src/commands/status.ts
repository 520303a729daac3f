import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import { formatBytes, formatDuration } from '@presync/runtime/units';
import { askStatus, type DaemonStatus } from '@presync/snapshotter/ask-daemon';
import { type RunRecord, readRuns } from '@presync/snapshotter/history';
import type { CommandHandler } from '../command.ts';

const SHOWN_RUNS = 20;

export const status: CommandHandler<'status'> = async ({ config: { stateDir }, signal }) => {
  const daemon = await askIfThere(stateDir, signal);
  const runs = daemon?.runs ?? (await readRuns(stateDir)).runs.slice(-SHOWN_RUNS).reverse();
  if (daemon === undefined && runs.length === 0) {
    throw new PresyncError(
      'DAEMON_NOT_FOUND',
      `no daemon runs with ${stateDir}, and none has left a run there`,
      {
        hint: 'start "presync snapshotter", or give the --state-dir that it has',
      },
    );
  }
  return {
    json: { daemon: daemon ?? null, runs },
    text: [...(daemon === undefined ? ['The daemon does not run.'] : daemonLines(daemon)), ...runLines(runs)],
  };
};

async function askIfThere(stateDir: string, signal: AbortSignal): Promise<DaemonStatus | undefined> {
  try {
    return await askStatus({ stateDir, signal });
  } catch (error) {
    if (isPresyncError(error, 'DAEMON_NOT_FOUND')) return undefined;
    throw error;
  }
}

function daemonLines({
  pid,
  version,
  since,
  schedules,
  timezone,
  next,
  run,
  stalled,
}: DaemonStatus): string[] {
  const due = next === null ? 'never' : `${next}, in ${formatDuration(Date.parse(next) - Date.now())}`;
  return [
    `The daemon runs: presync ${version}, process ${pid}, since ${since}.`,
    `  schedule    ${schedules.join('; ')} (${timezone})`,
    `  next run    ${due}`,
    ...(run === null ? [] : [`  now         ${nowLine(run)}${stalled ? ', STALLED' : ''}`]),
  ];
}

function nowLine({ id, cause, phase, done, total }: NonNullable<DaemonStatus['run']>): string {
  const bytes = total === null ? '' : `, ${formatBytes(done)} of ${formatBytes(total)}`;
  return `run ${id} (${cause}): ${phase ?? 'beginning'}${bytes}`;
}

function runLines(runs: readonly RunRecord[]): string[] {
  return runs.map((run) => {
    const took =
      run.ended === null ? '' : `, ${formatDuration(Date.parse(run.ended) - Date.parse(run.started))}`;
    const what =
      run.outcome === 'published'
        ? `${run.channel}#${run.sequence}${run.bytes === null ? '' : `, ${formatBytes(run.bytes.added)} added`}`
        : [run.code, run.reason].filter((part) => part !== null).join(': ');
    return `${run.started}  ${run.outcome.padEnd(11)} ${run.cause.padEnd(8)} ${what}${took}`;
  });
}
