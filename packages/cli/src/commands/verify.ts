import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { composeTrust } from '@presync/bootstrap/compose';
import { ERROR_CODES } from '@presync/runtime/errors';
import { formatBytes } from '@presync/runtime/units';
import { readStoreAccess } from '@presync/store/access';
import { composeStore } from '@presync/store/compose';
import { logNotices } from '@presync/store/notices';
import { openRepository } from '@presync/transfer/repository';
import { readSeen } from '@presync/transfer/seen';
import { verifyRepository } from '@presync/transfer/verify-repository';
import type { CommandHandler } from '../command.ts';
import { writeReport } from '../lib/report.ts';

/** Problems that are printed; `--json` has them all. */
const SHOWN_PROBLEMS = 50;

export const verify: CommandHandler<'verify'> = async ({ config, loaded, log, progress, signal }) => {
  const trusted = await composeTrust(config, log);
  const store = await composeStore(config.store, {
    access: await readStoreAccess(config),
    onNotice: logNotices(log),
    signal,
  });
  const scratchDir = await mkdtemp(join(tmpdir(), 'presync-verify-'));
  try {
    const repository = await openRepository(store, { signal });
    // Without --snapshot all of it is verified, not only the newest.
    const named = loaded.explained.some(
      ({ name, source }) => name === 'snapshot' && source.kind !== 'default',
    );
    const result = await verifyRepository({
      repository,
      channel: config.channel,
      snapshot: named ? config.snapshot : undefined,
      trusted,
      seenOf: (channel) => readSeen({ stateDir: config.stateDir, repositoryId: repository.id, channel }),
      scope: 'full',
      scratchDir,
      concurrency: config.concurrency,
      onSnapshot: ({ manifest }) =>
        progress.start({
          label: `Verifying ${manifest.channel}#${manifest.sequence}`,
          total: manifest.totals.unique,
        }),
      onProgress: (bytes) => progress.advance(bytes),
      onEvent: (event, message, details) => log.info(event, message, details),
      signal,
    });
    progress.finish();
    const { snapshots, problems } = result;
    const json = { store: store.location, ok: problems.length === 0, snapshots, problems };
    await writeReport(config.report, json);
    const [first] = problems;
    return {
      json,
      text: [
        ...snapshots.map(
          ({ channel, sequence, chunks, bytes, sound }) =>
            `${channel}#${sequence}  ${sound ? 'sound' : 'DAMAGED'}  ${chunks} chunks, ${formatBytes(bytes)} checked`,
        ),
        ...problems.slice(0, SHOWN_PROBLEMS).map(({ code, message }) => `${code}: ${message}`),
        ...(problems.length > SHOWN_PROBLEMS
          ? [`and ${problems.length - SHOWN_PROBLEMS} more; --json lists them`]
          : []),
        problems.length === 0
          ? 'Everything is as it should be.'
          : `${problems.length} ${problems.length === 1 ? 'problem' : 'problems'} found.`,
      ],
      exitCode: first === undefined ? 0 : Math.min(...problems.map(({ code }) => ERROR_CODES[code].exit)),
    };
  } finally {
    await rm(scratchDir, { recursive: true, force: true });
    await store.close();
  }
};
