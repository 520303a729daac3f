import { MAX_LANDING_MS } from '@presync/transfer/clock';
import type { Earlier } from './earlier.ts';
import type { Call } from './gated-store.ts';
import type { Profile } from './profiles.ts';
import type { Random } from './random.ts';
import type { Actor } from './scheduler.ts';

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

/** Calls of an actor: `op key` is matched. */
interface Calls {
  by: string;
  what: RegExp;
}

/** A call is held until others were made, one after the other, as far as a call may take so long. */
interface Hold {
  hold: Calls;
  until: readonly Calls[];
  /** Nothing is held before these calls were made, one after the other. */
  since?: readonly Calls[];
  /** Not only the first such call. */
  every?: boolean;
}

/** A machine is suspended when this call has just been carried out. */
interface Suspension {
  suspend: Calls;
  /** From and to, milliseconds. Default: some hours. */
  ms?: readonly [number, number];
}

/** The answer is lost, and the call is carried out as late as it can be. */
interface Loss {
  lose: Calls;
}

export interface Race {
  /** Default: as the profile says. */
  earlier?: Earlier;
  steps: readonly (Hold | Suspension | Loss)[];
  /** A second collector has its part in it. */
  secondCollector?: boolean;
}

const writer = (what: RegExp): Calls => ({ by: 'writer1', what });
const other = (what: RegExp): Calls => ({ by: 'writer2', what });
const reader = (what: RegExp): Calls => ({ by: 'reader1', what });
const collector = (what: RegExp): Calls => ({ by: 'collector1', what });

const second = (what: RegExp): Calls => ({ by: 'collector2', what });

const PUT_LEASE = /^put leases\//;
const DROP_LEASE = /^remove leases\//;
const LIST_LEASES = /^list leases\/$/;
const PUT_INDEX = /^put .*\/index\.zst$/;
const READ_INDEX = /^read .*\/index\.zst$/;
const REMOVE_CHUNK = /^remove chunks\//;
const PUT_STATE = /^put tombstones\/.*\/state\.json$/;
const PUT_PART = /^put tombstones\/.*\/parts\//;
const READ_PART = /^read tombstones\/.*\/parts\//;
const PUT_NOTE = /^put tombstones\/.*\/kept\//;
const LIST_NOTES = /^list tombstones\/.*\/kept\/$/;
const LIST_COLLECTIONS = /^list tombstones\/$/;
const LIST_PINS = /^list pins\/$/;
const PUT_MANIFEST = /^put .*\/manifest\.json$/;
const READ_POINTER = /^read channels\/.*\/latest\.json$/;
const READ_MANIFEST = /^read .*\/manifest\.json$/;
const STAT_MANIFEST = /^stat .*\/manifest\.json$/;
const REMOVE_MANIFEST = /^remove .*\/manifest\.json$/;
const ANNOUNCE = /^put channels\/.*\/removed\.json$/;

/** The writer has read what is the newest, then another one replaces that, and only then a collector comes. */
const REPLACED: readonly Hold[] = [
  { hold: other(READ_POINTER), until: [writer(PUT_LEASE)] },
  { hold: collector(LIST_COLLECTIONS), until: [other(DROP_LEASE)] },
];

/** The writer's lease lands when the collector has decided what stays, and it reads what it builds upon before that is removed. */
const BUILDS_ON_WHAT_GOES: readonly Hold[] = [
  ...REPLACED,
  { hold: writer(PUT_LEASE), until: [collector(READ_INDEX)] },
  { hold: collector(REMOVE_MANIFEST), until: [writer(/^list chunks\//)] },
];

/** It is only when chunks are removed that the writer gets as far as its index. */
const SLOW_WRITER: Hold = { hold: writer(PUT_INDEX), until: [collector(REMOVE_CHUNK)] };

/**
 * A collector is about to remove chunks when its machine is suspended, for nearly as long as its claim holds. A writer begins when another run has been through.
 */
const SLOW_REMOVAL: readonly (Hold | Suspension)[] = [
  { suspend: collector(READ_PART), ms: [24 * MINUTE, 29 * MINUTE] },
  { hold: writer(READ_POINTER), until: [second(PUT_STATE), second(PUT_STATE)] },
  { hold: collector(REMOVE_CHUNK), until: [writer(PUT_INDEX)], every: true },
];

/** The pin is put and looked after while the collector waits with its next write. */
function pins(looks: readonly Calls[]): readonly Hold[] {
  const pinned = [reader(/^read channels\/.*\/removed\.json$/), reader(STAT_MANIFEST)];
  return [
    { hold: collector(LIST_COLLECTIONS), until: [reader(/^put pins\//)] },
    { hold: reader(/^put pins\//), until: looks },
    { hold: collector(ANNOUNCE), since: looks.slice(0, -1), until: pinned },
    { hold: collector(REMOVE_MANIFEST), since: looks.slice(0, -1), until: pinned },
  ];
}

/** Orders of steps, each of which a rule is there for. */
export const RACES: Readonly<Partial<Record<Profile, readonly Race[]>>> = {
  base: [
    // The writer has published and is gone when the collector looks for leases once more.
    {
      steps: [
        ...BUILDS_ON_WHAT_GOES,
        { hold: collector(LIST_LEASES), since: [collector(REMOVE_MANIFEST)], until: [writer(DROP_LEASE)] },
      ],
    },
    // It is still there.
    { steps: [...BUILDS_ON_WHAT_GOES, SLOW_WRITER] },
    // Its lease lands when the collector has looked for leases for the last time.
    {
      steps: [
        ...REPLACED,
        { hold: writer(PUT_LEASE), until: [collector(LIST_NOTES)] },
        { hold: collector(REMOVE_CHUNK), until: [writer(DROP_LEASE)], every: true },
      ],
    },
    // The other writer has the next number, and is done before. The index has got a tombstone when its manifest comes.
    {
      steps: [
        { hold: other(PUT_INDEX), until: [writer(PUT_INDEX)] },
        { hold: collector(LIST_COLLECTIONS), until: [other(DROP_LEASE)] },
        { hold: writer(PUT_MANIFEST), until: [collector(PUT_PART), collector(PUT_STATE)] },
      ],
    },
  ],
  rescue: [
    // The note lands when the collector has read the notes.
    {
      earlier: 'marked',
      steps: [
        { hold: collector(LIST_COLLECTIONS), until: [writer(PUT_NOTE)] },
        { hold: writer(PUT_NOTE), until: [collector(LIST_NOTES), collector(READ_PART)] },
        { hold: collector(REMOVE_CHUNK), until: [writer(PUT_INDEX)], every: true },
      ],
    },
    // The note lands when the collector has read how far the collection is, and before it claims it.
    {
      earlier: 'marked',
      steps: [
        { hold: writer(PUT_NOTE), until: [collector(PUT_STATE)], every: true },
        { hold: collector(PUT_STATE), until: [writer(PUT_INDEX)] },
        SLOW_WRITER,
      ],
    },
    // The writer takes its lease and reads the tombstones just before those are put.
    {
      steps: [
        { hold: writer(READ_POINTER), until: [collector(PUT_PART)] },
        { hold: collector(PUT_PART), until: [writer(/^(?:put|read) chunks\//)] },
        SLOW_WRITER,
      ],
    },
    // Its lease lands when the collector has looked who holds one.
    {
      steps: [
        { hold: collector(LIST_COLLECTIONS), until: [writer(PUT_LEASE)] },
        { hold: writer(PUT_LEASE), until: [collector(PUT_PART), collector(PUT_STATE)] },
        SLOW_WRITER,
      ],
    },
    // What it has adopted gets tombstones, and its manifest lands when it has long given up.
    {
      steps: [
        { hold: collector(LIST_COLLECTIONS), until: [writer(PUT_INDEX)] },
        { hold: writer(PUT_INDEX), until: [collector(PUT_PART), collector(PUT_STATE)] },
        { lose: writer(PUT_MANIFEST) },
      ],
    },
  ],
  pin: [
    { steps: pins([collector(LIST_PINS), collector(LIST_LEASES)]) },
    { steps: pins([collector(LIST_PINS), collector(LIST_PINS), collector(/./)]) },
  ],
  gap: [
    { steps: [{ suspend: reader(READ_MANIFEST) }] },
    { steps: [{ suspend: reader(STAT_MANIFEST) }] },
    { steps: [{ suspend: writer(READ_POINTER) }] },
    // Meanwhile the claim runs out, and a writer that has waited for that adopts what was to be removed.
    {
      earlier: 'marked',
      steps: [
        { hold: writer(READ_POINTER), until: [collector(LIST_NOTES)] },
        { suspend: collector(LIST_NOTES) },
      ],
    },
    {
      earlier: 'marked',
      secondCollector: true,
      steps: [{ hold: second(LIST_COLLECTIONS), until: [collector(READ_PART)] }, ...SLOW_REMOVAL],
    },
    // Both have found it ripe when they claim it.
    {
      earlier: 'marked',
      secondCollector: true,
      steps: [
        { hold: second(LIST_COLLECTIONS), until: [collector(LIST_COLLECTIONS)] },
        { hold: collector(PUT_STATE), until: [second(PUT_STATE)] },
        ...SLOW_REMOVAL,
      ],
    },
  ],
};

export interface RaceOptions {
  now(): number;
  random: Random;
  suspend(actor: Actor, until: number): Promise<void>;
}

/** To be told of each call when it is made. */
export function createRace({ steps }: Race, { now, random, suspend }: RaceOptions): (call: Call) => void {
  const holds = steps
    .filter((step) => 'hold' in step)
    .map(({ hold, since = [], until, every = false }) => ({
      hold,
      every,
      since: [...since],
      until: [...until],
      held: [] as Call[],
    }));
  const once = steps
    .filter((step): step is Suspension | Loss => !('hold' in step))
    .map((step) => ({ ...step, calls: 'lose' in step ? step.lose : step.suspend, done: false }));

  return (call) => {
    for (const one of holds) {
      if (one.since.length > 0) {
        pass(one.since, call);
        continue;
      }
      pass(one.until, call);
      if (one.until.length === 0) {
        // When what it has waited for has been carried out as well.
        for (const held of one.held.splice(0)) held.due = now() + SECOND;
      } else if (matches(one.hold, call) && (one.every || one.held.length === 0)) {
        call.due = now() + MAX_LANDING_MS - MINUTE;
        one.held.push(call);
      }
    }
    for (const one of once) {
      if (one.done || !matches(one.calls, call)) continue;
      one.done = true;
      if ('lose' in one) {
        call.lose();
        continue;
      }
      void call.early();
      const [least, most] = one.ms ?? [3 * HOUR, 7 * HOUR];
      void suspend(call.actor, now() + least + random.below(most - least));
    }
  };
}

function matches({ by, what }: Calls, { actor, op, key }: Call): boolean {
  return actor.name === by && what.test(`${op} ${key}`);
}

/** Takes the first away when this is it. */
function pass(left: Calls[], call: Call): void {
  if (left[0] !== undefined && matches(left[0], call)) left.shift();
}
