import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sha256 as digestOf } from '@presync/format/digest';
import type { StoredChunk } from '@presync/format/index-file';
import type { BlockReference } from '@presync/format/manifest';
import { repositoryKeys } from '@presync/format/paths';
import { isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { assertDatabaseFile } from '@presync/transfer/database-file';
import { partTargets } from '@presync/transfer/part-targets';
import { downloadIndex, type Repository } from '@presync/transfer/repository';
import { type RestoreSurvey, type RoomNeed, surveyRestore } from '@presync/transfer/survey-restore';
import type { FoundSnapshot, PassedOver } from './choose-snapshot.ts';
import type { Finding } from './lib/finding.ts';
import { holdsAnything } from './lib/target.ts';
import { estimateReady, type ReadyEstimate } from './planner.ts';
import type { RestoreDatabaseOptions } from './restore-database.ts';

/** What a restore is about to do: for people before they say yes, and for programs. */
export interface RestorePlan {
  channel: string;
  sequence: number;
  /** ISO time. */
  created: string;
  ageSeconds: number;
  /** A finalized block that the copy holds. */
  anchor: BlockReference | null;
  /** The most that it can hold. */
  head: BlockReference | null;
  /** Trusted keys that signed it; empty when nobody was checked. */
  trustedBy: string[];
  /** What was not used, and why. */
  passed: readonly PassedOver[];
  /** What the preflight found. */
  findings: readonly Finding[];
  /** Where the chunks come from, in the order in which they are asked. */
  sources: string[];
  targets: { target: string; holdsDatabase: boolean }[];
  /** What happens with a database that is there. */
  existing: 'refuse' | 'reuse' | 'replace';
  /** Bytes. */
  databaseBytes: number;
  fetch: Pick<
    RestoreSurvey,
    'fetchBytes' | 'fetchChunks' | 'inPlaceBytes' | 'likelyReused' | 'perhapsReused'
  >;
  /** The sequence of the snapshot whose restore was begun here and not finished. */
  interrupted: number | null;
  room: (RoomNeed & { enough: boolean; removesOldFirst: boolean })[];
  /** Measured just now; null when nobody asked for it, or no chunk came in time. */
  bytesPerSecond: number | null;
  /** Null where the speed or the chain's block time is not known. */
  estimate: ReadyEstimate | null;
  importRate: number;
  /** As it was given. */
  warpSyncSeconds: number | null;
}

/** A plan, and the index that it was made from. */
export interface Planned {
  plan: RestorePlan;
  index: string;
  /** Removes the index. */
  close(): Promise<void>;
}

/** How long the speed is measured at most. */
const MEASURE_MS = 3000;

/** Makes the plan. Nothing is written but the index, into a folder for temporary files. */
export async function planRestore(
  options: RestoreDatabaseOptions,
  { repository, channel, snapshot }: FoundSnapshot,
  { passed, findings }: Pick<RestorePlan, 'passed' | 'findings'>,
): Promise<Planned> {
  const { signal, from, dryRun, confirm, warpSyncTimeMs } = options;
  const { manifest, trustedBy } = snapshot;
  const measured = dryRun === true || confirm !== undefined || warpSyncTimeMs !== undefined;
  const scratch = await mkdtemp(join(tmpdir(), 'presync-plan-'));
  const close = (): Promise<void> => rm(scratch, { recursive: true, force: true });
  try {
    const index = join(scratch, 'index.zst');
    await downloadIndex(repository, manifest, index, { signal });
    const existing = options.existing === 'keep' ? 'refuse' : options.existing;
    const reuse = existing === 'reuse';
    const survey = await surveyRestore({
      ...options,
      ...{ repository, snapshot, index, reuse },
      assertFile: (file) => assertDatabaseFile(manifest, file),
    });
    const bytesPerSecond = measured ? await measureSpeed(repository, survey.sample, signal) : undefined;
    const ageSeconds = Math.max(0, (Date.now() - Date.parse(manifest.created)) / 1000);
    const { blockTimeMs, anchor, head } = manifest.chain;
    const importRate = options.importRate ?? DEFAULT_IMPORT_RATE;
    const { sample: _, room, interrupted, ...fetch } = survey;
    const targets = [];
    for (const { target } of partTargets(manifest, options))
      targets.push({ target, holdsDatabase: await holdsAnything(target) });
    const plan: RestorePlan = {
      channel,
      sequence: manifest.sequence,
      created: manifest.created,
      ageSeconds,
      anchor,
      head,
      trustedBy,
      passed: [...passed],
      findings,
      sources: from.sources
        .report()
        .flatMap(({ location, dropped }) => (dropped === undefined ? location : [])),
      targets,
      existing,
      databaseBytes: manifest.totals.bytes,
      fetch,
      interrupted: interrupted ?? null,
      room: room.map((need) => ({
        ...need,
        enough: need.free >= need.needed,
        removesOldFirst:
          options.freeRoom === true && need.free < need.needed && need.free + need.old >= need.needed,
      })),
      bytesPerSecond: bytesPerSecond ?? null,
      estimate:
        bytesPerSecond === undefined || !blockTimeMs
          ? null
          : estimateReady({
              ageSeconds,
              blockTimeMs,
              importRate,
              fetchBytes: fetch.fetchBytes - fetch.likelyReused,
              bytesPerSecond,
            }),
      importRate,
      warpSyncSeconds: warpSyncTimeMs === undefined ? null : warpSyncTimeMs / 1000,
    };
    return { plan, index, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** As the option's own default. */
const DEFAULT_IMPORT_RATE = 20;

/**
 * Bytes a second at which chunks come, side by side as a restore asks for them. Undefined when none came in time. What is wrong
 * with them is for the restore to find.
 */
async function measureSpeed(
  { sources }: Repository,
  chunks: readonly StoredChunk[],
  signal: AbortSignal,
): Promise<number | undefined> {
  const enough = AbortSignal.timeout(MEASURE_MS);
  const either = AbortSignal.any([signal, enough]);
  const began = performance.now();
  let bytes = 0;
  let seconds = 0;
  await Promise.all(
    chunks.map(async ({ sha256, storedSize, storedSha256 }) => {
      const key = repositoryKeys.chunk(sha256);
      try {
        await sources.fetch(key, { maxBytes: storedSize, signal: either }, async (object) => {
          if (object.length !== storedSize || (await digestOf(object)) !== storedSha256)
            throw new PresyncError('CHUNK_CORRUPT', `${key} is not what the index says`);
        });
        bytes += storedSize;
        seconds = (performance.now() - began) / 1000;
      } catch (error) {
        throwIfAborted(signal);
        if (!isPresyncError(error)) throw error;
      }
    }),
  );
  return bytes === 0 ? undefined : bytes / seconds;
}
