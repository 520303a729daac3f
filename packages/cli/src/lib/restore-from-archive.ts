import { composeArchive } from '@presync/bootstrap/compose';
import { type RestoreArchiveResult, restoreArchive } from '@presync/bootstrap/restore-archive';
import { PresyncError } from '@presync/runtime/errors';
import { flagOf, type OptionName } from '@presync/runtime/options';
import { formatBytes, formatDuration } from '@presync/runtime/units';
import type { CommandContext, CommandResult } from '../command.ts';
import { writeReport } from './report.ts';

/** Options that say something of a snapshot. In a file they may stand for other commands; who types them expects something of them. */
const OF_SNAPSHOTS: readonly OptionName[] = ['source', 'channel', 'snapshot', 'trust', 'genesis', 'maxAge'];

/** `presync restore --archive`. */
export async function restoreFromArchive(
  { config, loaded, log, progress, signal }: CommandContext<'restore'>,
  archive: string,
): Promise<CommandResult> {
  const idle = loaded.explained.find(
    ({ name, source }) => source.kind === 'command line' && OF_SNAPSHOTS.includes(name),
  );
  if (idle !== undefined) {
    throw new PresyncError(
      'USAGE',
      `${flagOf(idle.name)} means nothing with --archive: it is about snapshots`,
      {
        hint: `leave ${flagOf(idle.name)} out, or restore from a repository with --store`,
      },
    );
  }
  const options = await composeArchive({ ...config, archive }, { log, progress, signal });
  const started = performance.now();
  try {
    const result = await restoreArchive(options);
    const seconds = (performance.now() - started) / 1000;
    const json = restoreArchiveDocument(result, seconds);
    if (result.restored !== null) log.info('restore.done', 'the database is in place', json);
    await writeReport(config.report, json);
    return { json, text: lines(result, seconds) };
  } finally {
    options.downloads.close();
  }
}

/** What `--json` and `--report` say; what a restore from a repository says too has the same names. */
function restoreArchiveDocument(
  {
    location,
    kind,
    compression,
    size,
    version,
    chain,
    backend,
    target,
    kept,
    restored,
  }: RestoreArchiveResult,
  seconds: number,
): Record<string, unknown> {
  return {
    archive: { location, kind, compression, size, version },
    chain,
    backend,
    targets: [target],
    kept,
    restored,
    seconds,
  };
}

function lines(result: RestoreArchiveResult, seconds: number): string[] {
  const { location, target, chain, backend, kept, size, restored } = result;
  const of = `The ${backend} database of chain ${chain} in ${location}`;
  if (kept) return [`${target} holds a whole database already. Nothing was done.`];
  if (restored === null) {
    return [
      `${of}${size === null ? '' : ` (${formatBytes(size)})`} would be restored to ${target}. Nothing was done.`,
    ];
  }
  const { files, bytes, fetchedBytes, keptFiles, skipped, sha256, proved, wasSealed } = restored;
  const how =
    result.kind === 'list'
      ? 'file list'
      : result.compression === 'none'
        ? 'tar'
        : `tar, ${result.compression}`;
  return [
    `${of} is restored to ${target}.`,
    `  database    ${files} files, ${formatBytes(bytes)}`,
    `  fetched     ${formatBytes(fetchedBytes)} (${how}${result.version === null ? '' : `, version ${result.version}`})`,
    ...(wasSealed ? ['  resumed     an earlier attempt had fetched all of it'] : []),
    ...(keptFiles > 0 ? [`  resumed     ${keptFiles} files were there from an earlier attempt`] : []),
    ...(skipped.count > 0 ? [`  left out    ${skipped.count} files that are no part of a database`] : []),
    ...(sha256 === null ? [] : [`  sha256      ${sha256}`]),
    proved
      ? '  proved by   the SHA-256 that was demanded; who made the database is not known'
      : '  NOT PROVED  nothing says that this is the database of that chain, or what is in it',
    `  took        ${formatDuration(seconds * 1000)}`,
  ];
}
