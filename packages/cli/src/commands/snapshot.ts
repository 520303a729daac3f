import { formatBytes, formatDuration } from '@presync/runtime/units';
import { composeTakeSnapshot } from '@presync/snapshotter/compose';
import type { TakeSnapshotResult } from '@presync/snapshotter/take-snapshot';
import { loadTracer, takeTraced } from '@presync/snapshotter/trace-run';
import type { CommandHandler } from '../command.ts';
import { writeReport } from '../lib/report.ts';
import { snapshotViaDaemon } from '../lib/via-daemon.ts';

export const snapshot: CommandHandler<'snapshot'> = async (context) => {
  const { config, log, progress, signal, version } = context;
  if (config.viaDaemon) return snapshotViaDaemon(context);
  const options = await composeTakeSnapshot(config, { log, progress, signal });
  const tracer = await loadTracer(config.traceOtlp, { log, version });
  const started = performance.now();
  try {
    const result = await takeTraced({ ...options, dryRun: config.dryRun }, tracer);
    const seconds = (performance.now() - started) / 1000;
    const json = document(result, seconds);
    await writeReport(config.report, json);
    return { json, text: lines(result, seconds) };
  } finally {
    await options.store.close();
  }
};

function document(
  { channel, upload, pauseSeconds, blocksAdvanced, files, bytes }: TakeSnapshotResult,
  seconds: number,
): unknown {
  return {
    channel,
    sequence: upload?.manifest.sequence ?? null,
    promoted: upload?.promoted ?? false,
    manifest: upload?.manifest ?? null,
    manifestSha256: upload?.manifestSha256 ?? null,
    files,
    bytes,
    readBytes: upload?.readBytes ?? 0,
    addedChunks: upload?.addedChunks ?? 0,
    addedBytes: upload?.manifest.totals.added ?? 0,
    pauseSeconds: pauseSeconds ?? null,
    blocksAdvanced: blocksAdvanced ?? null,
    seconds,
  };
}

function lines(
  { channel, upload, pauseSeconds, blocksAdvanced, files, bytes }: TakeSnapshotResult,
  seconds: number,
): string[] {
  if (upload === undefined) {
    return [`A snapshot of ${channel} would hold ${files} files, ${formatBytes(bytes)}. Nothing was done.`];
  }
  const { manifest, promoted, readBytes, addedChunks } = upload;
  const { anchor } = manifest.chain;
  return [
    `${channel}#${manifest.sequence} is stored${promoted ? ' and the newest' : '; a later one is the newest already'}.`,
    `  database    ${files} files, ${formatBytes(bytes)}`,
    `  read        ${formatBytes(readBytes)}`,
    `  uploaded    ${formatBytes(manifest.totals.added)} in ${addedChunks} chunks`,
    ...(anchor === null ? [] : [`  holds block ${anchor.number} ${anchor.hash}`]),
    ...(pauseSeconds === undefined || manifest.pause.strategy === 'none'
      ? []
      : [`  node paused ${pauseSeconds.toFixed(3)} s`]),
    ...(blocksAdvanced === false ? ['  WARNING     the node shows no new block since it was paused'] : []),
    `  took        ${formatDuration(seconds * 1000)}`,
  ];
}
