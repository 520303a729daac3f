import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ERROR_CODES } from '@presync/runtime/errors';
import { formatBytes } from '@presync/runtime/units';
import { readStoreAccess } from '@presync/store/access';
import { composeStore } from '@presync/store/compose';
import { logNotices } from '@presync/store/notices';
import { type PruneResult, pruneRepository } from '@presync/transfer/prune';
import { openRepository } from '@presync/transfer/repository';
import { createStoreClock } from '@presync/transfer/store-clock';
import type { CommandHandler } from '../command.ts';
import { writeReport } from '../lib/report.ts';
import { indexCache, keepRules } from '../lib/retention.ts';

export const prune: CommandHandler<'prune'> = async ({ config, log, signal }) => {
  const access = await readStoreAccess(config);
  const store = await composeStore(config.store, { access, onNotice: logNotices(log), signal });
  const scratchDir = await mkdtemp(join(tmpdir(), 'presync-prune-'));
  try {
    const repository = await openRepository(store, { signal });
    const result = await pruneRepository({
      repository,
      channel: config.channel,
      keep: keepRules(config),
      graceMs: config.grace,
      wait: config.wait,
      dryRun: config.dryRun,
      scratchDir,
      cacheDir: indexCache(config),
      concurrency: config.concurrency,
      clock: await createStoreClock(config.store, { access, signal }),
      onEvent: (event, message, details) => log.info(event, message, details),
      signal,
    });
    const bad = result.blocked !== undefined || result.damaged.length > 0;
    const json = { store: store.location, dryRun: config.dryRun, ok: !bad, ...result };
    await writeReport(config.report, json);
    return {
      json: { ...json, blocked: result.blocked ?? null },
      text: lines(result, config.dryRun),
      exitCode: bad ? ERROR_CODES.CHUNK_MISSING.exit : 0,
    };
  } finally {
    await rm(scratchDir, { recursive: true, force: true });
    await store.close();
  }
};

function lines(result: PruneResult, dryRun: boolean): string[] {
  const { snapshots, damaged, blocked, found, removed, waiting, expiredLeases, total } = result;
  const would = dryRun ? 'would be' : 'is';
  return [
    ...snapshots.map(
      ({ channel, sequence, created, kept }) =>
        `${channel}#${sequence}  ${created ?? 'of an unknown time'}  ${kept.length === 0 ? `${would} removed` : `stays: ${kept.join(', ')}`}`,
    ),
    ...damaged.map(({ message }) => `DAMAGED: ${message}`),
    ...(blocked === undefined ? [] : [`NOTHING IS REMOVED: ${blocked}`]),
    `${total.chunks} chunks, ${formatBytes(total.bytes)}, were there.`,
    `${removed.chunks} chunks, ${formatBytes(removed.bytes)}, ${dryRun ? 'would be' : 'are'} removed.`,
    `${found.chunks} chunks, ${formatBytes(found.bytes)}, are named by no snapshot, and ${dryRun ? 'would be' : 'are'} removed after the grace.`,
    ...waiting
      .filter(({ phase }) => phase !== 'deleted')
      .map(
        ({ created, leases }) =>
          `What was found at ${created} waits for ${leases.length > 0 ? leases.join(', ') : 'the grace to end'}.`,
      ),
    ...(expiredLeases === 0 ? [] : [`${expiredLeases} leases had expired.`]),
  ];
}
