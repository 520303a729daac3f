import { composeRestore } from '@presync/bootstrap/compose';
import type { RestorePlan } from '@presync/bootstrap/plan-restore';
import { restoreDatabase } from '@presync/bootstrap/restore-database';
import { PresyncError } from '@presync/runtime/errors';
import type { CommandContext, CommandHandler } from '../command.ts';
import { planLines } from '../lib/plan-text.ts';
import { writeReport } from '../lib/report.ts';
import { restoreFromArchive } from '../lib/restore-from-archive.ts';
import { restoreDocument, restoreLines } from '../lib/restore-text.ts';

export const restore: CommandHandler<'restore'> = async (context) => {
  const { config, log, progress, signal } = context;
  const { archive, store } = config;
  const mayAsk = context.ask !== undefined && archive === undefined;
  const replaces = config.existing === 'replace' || config.existing === 'reuse';
  if (replaces && !config.yes && !config.dryRun && !mayAsk) {
    throw new PresyncError('USAGE', `--existing ${config.existing} replaces a database that is there`, {
      hint: 'say --yes if that is meant, or look first with --dry-run',
    });
  }
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
    const result = await restoreDatabase({ ...options, wantsPlan: true, confirm: confirmation(context) });
    const seconds = (performance.now() - started) / 1000;
    const json = restoreDocument(result, seconds);
    await writeReport(config.report, json);
    return { json, text: restoreLines(result, seconds) };
  } finally {
    await options.from.close();
  }
};

/** At a terminal the plan is shown and asked about; where nobody can be asked, the command line has said what is meant. */
function confirmation({
  config,
  ask,
}: CommandContext<'restore'>): ((plan: RestorePlan) => Promise<boolean>) | undefined {
  if (ask === undefined || config.yes || config.dryRun) return undefined;
  return (plan) => ask(planLines(plan), 'Go on?');
}
