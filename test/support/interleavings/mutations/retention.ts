import { type Mutation, SRC } from './mutation.ts';

/** Which snapshots stay. */
export const RETENTION_MUTATIONS: readonly Mutation[] = [
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
    name: 'young snapshots are removed',
    aimed: 'quick',
    file: `${SRC}/retention.ts`,
    from: 'export const YOUNG_MS = 30 * 60_000;',
    to: 'export const YOUNG_MS = 0;',
  },
  {
    name: 'only clocks that agree are allowed for when a young snapshot is removed',
    aimed: 'quick',
    file: `${SRC}/retention.ts`,
    from: 'export const YOUNG_MS = 30 * 60_000;',
    to: 'export const YOUNG_MS = 10 * 60_000;',
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
];
