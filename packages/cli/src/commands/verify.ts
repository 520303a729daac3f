import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { composeTrust } from '@presync/bootstrap/compose';
import { ERROR_CODES, PresyncError } from '@presync/runtime/errors';
import type { OptionName } from '@presync/runtime/options';
import { formatBytes } from '@presync/runtime/units';
import { readStoreAccess } from '@presync/store/access';
import { composeStore } from '@presync/store/compose';
import { logNotices } from '@presync/store/notices';
import { openRepository, type Repository } from '@presync/transfer/repository';
import { readSeen } from '@presync/transfer/seen';
import { isPartial, type Selection } from '@presync/transfer/verify';
import { type VerifyRepositoryResult, verifyRepository } from '@presync/transfer/verify-repository';
import type { CommandContext, CommandHandler, CommandResult } from '../command.ts';
import { writeReport } from '../lib/report.ts';
import { verifyDatabase } from '../lib/verify-database.ts';

/** Problems that are printed; `--json` has them all. */
const SHOWN_PROBLEMS = 50;

export const verify: CommandHandler<'verify'> = async (context) => {
  const { config, loaded, log, signal } = context;
  const trusted = await composeTrust(config, log);
  const store = await composeStore(config.store, {
    access: await readStoreAccess(config),
    onNotice: logNotices(log),
    signal,
  });
  const scratchDir = await mkdtemp(join(tmpdir(), 'presync-verify-'));
  const selection: Selection = { globs: config.path, percent: config.sample };
  const isTyped = (name: OptionName): boolean =>
    loaded.explained.some((one) => one.name === name && one.source.kind === 'command line');
  try {
    const repository = await openRepository(store, { signal });
    // In a file it stands for other commands.
    const { basePath } = config;
    const options = { repository, trusted, selection, scratchDir };
    const result =
      basePath !== undefined && isTyped('basePath')
        ? await verifyDatabase(context, { ...options, basePath, isNamed: isTyped('snapshot') })
        : await verifyStored(context, options);
    await writeReport(config.report, result.json);
    return result;
  } finally {
    await rm(scratchDir, { recursive: true, force: true });
    await store.close();
  }
};

async function verifyStored(
  { config, loaded, log, progress, signal }: CommandContext<'verify'>,
  options: {
    repository: Repository;
    trusted: Parameters<typeof verifyRepository>[0]['trusted'];
    selection: Selection;
    scratchDir: string;
  },
): Promise<CommandResult> {
  const { repository, selection } = options;
  // Without --snapshot all of it is verified, not only the newest.
  const named = loaded.explained.some(({ name, source }) => name === 'snapshot' && source.kind !== 'default');
  const result = await verifyRepository({
    ...options,
    channel: config.channel,
    snapshot: named ? config.snapshot : undefined,
    seenOf: (channel) => readSeen({ stateDir: config.stateDir, repositoryId: repository.id, channel }),
    scope: 'full',
    concurrency: config.concurrency,
    onSnapshot: ({ manifest }) =>
      progress.start({
        label: `Verifying ${manifest.channel}#${manifest.sequence}`,
        total: isPartial(selection) ? undefined : manifest.totals.unique,
      }),
    onProgress: (bytes) => progress.advance(bytes),
    onEvent: (event, message, details) => log.info(event, message, details),
    signal,
  });
  progress.finish();
  const { snapshots, problems } = result;
  const [first] = problems;
  if (first === undefined && snapshots.every(({ meant }) => meant === 0)) {
    throw new PresyncError('USAGE', `no snapshot has a file named ${config.path.join(' or ')}`, {
      hint: 'quote the pattern, and leave folders out of it or begin it at the base path, as in "chains/*/db/full/*.sst"',
    });
  }
  return {
    json: {
      store: repository.store.location,
      ok: problems.length === 0,
      partial: isPartial(selection),
      snapshots,
      problems,
    },
    text: lines(result, selection),
    exitCode: first === undefined ? 0 : Math.min(...problems.map(({ code }) => ERROR_CODES[code].exit)),
  };
}

function lines({ snapshots, problems }: VerifyRepositoryResult, selection: Selection): string[] {
  const partial = isPartial(selection);
  return [
    ...snapshots.map(({ channel, sequence, chunks, meant, bytes, sound }) => {
      const verdict = sound ? (partial ? 'sound as far as it was read' : 'sound') : 'DAMAGED';
      const amount = partial ? `${chunks} of ${meant} chunks` : `${chunks} chunks`;
      return `${channel}#${sequence}  ${verdict}  ${amount}, ${formatBytes(bytes)} checked`;
    }),
    ...problems.slice(0, SHOWN_PROBLEMS).map(({ code, message }) => `${code}: ${message}`),
    ...(problems.length > SHOWN_PROBLEMS
      ? [`and ${problems.length - SHOWN_PROBLEMS} more; --json lists them`]
      : []),
    problems.length > 0
      ? `${problems.length} ${problems.length === 1 ? 'problem' : 'problems'} found. Snapshots that are "sound" can be restored; those that are DAMAGED cannot.`
      : partial
        ? 'What was read is as it should be. The rest was not looked at.'
        : 'Everything is as it should be.',
  ];
}
