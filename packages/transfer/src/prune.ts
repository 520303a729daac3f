import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { repositoryKeys } from '@presync/format/paths';
import { throwIfAborted } from '@presync/runtime/errors';
import { type Clock, createClock } from './clock.ts';
import type { OnEvent } from './events.ts';
import { begin, type Claim, type CollectorOptions, type Removed } from './lib/collect.ts';
import { listCollections, readPart, type Tombstone } from './lib/collections.ts';
import { createFingerprints } from './lib/fingerprints.ts';
import { type ListedChunks, listChunks } from './lib/listed-chunks.ts';
import { openNamedCache } from './lib/named-cache.ts';
import { planRetention, type RetentionPlan, removeManifests } from './lib/plan-retention.ts';
import { claimRipe, finishRipe, type Waiting } from './lib/remove-ripe.ts';
import { type SurveyedSnapshot, snapshotName } from './lib/snapshot-survey.ts';
import type { Repository } from './repository.ts';
import type { KeepRules } from './retention.ts';

export interface PruneOptions {
  repository: Repository;
  /** Retention is applied to this channel only. Default: to all. Garbage is collected in the whole repository. */
  channel?: string | undefined;
  keep: KeepRules;
  /** How long what no snapshot names any more stays, for readers that cannot hold a lease. */
  graceMs: number;
  /** Go on until what was found is removed: through the grace, and until the leases of others have ended. */
  wait?: boolean | undefined;
  /** Change nothing in the repository. */
  dryRun?: boolean | undefined;
  /** For scratch files: 40 bytes for each chunk, and an index. Must exist. */
  scratchDir: string;
  /** Where it is kept what each index names, so that the next run need not download it; up to 512 MiB. Default: nowhere. */
  cacheDir?: string | undefined;
  /** Calls at a time. */
  concurrency?: number | undefined;
  /** Default: this machine's. */
  clock?: Clock | undefined;
  onEvent?: OnEvent | undefined;
  signal: AbortSignal;
}

export interface PrunedSnapshot {
  channel: string;
  sequence: number;
  created: string | undefined;
  /** Why it stays; empty when it goes. */
  kept: string[];
}

export interface DamagedSnapshot {
  channel: string;
  sequence: number;
  /** Chunks that it names and that are gone. */
  missing: number;
  message: string;
}

export interface PruneResult {
  /** Finished snapshots, those that go as well. */
  snapshots: PrunedSnapshot[];
  damaged: DamagedSnapshot[];
  /** Why nothing could be collected. */
  blocked: string | undefined;
  /** What got tombstones in this run, or would get them. */
  found: Removed;
  /** What was removed in this run, or would be removed now. */
  removed: Removed;
  /** Collections that are not ripe yet. */
  waiting: Waiting[];
  expiredLeases: number;
  /** Chunks in the store when the run began. */
  total: { chunks: number; bytes: number };
}

const DEFAULT_CONCURRENCY = 16;

/** Between two looks whether the leases that are waited for have ended: each look lists all that is there. */
const LOOK_MS = 5 * 60_000;

/**
 * Applies retention, removes what an earlier run has found to be named by nobody, and puts tombstones on what is named by nobody now. Any number of runs,
 * writers and readers may be at work at the same time, and a run may be killed at any instant; `docs/decisions/0018` says why nothing that is named is lost.
 */
export async function pruneRepository(options: PruneOptions): Promise<PruneResult> {
  const { clock = createClock(), signal, wait = false, dryRun = false } = options;
  const result = await runOnce(options, clock);
  while (wait && !dryRun && result.blocked === undefined) {
    if (result.waiting.length === 0 && result.found.chunks + result.found.indexes === 0) break;
    // What was found in this run is not among those that wait yet.
    const ends = result.waiting.map(({ created }) => Date.parse(created) + options.graceMs - clock.now());
    await clock.sleep(Math.max(LOOK_MS, Math.min(options.graceMs, ...ends)), signal);
    throwIfAborted(signal);
    const next = await runOnce(options, clock);
    result.damaged = next.damaged;
    result.blocked = next.blocked;
    result.waiting = next.waiting.filter(({ phase }) => phase !== 'deleted');
    result.expiredLeases += next.expiredLeases;
    for (const field of ['chunks', 'bytes', 'indexes'] as const) {
      result.removed[field] += next.removed[field];
    }
    if (result.waiting.length === 0) break;
  }
  return result;
}

async function runOnce(options: PruneOptions, clock: Clock): Promise<PruneResult> {
  const { repository, graceMs, concurrency = DEFAULT_CONCURRENCY, dryRun = false, onEvent, signal } = options;
  const { store } = repository;
  const scratchDir = await mkdtemp(join(options.scratchDir, 'prune-'));
  const run = crypto.randomUUID();
  const collector: CollectorOptions = { store, clock, concurrency, graceMs, signal };
  const claims: Claim[] = [];
  let listed: ListedChunks | undefined;
  try {
    const ripening = await claimRipe(collector, { claims, run, dryRun });
    listed = await listChunks(store, join(scratchDir, 'chunks'), signal);
    const cache =
      options.cacheDir === undefined ? undefined : await openNamedCache({ dir: options.cacheDir, onEvent });
    const plan = await planRetention(options, { clock, concurrency, listed, scratchDir, cache });
    for (const { channel, sequence, missing, message } of plan.damaged)
      onEvent?.('prune.damaged', message, { channel, sequence, missing });
    if (!dryRun) await removeManifests(options, plan);
    const ripe = await finishRipe(collector, ripening, {
      claims,
      repository,
      plan,
      scratchDir,
      cache,
      listed,
      dryRun,
    });
    const blocked = plan.blocked ?? ripe.blocked;
    const tombstones = candidates(collector, plan, ripe.survey, listed.all());
    const found =
      plan.blocked !== undefined
        ? { chunks: 0, bytes: 0, indexes: 0 }
        : dryRun
          ? await count(tombstones)
          : await begin(collector, tombstones, run);
    return {
      snapshots: plan.snapshots,
      damaged: plan.damaged,
      blocked,
      found,
      removed: ripe.removed,
      waiting: ripe.waiting,
      expiredLeases: ripe.expiredLeases,
      total: { chunks: listed.chunks, bytes: listed.bytes },
    };
  } finally {
    // Those that were not removed stop being renewed; another run takes them up later.
    for (const claimed of claims) await claimed.end('deleting');
    await listed?.close();
    await rm(scratchDir, { recursive: true, force: true });
  }
}

/** What is named by nobody and has no tombstone yet. */
async function* candidates(
  { store, signal }: CollectorOptions,
  { named, pointers, going }: RetentionPlan,
  survey: ReadonlyMap<string, SurveyedSnapshot>,
  chunks: AsyncIterable<{ sha256: string; size: number }>,
): AsyncGenerator<Tombstone> {
  const marked = createFingerprints();
  const indexes = new Set<string>();
  for (const { parts } of await listCollections(store, signal)) {
    for (const part of parts) {
      for (const { key, sha256 } of await readPart(store, part, signal)) {
        if (sha256 === undefined) indexes.add(key);
        else marked.add(sha256);
      }
    }
  }
  for (const { channel, sequence, index, hasManifest, hasProof } of survey.values()) {
    const key = repositoryKeys.index(channel, sequence);
    // A number above the newest may still be finished, and none is used twice: the index holds it.
    if (sequence >= (pointers.get(channel) ?? 0) || indexes.has(key)) continue;
    // The tombstone of an index stands for the proof as well, which may be all that is left.
    const left = hasManifest
      ? index !== undefined && going.has(snapshotName(channel, sequence))
      : index !== undefined || hasProof;
    if (left) yield { key, size: index?.size ?? 0, sha256: undefined };
  }
  for await (const { sha256, size } of chunks) {
    if (!named.has(sha256) && !marked.has(sha256)) yield { key: repositoryKeys.chunk(sha256), size, sha256 };
  }
}

async function count(tombstones: AsyncIterable<Tombstone>): Promise<Removed> {
  const found: Removed = { chunks: 0, bytes: 0, indexes: 0 };
  for await (const { sha256, size } of tombstones) {
    if (sha256 === undefined) found.indexes += 1;
    else {
      found.chunks += 1;
      found.bytes += size;
    }
  }
  return found;
}
