import type { Profile } from './profiles.ts';

export interface Edit {
  file: string;
  from: string;
  to: string;
}

/** A rule of the algorithms, broken: the campaign must find a violation in one of its worlds. */
export interface Mutation extends Edit {
  name: string;
  /** The worlds that are aimed at the rule are tried first. */
  aimed?: Profile;
  /** What else has to be changed. */
  also?: readonly Edit[];
}

const SRC = 'packages/transfer/src';

export const MUTATIONS: readonly Mutation[] = [
  {
    name: 'the margin for wrong clocks is halved',
    aimed: 'late',
    file: `${SRC}/clock.ts`,
    from: 'export const MAX_SKEW_MS = 12 * 60_000;',
    to: 'export const MAX_SKEW_MS = 6 * 60_000;',
  },
  {
    name: 'the time that a call may take to land is not waited for after a lease',
    aimed: 'late',
    file: `${SRC}/lib/leases.ts`,
    from: 'Date.parse(expires) + MAX_SKEW_MS + MAX_LANDING_MS',
    to: 'Date.parse(expires) + MAX_SKEW_MS',
  },
  {
    name: 'no second mark before anything is removed',
    aimed: 'again',
    file: `${SRC}/lib/collect.ts`,
    from: '!named.has(sha256) && !kept.has(sha256)',
    to: '!kept.has(sha256)',
  },
  {
    name: 'snapshots that come during the run are not looked at',
    aimed: 'base',
    file: `${SRC}/lib/remove-ripe.ts`,
    from: 'if (!hasManifest || plan.survey.get(name)?.manifest !== undefined) continue;',
    to: 'if (name !== "") continue;',
  },
  {
    name: 'notes are not honoured',
    aimed: 'rescue',
    file: `${SRC}/lib/collect.ts`,
    from: '!named.has(sha256) && !kept.has(sha256)',
    to: '!named.has(sha256)',
  },
  {
    name: 'a writer adopts without looking at tombstones',
    aimed: 'rescue',
    file: `${SRC}/snapshot.ts`,
    from: 'await tombstones.rescue(chunk.sha256, abort);',
    to: '',
  },
  {
    name: 'a writer leaves its note and does not look whether the removal has begun',
    aimed: 'rescue',
    file: `${SRC}/lib/rescue.ts`,
    from: 'if (state === undefined || isSettled(state.document, clock)) return;',
    to: 'if (abort !== undefined) return;',
  },
  {
    name: 'removals that may still land are not waited for',
    aimed: 'again',
    file: `${SRC}/lib/collections.ts`,
    from: 'return Date.parse(until) + MAX_SKEW_MS + MAX_LANDING_MS;',
    to: 'return Date.parse(until);',
  },
  {
    name: 'leases that were held when the tombstones were put are not waited for',
    aimed: 'rescue',
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
    aimed: 'late',
    file: `${SRC}/lib/lease.ts`,
    from: 'if (!isHeld()) throw lose(',
    to: 'if (!isHeld() && until.now < 0) throw lose(',
  },
  {
    name: 'a lease is not renewed',
    aimed: 'slow',
    file: `${SRC}/lib/lease.ts`,
    from: 'await clock.sleep(pause, stopped.signal);\n      if (stopped.signal.aborted',
    to: 'await clock.sleep(pause, stopped.signal);\n      if (pause > 0 || stopped.signal.aborted',
  },
  {
    name: 'a lease for a snapshot that was removed does not stop a removal',
    aimed: 'base',
    file: `${SRC}/lib/remove-ripe.ts`,
    from: 'blocked ??= orphaned(leases, survey);',
    to: '',
  },
  {
    name: 'a reader does not look again whether its snapshot is there',
    aimed: 'gap',
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
    aimed: 'pin',
    file: `${SRC}/lib/plan-retention.ts`,
    from: 'if (pins.get(channel)?.has(sequence)) {',
    to: 'if (pins.size < 0) {',
  },
  {
    name: 'the number to begin with is read before the lease is there',
    aimed: 'gap',
    file: `${SRC}/snapshot.ts`,
    from: 'const floor = (await readLatest(repository, channel, { signal }))?.document.sequence ?? 0;',
    to: 'const floor = base ?? 0;',
  },
  {
    name: 'young snapshots are removed',
    aimed: 'quick',
    file: `${SRC}/retention.ts`,
    from: 'export const YOUNG_MS = 30 * 60_000;',
    to: 'export const YOUNG_MS = 0;',
  },
  {
    name: 'a writer drops its lease although its manifest may still arrive',
    aimed: 'rescue',
    file: `${SRC}/lib/lease.ts`,
    from: 'if (lease.mayLand) return;',
    to: '',
  },
  {
    name: 'only clocks that agree are allowed for when a young snapshot is removed',
    aimed: 'quick',
    file: `${SRC}/retention.ts`,
    from: 'export const YOUNG_MS = 30 * 60_000;',
    to: 'export const YOUNG_MS = 10 * 60_000;',
  },
  {
    name: 'leases are looked at before the tombstones are there',
    aimed: 'rescue',
    file: `${SRC}/lib/collect.ts`,
    from: '  for await (const tombstone of tombstones) {\n',
    to: '  const leases = (await listLeases(store, clock, signal)).filter(({ expired }) => !expired);\n  for await (const tombstone of tombstones) {\n',
    also: [
      {
        file: `${SRC}/lib/collect.ts`,
        from: '  if (state === undefined) return found;\n  const leases = (await listLeases(store, clock, signal)).filter(({ expired }) => !expired);\n',
        to: '  if (state === undefined) return found;\n',
      },
    ],
  },
  {
    name: 'a writer reads the tombstones before its lease is there',
    aimed: 'rescue',
    file: `${SRC}/snapshot.ts`,
    from: '    const lease = await takeLease({',
    to: '    const early = await loadTombstones({ store, clock, onEvent, signal });\n    const lease = await takeLease({',
    also: [
      {
        file: `${SRC}/snapshot.ts`,
        from: '{ lease, base, clock, scratch },\n',
        to: '{ lease, base, clock, scratch, early },\n',
      },
      {
        file: `${SRC}/snapshot.ts`,
        from: '{ lease, base, clock, scratch }: {',
        to: '{ lease, base, clock, scratch, early }: { early: Tombstones;',
      },
      {
        file: `${SRC}/snapshot.ts`,
        from: 'const tombstones = await loadTombstones({ store, clock, onEvent: options.onEvent, signal });',
        to: 'const tombstones = early;',
      },
    ],
  },
  {
    name: 'a writer looks at what it builds upon before its lease is there',
    aimed: 'base',
    file: `${SRC}/snapshot.ts`,
    from: '    const lease = await takeLease({',
    to: "    const early = base === null ? undefined : await loadPrevious(options, { base, latest: base }, createChunkTable(), join(scratch, 'early.zst')).catch(() => undefined);\n    const lease = await takeLease({",
    also: [
      {
        file: `${SRC}/snapshot.ts`,
        from: '{ lease, base, clock, scratch },\n',
        to: '{ lease, base, clock, scratch, early },\n',
      },
      {
        file: `${SRC}/snapshot.ts`,
        from: '{ lease, base, clock, scratch }: {',
        to: '{ lease, base, clock, scratch, early }: { early: Snapshot | undefined;',
      },
      { file: `${SRC}/snapshot.ts`, from: '{ base, latest: floor }', to: '{ base, latest: floor, early }' },
      {
        file: `${SRC}/lib/previous.ts`,
        from: '{ base, latest, stored = true }: { base: number;',
        to: '{ base, latest, stored = true, early }: { early?: Snapshot | undefined; base: number;',
      },
      {
        file: `${SRC}/lib/previous.ts`,
        from: "    previous = await resolve(base === latest ? 'latest' : base, 'anybody');",
        to: "    previous = early ?? (await resolve(base === latest ? 'latest' : base, 'anybody'));",
      },
      {
        file: `${SRC}/lib/previous.ts`,
        from: 'if (keys.length > 0) await resolve(base, keys);',
        to: 'if (keys.length > 0 && early === undefined) await resolve(base, keys);',
      },
    ],
  },
  {
    name: 'a writer looks whether the removal has begun, and leaves its note only then',
    aimed: 'rescue',
    file: `${SRC}/lib/rescue.ts`,
    from: "    await store.put(repositoryKeys.tombstoneKept(id, sha256), Buffer.from('kept\\n'), { signal: abort });\n",
    to: '',
    also: [
      {
        file: `${SRC}/lib/rescue.ts`,
        from: 'if (state === undefined || isSettled(state.document, clock)) return;',
        to: "if (state === undefined || isSettled(state.document, clock)) { await store.put(repositoryKeys.tombstoneKept(id, sha256), Buffer.from('kept\\n'), { signal: abort }); return; }",
      },
    ],
  },
  {
    name: 'notes are read before the claim',
    aimed: 'rescue',
    file: `${SRC}/lib/collect.ts`,
    from: "    kept.add(key.slice(key.lastIndexOf('/') + 1));",
    to: "    if (collection.notes.includes(key)) kept.add(key.slice(key.lastIndexOf('/') + 1));",
  },
  {
    name: 'claims are not renewed',
    aimed: 'slow',
    file: `${SRC}/lib/collect.ts`,
    from: 'if (either.aborted || !isHeld()) return;',
    to: 'if (RENEW_MS > 0) return;',
  },
  {
    name: 'a collector goes on although its claim has run out',
    aimed: 'gap',
    file: `${SRC}/lib/collect.ts`,
    from: '      claimed.assertHeld();\n',
    to: '',
  },
  {
    name: 'a claim is held by the clock that stands still in a suspended machine',
    aimed: 'gap',
    file: `${SRC}/lib/collect.ts`,
    from: 'clock.elapsed() < until.elapsed && clock.now() < until.now;',
    to: 'clock.elapsed() < until.elapsed;',
  },
  {
    name: 'a lease is held by the clock that stands still in a suspended machine',
    aimed: 'late',
    file: `${SRC}/lib/lease.ts`,
    from: '!lost.signal.aborted && clock.elapsed() < until.elapsed && clock.now() < until.now;',
    to: '!lost.signal.aborted && clock.elapsed() < until.elapsed;',
  },
  {
    name: 'a removal that is under way is taken up by another run',
    aimed: 'gap',
    file: `${SRC}/lib/collect.ts`,
    from: "else if (document.phase === 'deleting' && settled)",
    to: "else if (document.phase === 'deleting')",
  },
  {
    name: 'two runs may claim a collection',
    aimed: 'gap',
    file: `${SRC}/lib/collect.ts`,
    from: '    if (moved === undefined) return false;\n    state = moved;',
    to: '    if (moved !== undefined) state = moved;',
  },
  {
    name: 'what was removed counts as settled at once',
    aimed: 'again',
    file: `${SRC}/lib/collect.ts`,
    from: "phase === 'marked' ? null : 0",
    to: 'null',
  },
  {
    name: 'a collection is forgotten before the last removal under it has landed',
    aimed: 'again',
    file: `${SRC}/lib/collect.ts`,
    from: "else if (document.phase === 'deleted' && settled)",
    to: "else if (document.phase === 'deleted')",
  },
  {
    name: 'a collection that was never finished is not given up',
    aimed: 'any',
    file: `${SRC}/lib/collect.ts`,
    from: "(document.phase === 'marking' && age > ABANDONED_MS)",
    to: "(document.phase === 'marking' && age < 0)",
  },
  {
    name: 'leases are listed after the snapshots that have come',
    aimed: 'base',
    file: `${SRC}/lib/remove-ripe.ts`,
    from: '  const leases = await listLeases(store, clock, signal);\n  const expired = leases.filter((lease) => lease.expired);\n  if (!dryRun) for (const { key } of expired) await store.remove(key, { signal });\n  const surveyor = { repository, concurrency, signal };\n  const survey = await surveySnapshots(surveyor, plan.survey);\n',
    to: '  const surveyor = { repository, concurrency, signal };\n  const survey = await surveySnapshots(surveyor, plan.survey);\n  const leases = await listLeases(store, clock, signal);\n  const expired = leases.filter((lease) => lease.expired);\n  if (!dryRun) for (const { key } of expired) await store.remove(key, { signal });\n',
  },
  {
    name: 'leases are not listed again after the claim',
    aimed: 'base',
    file: `${SRC}/lib/remove-ripe.ts`,
    from: '    claims,\n    repository,\n    plan,\n',
    to: '    claims,\n    repository,\n    plan,\n    early,\n',
    also: [
      {
        file: `${SRC}/lib/remove-ripe.ts`,
        from: '  const leases = await listLeases(store, clock, signal);\n  const expired = leases',
        to: '  const leases = early;\n  const expired = leases',
      },
      {
        file: `${SRC}/lib/remove-ripe.ts`,
        from: '    claims: readonly Claim[];',
        to: '    early: FoundLease[];\n    claims: readonly Claim[];',
      },
      {
        file: `${SRC}/prune.ts`,
        from: '    listed = await listChunks(store,',
        to: '    const early = await listLeases(store, clock, signal);\n    listed = await listChunks(store,',
      },
      {
        file: `${SRC}/prune.ts`,
        from: '      claims,\n      repository,',
        to: '      claims,\n      early,\n      repository,',
      },
      {
        file: `${SRC}/prune.ts`,
        from: 'import { type ListedChunks,',
        to: "import { listLeases } from './lib/leases.ts';\nimport { type ListedChunks,",
      },
    ],
  },
  {
    name: 'an index whose manifest has come meanwhile is removed',
    aimed: 'base',
    file: `${SRC}/lib/collect.ts`,
    from: 'sha256 === undefined ? !visibleIndexes.has(key) :',
    to: 'sha256 === undefined ? true :',
  },
  {
    name: 'an index above the newest gets a tombstone',
    aimed: 'quick',
    file: `${SRC}/prune.ts`,
    from: 'if (index === undefined || sequence >= (pointers.get(channel) ?? 0) || indexes.has(index.key)) continue;',
    to: 'if (index === undefined || indexes.has(index.key)) continue;',
  },
  {
    name: 'what a lease names is not kept',
    aimed: 'any',
    file: `${SRC}/retention.ts`,
    from: "if (state.inUse.has(sequence)) keep(sequence, 'in use');",
    to: '',
  },
  {
    name: 'what a snapshot names that is pinned at the last moment is not read',
    aimed: 'pin',
    file: `${SRC}/lib/plan-retention.ts`,
    from: '      survey.delete(snapshotName(channel, sequence));\n',
    to: '',
  },
  {
    name: 'who pins does not look whether the removal is announced',
    aimed: 'pin',
    file: `${SRC}/pins.ts`,
    from: 'if (!gone && !includes(ranges, sequence)) return true;',
    to: 'if (!gone) return true;',
  },
  {
    name: 'who pins looks for announcements before the pin is there',
    aimed: 'pin',
    file: `${SRC}/pins.ts`,
    from: '  try {\n    await store.put(key, document,',
    to: '  const { ranges } = await readRemoved(store, channel, signal);\n  try {\n    await store.put(key, document,',
    also: [
      {
        file: `${SRC}/pins.ts`,
        from: 'signal);\n  const { ranges } = await readRemoved(store, channel, signal);\n  const gone',
        to: 'signal);\n  const gone',
      },
    ],
  },
  {
    name: 'a removal is not announced',
    aimed: 'pin',
    file: `${SRC}/lib/plan-retention.ts`,
    from: '    await announceRemoval(store, channel, sequences, signal);\n',
    to: '',
  },
  {
    name: 'a removal is announced after pins were looked at again',
    aimed: 'pin',
    file: `${SRC}/lib/plan-retention.ts`,
    from: '  for (const [channel, found] of byChannel) {\n    const sequences',
    to: '  const pins = await listPins(repository, { signal });\n  for (const [channel, found] of byChannel) {\n    const sequences',
    also: [
      {
        file: `${SRC}/lib/plan-retention.ts`,
        from: '  if (byChannel.size === 0) return;\n  const pins = await listPins(repository, { signal });\n',
        to: '  if (byChannel.size === 0) return;\n',
      },
    ],
  },
  {
    name: 'a proof is removed before its manifest',
    aimed: 'any',
    file: `${SRC}/lib/plan-retention.ts`,
    from: '    await store.remove(repositoryKeys.manifest(channel, sequence), { signal });\n',
    to: '    if (survey.get(snapshotName(channel, sequence))?.hasProof === true)\n      await store.remove(repositoryKeys.proof(channel, sequence), { signal });\n    await store.remove(repositoryKeys.manifest(channel, sequence), { signal });\n',
  },
  {
    name: 'a reader looks whether its snapshot is there before its lease is',
    aimed: 'gap',
    file: `${SRC}/lib/reader-lease.ts`,
    from: '  let lease: Lease;\n',
    to: '  const there = await store.stat(repositoryKeys.manifest(channel, sequence), { signal });\n  let lease: Lease;\n',
    also: [
      {
        file: `${SRC}/lib/reader-lease.ts`,
        from: 'if ((await store.stat(repositoryKeys.manifest(channel, sequence), { signal })) !== undefined)',
        to: 'if (there !== undefined)',
      },
    ],
  },
  {
    name: 'the pointer is moved back',
    aimed: 'base',
    file: `${SRC}/lib/publish.ts`,
    from: 'if (current !== undefined && current.document.sequence >= sequence)\n',
    to: 'if (current !== undefined && current.document.sequence === sequence)\n',
  },
];
