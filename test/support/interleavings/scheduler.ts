import { stat } from 'node:fs';
import type { Clock } from '@presync/transfer/clock';
import { createRandom, type Random } from './random.ts';

/** How wrong a clock may be. */
export const SKEW_MS = 6 * 60_000;

export interface CollectorRun {
  /** When it began. */
  since: number;
  graceMs: number;
}

/** Somebody at work in a world. */
export interface Actor {
  name: string;
  /** Its clock minus the true time. */
  skewMs: number;
  /** The machine is suspended until then: it neither sleeps nor hears answers. */
  suspendedUntil: number;
  /** Times at which its clock that never jumps stood still. */
  stoodStill: { from: number; until: number }[];
  /** The collector's present run. */
  run: CollectorRun | undefined;
  crashed: boolean;
  done: boolean;
}

/** Something that an actor waits for. `run` carries it out and lets the actor go on. */
export interface Step {
  actor: Actor;
  what: string;
  /** True time before which it cannot happen. */
  due: number;
  /** When the actor began to wait. */
  issued: number;
  run(): Promise<void> | void;
}

export interface Scheduler {
  readonly random: Random;
  /** The true time, milliseconds. */
  now(): number;
  clockOf(actor: Actor): Clock;
  /** Adds a step, and resolves when it was carried out. */
  step(step: Step): void;
  /** Something that happens by itself at a time. */
  later(due: number, what: string, run: () => Promise<void> | void): void;
  /** Runs all steps until every actor is done; calls `between` before each. */
  run(actors: readonly Actor[], between: () => void): Promise<void>;
  /** The order in which things happened. */
  readonly trace: string[];
  /** The mean time that a step takes. */
  stepMs: number;
}

/** Seven actors with a few hundred steps each; a world that does not end has a defect. */
const MAX_STEPS = 60_000;
const NOBODY = createActor('-', 0);
NOBODY.done = true;

export function createActor(name: string, skewMs: number): Actor {
  return {
    name,
    skewMs,
    suspendedUntil: 0,
    stoodStill: [],
    run: undefined,
    crashed: false,
    done: false,
  };
}

/** How long its clock that never jumps has stood still. */
function stoodStillMs({ stoodStill }: Actor, now: number): number {
  return stoodStill.reduce((sum, { from, until }) => sum + Math.min(now, until) - from, 0);
}

/**
 * Lets one step happen at a time, in an order that the seed decides. Time is virtual: each step takes some, and when nobody can go on it is moved to the next moment
 * at which somebody can.
 */
export function createScheduler(seed: number, stepMs: number): Scheduler {
  const random = createRandom(seed);
  const start = Date.parse('2026-01-01T00:00:00.000Z');
  let now = start;
  const steps: Step[] = [];
  const trace: string[] = [];
  let activity = 0;

  function add(step: Step): void {
    activity += 1;
    steps.push(step);
  }

  /**
   * Waits until nobody is at work on this machine. The thread pool has one thread (UV_THREADPOOL_SIZE), so that when a call into it has ended, all
   * earlier ones have; what they led to shows as a file operation, a new step, or at the next turn.
   */
  async function settle(): Promise<void> {
    let seen = activity;
    for (let quiet = 0; quiet < 2; ) {
      await new Promise((resolve) => stat('/', resolve));
      await new Promise((resolve) => setImmediate(resolve));
      const busy = process.getActiveResourcesInfo().some((name) => name.startsWith('F'));
      if (busy || activity !== seen) quiet = 0;
      else quiet += 1;
      seen = activity;
    }
  }

  const dueOf = (step: Step): number => Math.max(step.due, step.actor.suspendedUntil);

  const scheduler: Scheduler = {
    random,
    trace,
    stepMs,
    now: () => now,
    clockOf: (actor) => ({
      now: () => now + actor.skewMs,
      elapsed: () => now - start - stoodStillMs(actor, now),
      sleep: (ms, signal) =>
        new Promise((resolve) => {
          if (signal.aborted || actor.crashed) {
            // Not at once: who sleeps in a loop would let nobody else run.
            setImmediate(resolve);
            return;
          }
          const step: Step = { actor, what: 'sleep', due: now + ms, issued: now, run: () => finish() };
          const finish = (): void => {
            activity += 1;
            const at = steps.indexOf(step);
            if (at >= 0) steps.splice(at, 1);
            signal.removeEventListener('abort', finish);
            resolve();
          };
          signal.addEventListener('abort', finish, { once: true });
          add(step);
        }),
    }),
    step: add,
    later: (due, what, run) => add({ actor: NOBODY, what, due, issued: now, run }),
    async run(actors, between) {
      for (let count = 0; ; count++) {
        await settle();
        if (actors.every(({ done }) => done)) return;
        if (count > MAX_STEPS) throw new Error(`a world without end: ${trace.slice(-20).join(', ')}`);
        between();
        const ready = steps.filter((step) => dueOf(step) <= now);
        const [first] = ready;
        if (first === undefined) {
          // Who reads again what came damaged waits by the real clock.
          if (steps.length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
          else now = Math.min(...steps.map(dueOf));
          continue;
        }
        const chosen = random.pick(ready);
        steps.splice(steps.indexOf(chosen), 1);
        if (chosen.actor !== NOBODY) now += Math.round(random.exponential() * scheduler.stepMs);
        trace.push(`${Math.round((now - start) / 1000)} ${chosen.actor.name} ${chosen.what}`);
        activity += 1;
        await chosen.run();
      }
    },
  };
  return scheduler;
}
