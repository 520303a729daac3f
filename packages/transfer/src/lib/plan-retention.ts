import { repositoryKeys } from '@presync/format/paths';
import { throwIfAborted } from '@presync/runtime/errors';
import type { Clock } from '../clock.ts';
import { listPins } from '../pins.ts';
import type { DamagedSnapshot, PrunedSnapshot, PruneOptions } from '../prune.ts';
import { type RetainedSnapshot, retain } from '../retention.ts';
import { createFingerprints, type Fingerprints } from './fingerprints.ts';
import { listLeases } from './leases.ts';
import type { ListedChunks } from './listed-chunks.ts';
import type { NamedCache } from './named-cache.ts';
import { announceRemoval } from './removed.ts';
import {
  markSnapshot,
  readPointers,
  type SurveyedSnapshot,
  snapshotName,
  surveySnapshots,
} from './snapshot-survey.ts';

export interface RetentionPlan {
  survey: Map<string, SurveyedSnapshot>;
  /** What each channel's pointer named before the survey. */
  pointers: ReadonlyMap<string, number>;
  snapshots: PrunedSnapshot[];
  /** Names of those that go. */
  going: Set<string>;
  /** What the others name. */
  named: Fingerprints;
  damaged: DamagedSnapshot[];
  /** Why nobody knows all that is named. */
  blocked: string | undefined;
}

/** Decides which snapshots stay, and reads what those name. */
export async function planRetention(
  options: PruneOptions,
  {
    clock,
    concurrency,
    listed,
    scratchDir,
    cache,
  }: {
    clock: Clock;
    concurrency: number;
    listed: ListedChunks;
    scratchDir: string;
    cache: NamedCache | undefined;
  },
): Promise<RetentionPlan> {
  const { repository, keep, signal } = options;
  const channels = await channelsOf(options);
  // The pointers first: what is put later is newer than they are, and stays.
  const pointers = await readPointers(repository, channels, signal);
  const survey = await surveySnapshots({ repository, concurrency, signal });
  const pins = await listPins(repository, { signal });
  const inUse = await listInUse(options, clock);
  const named = createFingerprints();
  const damaged = new Map<string, DamagedSnapshot>();
  const reasons = new Map<string, string[]>();
  let blocked: string | undefined;

  const byChannel = Map.groupBy(
    [...survey.values()].filter(({ hasManifest }) => hasManifest),
    ({ channel }) => channel,
  );
  for (const [channel, found] of byChannel) {
    const rules = options.channel === undefined || options.channel === channel ? keep : {};
    const read = new Set<number>();
    for (let again = true; again; ) {
      again = false;
      throwIfAborted(signal);
      const candidates = found.map(
        ({ sequence, manifest, isQuarantined }): RetainedSnapshot => ({
          sequence,
          created: manifest?.created,
          sound: !isQuarantined && !damaged.has(snapshotName(channel, sequence)),
        }),
      );
      const kept = retain(candidates, rules, {
        newest: pointers.get(channel),
        pinned: pins.get(channel) ?? new Set(),
        inUse: inUse.get(channel) ?? new Set(),
        now: clock.now(),
      });
      for (const { sequence, manifest, index, problem } of found) {
        const why = kept.get(sequence) ?? [];
        const name = snapshotName(channel, sequence);
        reasons.set(name, why);
        if (why.length === 0 || read.has(sequence)) continue;
        read.add(sequence);
        const problems = await mark(manifest, index, problem);
        if (problems === undefined) continue;
        // One that is damaged takes no place: another may stay instead, and is read as well.
        damaged.set(name, { channel, sequence, ...problems });
        again = true;
      }
    }
  }

  async function mark(
    manifest: SurveyedSnapshot['manifest'],
    index: SurveyedSnapshot['index'],
    problem: string | undefined,
  ): Promise<{ missing: number; message: string } | undefined> {
    if (manifest === undefined) {
      blocked ??= `nobody knows what it names: ${problem}`;
      return { missing: 0, message: `its manifest cannot be read: ${problem}` };
    }
    const target = { named, present: listed.present, scratchDir, cache };
    const marked = await markSnapshot({ repository, concurrency, signal }, { manifest, index }, target);
    if (marked === undefined) return undefined;
    const name = snapshotName(manifest.channel, manifest.sequence);
    if (marked.unreadable !== undefined) {
      blocked ??= `nobody knows what ${name} names: ${marked.unreadable}`;
      return { missing: 0, message: `${name}: ${marked.unreadable}` };
    }
    if (marked.missing === 0) return undefined;
    return {
      missing: marked.missing,
      message: `${name} lacks ${marked.missing} of its chunks, the first is ${marked.example}: somebody or a rule of the bucket has removed them`,
    };
  }

  const snapshots = [...byChannel.values()].flat().map(({ channel, sequence, manifest }) => ({
    channel,
    sequence,
    created: manifest?.created,
    kept: reasons.get(snapshotName(channel, sequence)) ?? [],
  }));
  snapshots.sort((a, b) =>
    a.channel === b.channel ? a.sequence - b.sequence : a.channel < b.channel ? -1 : 1,
  );
  const going = new Set(
    snapshots
      .filter(({ kept }) => kept.length === 0)
      .map(({ channel, sequence }) => snapshotName(channel, sequence)),
  );
  return { survey, pointers, snapshots, going, named, damaged: [...damaged.values()], blocked };
}

/** Removes the manifests of those that go: announced first, and looked at once more for pins after that. One that is pinned by then stays. */
export async function removeManifests(
  { repository, onEvent, signal }: PruneOptions,
  { snapshots, going, survey }: RetentionPlan,
): Promise<void> {
  const { store } = repository;
  const leaving = snapshots.filter(({ channel, sequence }) => going.has(snapshotName(channel, sequence)));
  const byChannel = Map.groupBy(leaving, ({ channel }) => channel);
  for (const [channel, found] of byChannel) {
    const sequences = found.map(({ sequence }) => sequence);
    await announceRemoval(store, channel, sequences, signal);
  }
  if (byChannel.size === 0) return;
  const pins = await listPins(repository, { signal });
  for (const snapshot of leaving) {
    const { channel, sequence } = snapshot;
    if (pins.get(channel)?.has(sequence)) {
      snapshot.kept.push('pinned');
      // Nobody has read what it names: it is forgotten here, and so found again with what has come since.
      going.delete(snapshotName(channel, sequence));
      survey.delete(snapshotName(channel, sequence));
      continue;
    }
    await store.remove(repositoryKeys.manifest(channel, sequence), { signal });
    // After the manifest: without it the snapshot would be out of its quarantine.
    if (survey.get(snapshotName(channel, sequence))?.hasProof === true)
      await store.remove(repositoryKeys.proof(channel, sequence), { signal });
    onEvent?.('prune.snapshot_removed', 'a snapshot that retention does not keep is removed', {
      channel,
      sequence,
    });
  }
}

/** Channels that have a pointer or a snapshot. */
async function channelsOf({ repository, signal }: PruneOptions): Promise<Set<string>> {
  const channels = new Set<string>();
  for await (const { key } of repository.store.list(repositoryKeys.channels, { signal })) {
    const channel = /^channels\/(.+)\/latest\.json$/.exec(key)?.[1];
    if (channel !== undefined) channels.add(channel);
  }
  return channels;
}

async function listInUse(
  { repository, signal }: PruneOptions,
  clock: Clock,
): Promise<Map<string, Set<number>>> {
  const inUse = new Map<string, Set<number>>();
  for (const { document, expired } of await listLeases(repository.store, clock, signal)) {
    if (document === undefined || document.sequence === null || expired) continue;
    const ofChannel = inUse.get(document.channel) ?? new Set();
    inUse.set(document.channel, ofChannel.add(document.sequence));
  }
  return inUse;
}
