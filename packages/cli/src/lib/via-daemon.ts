import type { LoadedConfig } from '@presync/runtime/config';
import { PresyncError } from '@presync/runtime/errors';
import { flagOf, type OptionName } from '@presync/runtime/options';
import { formatBytes, formatDuration } from '@presync/runtime/units';
import { askRun } from '@presync/snapshotter/ask-daemon';
import type { CommandContext, CommandResult } from '../command.ts';
import { writeReport } from './report.ts';

/** What has a meaning for somebody who only asks; all else is the daemon's configuration. */
const TAKEN: readonly OptionName[] = [
  'viaDaemon',
  'stateDir',
  'report',
  'config',
  'json',
  'quiet',
  'verbose',
];

/** Has the daemon take the snapshot, and ends as its run does. */
export async function snapshotViaDaemon({
  config,
  loaded,
  progress,
  signal,
}: CommandContext<'snapshot'>): Promise<CommandResult> {
  refuseIdle(loaded);
  let shown: { label: string; done: number } | undefined;
  const run = await askRun({
    stateDir: config.stateDir,
    signal,
    onProgress: ({ phase, label, done, total }) => {
      if (label !== null && label !== shown?.label) {
        progress.start({ label, total: total ?? undefined });
        shown = { label, done: 0 };
      }
      progress.note(phase ?? '');
      if (shown === undefined) return;
      progress.advance(done - shown.done);
      shown.done = done;
    },
  }).finally(() => progress.finish());
  await writeReport(config.report, run);
  const took = run.ended === null ? 0 : Date.parse(run.ended) - Date.parse(run.started);
  return {
    json: run,
    text: [
      `${run.channel}#${run.sequence} was taken by the daemon, run ${run.id}.`,
      ...(run.bytes === null
        ? []
        : [`  read        ${formatBytes(run.bytes.read)}`, `  uploaded    ${formatBytes(run.bytes.added)}`]),
      ...(run.pauseSeconds === null ? [] : [`  node paused ${run.pauseSeconds.toFixed(3)} s`]),
      `  took        ${formatDuration(took)}`,
    ],
  };
}

/** An option on the command line that would do nothing is a misunderstanding. */
function refuseIdle({ explained }: LoadedConfig<'snapshot'>): void {
  const idle = explained.find(({ name, source }) => source.kind === 'command line' && !TAKEN.includes(name));
  if (idle === undefined) return;
  throw new PresyncError(
    'CONFIG_INVALID',
    `${flagOf(idle.name)} means nothing with --via-daemon: the daemon has a configuration of its own`,
    { hint: `leave it out, or leave out --via-daemon` },
  );
}
