import { composeRestore } from '@presync/bootstrap/compose';
import { type RestoreDatabaseResult, restoreDatabase } from '@presync/bootstrap/restore-database';
import { PresyncError } from '@presync/runtime/errors';
import { formatBytes, formatDuration } from '@presync/runtime/units';
import type { SourceReport } from '@presync/store/sources';
import type { CommandHandler } from '../command.ts';
import { findingLines } from '../lib/preflight-text.ts';
import { writeReport } from '../lib/report.ts';
import { restoreFromArchive } from '../lib/restore-from-archive.ts';

export const restore: CommandHandler<'restore'> = async (context) => {
  const { config, log, progress, signal } = context;
  if ((config.existing === 'replace' || config.existing === 'reuse') && !config.yes && !config.dryRun) {
    throw new PresyncError('USAGE', `--existing ${config.existing} replaces a database that is there`, {
      hint: 'say --yes if that is meant, or look first with --dry-run',
    });
  }
  const { archive, store } = config;
  if (archive !== undefined) return restoreFromArchive(context, archive);
  if (config.archiveSha256 !== undefined) {
    throw new PresyncError('USAGE', '--archive-sha256 is the digest of an archive, and none is given', {
      hint: 'give the archive with --archive; a snapshot is proved by its signature',
    });
  }
  if (store === undefined) throw new PresyncError('INTERNAL', 'a restore from nowhere');
  const options = await composeRestore({ ...config, store }, { log, progress, signal });
  const started = performance.now();
  try {
    const result = await restoreDatabase(options);
    const seconds = (performance.now() - started) / 1000;
    const json = restoreDocument(result, seconds);
    await writeReport(config.report, json);
    return { json, text: lines(result, seconds) };
  } finally {
    await options.from.close();
  }
};

/** What `--json` and `--report` say of a restore. */
export function restoreDocument(
  { snapshot, restored, kept, targets, sources, findings }: RestoreDatabaseResult,
  seconds: number,
): Record<string, unknown> {
  const { manifest, sha256, trustedBy } = snapshot;
  return {
    channel: manifest.channel,
    sequence: manifest.sequence,
    created: manifest.created,
    manifestSha256: sha256,
    trustedBy,
    anchor: manifest.chain.anchor,
    totals: manifest.totals,
    targets,
    kept,
    restored: restored ?? null,
    preflight: findings,
    sources,
    seconds,
  };
}

function lines(
  { snapshot, restored, kept, targets, sources, findings }: RestoreDatabaseResult,
  seconds: number,
): string[] {
  const { manifest, trustedBy } = snapshot;
  const name = `${manifest.channel}#${manifest.sequence} of ${manifest.created}`;
  if (kept) return [`${targets.join(', ')} holds a whole database already. Nothing was done.`];
  if (restored === undefined) {
    return [
      ...findings.flatMap(findingLines),
      `${name} would be restored to ${targets.join(', ')}: ${manifest.totals.files} files, ${formatBytes(manifest.totals.bytes)}. Nothing was done.`,
    ];
  }
  const { anchor } = manifest.chain;
  return [
    `${name} is restored to ${targets.join(', ')}.`,
    `  database    ${restored.files} files, ${formatBytes(restored.bytes)}`,
    `  fetched     ${formatBytes(restored.fetchedBytes)} in ${restored.fetchedChunks} chunks`,
    ...(sources.length > 1 ? sources.map(sourceLine) : []),
    ...(restored.resumedChunks > 0
      ? [`  resumed     ${restored.resumedChunks} chunks were there from an earlier attempt`]
      : []),
    ...(restored.reusedChunks > 0
      ? [`  reused      ${restored.reusedChunks} chunks of the old database`]
      : []),
    ...(anchor === null ? [] : [`  holds block ${anchor.number} ${anchor.hash}`]),
    `  signed by   ${trustedBy.length > 0 ? trustedBy.join(', ') : 'NOBODY WHO WAS CHECKED'}`,
    `  took        ${formatDuration(seconds * 1000)}`,
  ];
}

function sourceLine({ location, objects, bytes, failures, hedges, dropped }: SourceReport): string {
  const counts = Object.entries(failures).map(([code, count]) => `${count} × ${code}`);
  const notes = [
    ...(counts.length > 0 ? [`failed ${counts.join(', ')}`] : []),
    ...(hedges > 0 ? [`${hedges} second calls`] : []),
    ...(dropped === undefined ? [] : [`given up: ${dropped}`]),
  ];
  return `  source      ${[`${location}: ${objects} chunks, ${formatBytes(bytes)}`, ...notes].join('; ')}`;
}
