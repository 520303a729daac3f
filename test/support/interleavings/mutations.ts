/** A rule of the algorithms, broken: the campaign must find a violation in one of its worlds. */
export interface Mutation {
  name: string;
  file: string;
  from: string;
  to: string;
}

const SRC = 'packages/transfer/src';

export const MUTATIONS: readonly Mutation[] = [
  {
    name: 'the margin for wrong clocks is halved',
    file: `${SRC}/clock.ts`,
    from: 'export const MAX_SKEW_MS = 12 * 60_000;',
    to: 'export const MAX_SKEW_MS = 6 * 60_000;',
  },
  {
    name: 'the time that a call may take to land is not waited for after a lease',
    file: `${SRC}/lib/leases.ts`,
    from: 'Date.parse(expires) + MAX_SKEW_MS + MAX_LANDING_MS',
    to: 'Date.parse(expires) + MAX_SKEW_MS',
  },
  {
    name: 'no second mark before anything is removed',
    file: `${SRC}/lib/collect.ts`,
    from: '!named.has(sha256) && !kept.has(sha256)',
    to: '!kept.has(sha256)',
  },
  {
    name: 'snapshots that come during the run are not looked at',
    file: `${SRC}/lib/remove-ripe.ts`,
    from: 'if (!hasManifest || plan.survey.get(name)?.manifest !== undefined) continue;',
    to: 'if (name !== "") continue;',
  },
  {
    name: 'notes are not honoured',
    file: `${SRC}/lib/collect.ts`,
    from: '!named.has(sha256) && !kept.has(sha256)',
    to: '!named.has(sha256)',
  },
  {
    name: 'a writer adopts without looking at tombstones',
    file: `${SRC}/snapshot.ts`,
    from: 'await tombstones.rescue(chunk.sha256, abort);',
    to: '',
  },
  {
    name: 'a writer leaves its note and does not look whether the removal has begun',
    file: `${SRC}/lib/rescue.ts`,
    from: 'if (state === undefined || isSettled(state.document, clock)) return;',
    to: 'if (abort !== undefined) return;',
  },
  {
    name: 'removals that may still land are not waited for',
    file: `${SRC}/lib/collections.ts`,
    from: 'return Date.parse(until) + MAX_SKEW_MS + MAX_LANDING_MS;',
    to: 'return Date.parse(until);',
  },
  {
    name: 'leases that were held when the tombstones were put are not waited for',
    file: `${SRC}/lib/collect.ts`,
    from: 'document.leases.every((name) => !held.has(name))',
    to: 'document.leases.length >= 0',
  },
  {
    name: 'leases never expire',
    file: `${SRC}/lib/leases.ts`,
    from: 'return clock.now() >=',
    to: 'return clock.now() < 0 && clock.now() >=',
  },
  {
    name: 'a writer publishes although its lease has run out',
    file: `${SRC}/lib/lease.ts`,
    from: 'if (!isHeld()) throw lose(',
    to: 'if (!isHeld() && until.now < 0) throw lose(',
  },
  {
    name: 'a lease is not renewed',
    file: `${SRC}/lib/lease.ts`,
    from: 'await clock.sleep(pause, stopped.signal);\n      if (stopped.signal.aborted',
    to: 'await clock.sleep(pause, stopped.signal);\n      if (pause > 0 || stopped.signal.aborted',
  },
  {
    name: 'a lease for a snapshot that was removed does not stop a removal',
    file: `${SRC}/lib/remove-ripe.ts`,
    from: 'blocked ??= orphaned(leases, survey);',
    to: '',
  },
  {
    name: 'a reader does not look again whether its snapshot is there',
    file: `${SRC}/lib/reader-lease.ts`,
    from: 'if ((await store.stat(repositoryKeys.manifest(channel, sequence), { signal })) !== undefined)',
    to: 'if (lease !== undefined)',
  },
  {
    name: 'tombstones are put on chunks that are named',
    file: `${SRC}/prune.ts`,
    from: 'if (!named.has(sha256) && !marked.has(sha256))',
    to: 'if (!marked.has(sha256))',
  },
  {
    name: 'an index is removed although its manifest is there',
    file: `${SRC}/prune.ts`,
    from: 'if (!hasManifest || going.has(snapshotName(channel, sequence)))',
    to: '',
  },
  {
    name: 'manifests are removed last: chunks go while they are still named',
    file: `${SRC}/prune.ts`,
    from: 'if (!dryRun) await removeManifests(options, plan);',
    to: '',
  },
  {
    name: 'the newest snapshot is not kept',
    file: `${SRC}/retention.ts`,
    from: "if (sequence === newest) keep(sequence, 'newest');",
    to: '',
  },
  {
    name: 'what is newer than the newest is not kept',
    file: `${SRC}/retention.ts`,
    from: "if (newest === undefined || sequence > newest) keep(sequence, 'not promoted');",
    to: '',
  },
  {
    name: 'pins are looked at before the removal is announced only',
    file: `${SRC}/lib/plan-retention.ts`,
    from: 'if (pins.get(channel)?.has(sequence)) {',
    to: 'if (pins.size < 0) {',
  },
  {
    name: 'the number to begin with is read before the lease is there',
    file: `${SRC}/snapshot.ts`,
    from: 'const floor = (await readLatest(repository, channel, { signal }))?.document.sequence ?? 0;',
    to: 'const floor = base ?? 0;',
  },
  {
    name: 'young snapshots are removed',
    file: `${SRC}/retention.ts`,
    from: 'export const YOUNG_MS = 30 * 60_000;',
    to: 'export const YOUNG_MS = 0;',
  },
  {
    name: 'a writer drops its lease although its manifest may still arrive',
    file: `${SRC}/lib/lease.ts`,
    from: 'if (lease.mayLand) return;',
    to: '',
  },
];
