import { repositoryKeys } from '@presync/format/paths';
import type { Repository } from '../repository.ts';
import {
  type Claim,
  type CollectorOptions,
  claim,
  dispose,
  type Removed,
  removeClaimed,
  sortCollections,
} from './collect.ts';
import { type Collection, listCollections, readPart } from './collections.ts';
import { type FoundLease, listLeases } from './leases.ts';
import type { ListedChunks } from './listed-chunks.ts';
import type { NamedCache } from './named-cache.ts';
import type { RetentionPlan } from './plan-retention.ts';
import { markSnapshot, type SurveyedSnapshot, snapshotName, surveySnapshots } from './snapshot-survey.ts';

/** A collection that is not removed yet. */
export interface Waiting {
  id: string;
  phase: string;
  created: string;
  /** Leases that it waits for. */
  leases: string[];
}

export interface Ripening {
  /** In a dry run: what would be claimed. */
  ripe: Collection[];
  waiting: Waiting[];
}

/**
 * The first half of a removal: claims what is ripe, before anything is read that tells what is named. What was finished long ago is disposed of.
 */
export async function claimRipe(
  collector: CollectorOptions,
  { claims, run, dryRun }: { claims: Claim[]; run: string; dryRun: boolean },
): Promise<Ripening> {
  const { store, clock, signal } = collector;
  const collections = await listCollections(store, signal);
  const leases = await listLeases(store, clock, signal);
  const { ripe, done, waiting } = sortCollections(collections, leases, collector);
  const held = new Set(leases.filter(({ expired }) => !expired).map(({ name }) => name));
  const ripening: Ripening = { ripe, waiting: waiting.map((one) => describe(one, held)) };
  if (dryRun) return ripening;
  for (const collection of done) await dispose(collector, collection);
  for (const collection of ripe) {
    const claimed = await claim(collector, collection, run);
    if (claimed === undefined) ripening.waiting.push(describe(collection, held));
    else claims.push(claimed);
  }
  return ripening;
}

function describe({ id, state }: Collection, held: ReadonlySet<string>): Waiting {
  const document = state?.document;
  return {
    id,
    phase: document?.phase ?? 'marking',
    created: document?.created ?? '',
    leases: (document?.leases ?? []).filter((name) => held.has(name)),
  };
}

export interface Finished {
  removed: Removed;
  waiting: Waiting[];
  expiredLeases: number;
  blocked: string | undefined;
  survey: ReadonlyMap<string, SurveyedSnapshot>;
}

/**
 * The second half: leases are listed, and after them the snapshots that have come since they were last looked at. Nothing is removed when a lease names a snapshot
 * that is not there any more: its holder relies on chunks that nobody else may name.
 */
export async function finishRipe(
  collector: CollectorOptions,
  { ripe, waiting }: Ripening,
  {
    claims,
    repository,
    plan,
    listed,
    scratchDir,
    cache,
    dryRun,
  }: {
    claims: readonly Claim[];
    repository: Repository;
    plan: RetentionPlan;
    listed: ListedChunks;
    scratchDir: string;
    cache: NamedCache | undefined;
    dryRun: boolean;
  },
): Promise<Finished> {
  const { store, clock, concurrency, signal } = collector;
  const leases = await listLeases(store, clock, signal);
  const expired = leases.filter((lease) => lease.expired);
  if (!dryRun) for (const { key } of expired) await store.remove(key, { signal });
  const surveyor = { repository, concurrency, signal };
  const survey = await surveySnapshots(surveyor, plan.survey);
  let blocked = plan.blocked;
  for (const [name, { hasManifest, manifest, index, problem }] of survey) {
    if (!hasManifest || plan.survey.get(name)?.manifest !== undefined) continue;
    if (manifest === undefined) {
      blocked ??= `nobody knows what ${name} names: ${problem}`;
      continue;
    }
    const target = { named: plan.named, present: listed.present, scratchDir, cache };
    const marked = await markSnapshot(surveyor, { manifest, index }, target);
    if (marked?.unreadable !== undefined) blocked ??= `nobody knows what ${name} names: ${marked.unreadable}`;
  }
  blocked ??= orphaned(leases, survey);
  const finished: Finished = {
    removed: { chunks: 0, bytes: 0, indexes: 0 },
    waiting: [...waiting],
    expiredLeases: expired.length,
    blocked,
    survey,
  };
  const visibleIndexes = new Set<string>();
  const proofs = new Map<string, string>();
  for (const { channel, sequence, hasManifest, hasProof } of survey.values()) {
    const index = repositoryKeys.index(channel, sequence);
    if (hasManifest) visibleIndexes.add(index);
    else if (hasProof) proofs.set(index, repositoryKeys.proof(channel, sequence));
  }
  if (dryRun && blocked === undefined) {
    for (const { parts } of ripe)
      for (const part of parts)
        for (const { size, sha256 } of await readPart(store, part, signal)) {
          if (sha256 === undefined) finished.removed.indexes += 1;
          else if (!plan.named.has(sha256)) {
            finished.removed.chunks += 1;
            finished.removed.bytes += size;
          }
        }
  }
  for (const claimed of claims) {
    if (blocked !== undefined) {
      await claimed.end('marked');
      finished.waiting.push(describe(claimed.collection, new Set()));
      continue;
    }
    const removed = await removeClaimed(collector, claimed, { named: plan.named, visibleIndexes, proofs });
    for (const field of ['chunks', 'bytes', 'indexes'] as const) finished.removed[field] += removed[field];
  }
  return finished;
}

function orphaned(
  leases: readonly FoundLease[],
  survey: ReadonlyMap<string, SurveyedSnapshot>,
): string | undefined {
  for (const { key, document, expired } of leases) {
    if (expired) continue;
    if (document === undefined) return `${key} cannot be read: remove it if nobody holds it`;
    const { channel, sequence } = document;
    if (sequence === null || survey.get(snapshotName(channel, sequence))?.hasManifest === true) continue;
    return `${key} is held for snapshot ${snapshotName(channel, sequence)}, which was removed`;
  }
  return undefined;
}
