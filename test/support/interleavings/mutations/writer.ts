import { type Mutation, SRC } from './mutation.ts';

/** What writers, readers and those who pin keep to. */
export const WRITER_MUTATIONS: readonly Mutation[] = [
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
    name: 'a reader does not look again whether its snapshot is there',
    aimed: 'gap',
    file: `${SRC}/lib/reader-lease.ts`,
    from: 'if ((await store.stat(repositoryKeys.manifest(channel, sequence), { signal })) !== undefined)',
    to: 'if (lease !== undefined)',
  },
  {
    name: 'the number to begin with is read before the lease is there',
    aimed: 'gap',
    file: `${SRC}/snapshot.ts`,
    from: 'const floor = (await readLatest(repository, channel, { signal }))?.document.sequence ?? 0;',
    to: 'const floor = base ?? 0;',
  },
  {
    name: 'a writer drops its lease although its manifest may still arrive',
    aimed: 'rescue',
    file: `${SRC}/lib/lease.ts`,
    from: 'if (lease.mayLand) return;',
    to: '',
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
    name: 'a lease is held by the clock that stands still in a suspended machine',
    aimed: 'late',
    file: `${SRC}/lib/lease.ts`,
    from: '!lost.signal.aborted && clock.elapsed() < until.elapsed && clock.now() < until.now;',
    to: '!lost.signal.aborted && clock.elapsed() < until.elapsed;',
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
  {
    name: "a writer's lease does not say what it builds upon",
    aimed: 'base',
    file: `${SRC}/snapshot.ts`,
    from: "kind: 'writer', channel, sequence: base,",
    to: "kind: 'writer', channel, sequence: null,",
  },
];
