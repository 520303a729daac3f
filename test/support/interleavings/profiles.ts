import type { Earlier } from './earlier.ts';

/**
 * What a world is aimed at. `any`: whatever the seed brings. `again`: what was removed is needed again, and removals are slow and come twice. `late`: a writer is suspended until
 * its lease is about to end, and its manifest lands as late as it can, while its clock is behind and the collector's ahead. `quick`: snapshots are replaced and removed within minutes,
 * and what was put may land again. `slow`: each call takes minutes, and nothing else is wrong, so that nobody may lose a lease or a claim. The others are aimed at one
 * order of steps each time, as `races.ts` has them: `base` at a writer that builds upon what a collector is about to remove, `rescue` at one that needs what has, or is getting,
 * a tombstone, `pin` at a pin on what is about to go, and `gap` at somebody who has just looked when the machine is suspended for hours.
 */
export type Profile = 'any' | 'again' | 'late' | 'quick' | 'slow' | 'base' | 'rescue' | 'pin' | 'gap';

/** The seed picks one of them. */
export const PROFILES: readonly Profile[] = [
  'any',
  'any',
  'any',
  'again',
  'again',
  'late',
  'quick',
  'slow',
  'base',
  'base',
  'rescue',
  'rescue',
  'pin',
  'gap',
  'gap',
];

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

/** Where there are several values, the seed picks one. */
export interface Shape {
  /** The mean time that a step takes. */
  stepMs: readonly number[];
  graceMs: readonly number[];
  /** Snapshots that retention keeps. With 0, only that it is the newest keeps one. */
  keepLast: readonly number[];
  /** What there is when the world begins. */
  earlier: Earlier;
  /** How probable it is that no call fails or takes long, and nobody crashes or is suspended, but for what the profile is aimed at. */
  calm: number;
  /** Whether anybody may crash or be suspended at any time, where it is not calm. */
  disturbed: boolean;
  /** Whether the writers' clocks are behind, and the collector's ahead, by as much as they may be. */
  apart: boolean;
  /** Each writer takes so many snapshots, or up to two more. */
  rounds: number;
  /** At most, before each snapshot, and before each run of a collector. */
  writerPauseMs: number;
  collectorPauseMs: number;
  /** Who begins within a minute. */
  first: readonly string[];
  /** How probable a second collector is. */
  secondCollector: number;
}

const ANY: Shape = {
  stepMs: [300, 3000, 20_000, 60_000],
  graceMs: [0, 0, 20 * MINUTE, 2 * HOUR],
  keepLast: [0, 1, 2],
  earlier: 'nothing',
  calm: 0.25,
  disturbed: true,
  apart: false,
  rounds: 1,
  writerPauseMs: 2 * HOUR,
  collectorPauseMs: HOUR,
  first: [],
  secondCollector: 0.3,
};

/** The order of a few steps is what counts: little else is wrong, and time passes slowly. */
const RACE: Shape = {
  ...ANY,
  stepMs: [100],
  graceMs: [0],
  keepLast: [0, 1],
  calm: 0.7,
  collectorPauseMs: 3 * MINUTE,
  secondCollector: 0,
};

export const SHAPES: Readonly<Record<Profile, Shape>> = {
  any: ANY,
  again: {
    ...ANY,
    stepMs: [300, 3000],
    earlier: 'given up',
    rounds: 3,
    writerPauseMs: HOUR / 2,
    collectorPauseMs: HOUR / 4,
  },
  late: {
    ...ANY,
    stepMs: [100],
    graceMs: [0],
    calm: 0.7,
    disturbed: false,
    apart: true,
    writerPauseMs: 10 * MINUTE,
  },
  quick: {
    ...ANY,
    stepMs: [100, 300],
    graceMs: [0],
    keepLast: [0, 1],
    earlier: 'unfinished',
    disturbed: false,
    apart: true,
    rounds: 3,
    writerPauseMs: 4 * MINUTE,
    collectorPauseMs: MINUTE,
  },
  slow: { ...ANY, stepMs: [100], calm: 1, earlier: 'given up' },
  base: { ...RACE, earlier: 'without notes', first: ['writer1', 'writer2'] },
  rescue: { ...RACE, earlier: 'given up', first: ['writer1'] },
  pin: { ...RACE, earlier: 'replaced', first: ['reader1'] },
  gap: {
    ...RACE,
    earlier: 'given up',
    rounds: 2,
    writerPauseMs: HOUR,
    collectorPauseMs: HOUR / 4,
    first: ['reader1', 'writer1'],
  },
};
