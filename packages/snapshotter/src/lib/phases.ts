import type { SnapshotPhase } from './source-node.ts';

export interface PhaseTime {
  phase: SnapshotPhase;
  /** Milliseconds since 1970. */
  began: number;
  seconds: number;
}

/** Measures the parts of a run: each ends where the next one begins. */
export interface PhaseClock {
  readonly current: SnapshotPhase | undefined;
  enter(phase: SnapshotPhase): void;
  /** Ends the last phase, and tells all. */
  finish(): PhaseTime[];
}

export function createPhaseClock(): PhaseClock {
  const times: PhaseTime[] = [];
  let current: { phase: SnapshotPhase; began: number; at: number } | undefined;
  const leave = (): void => {
    if (current === undefined) return;
    const { phase, began, at } = current;
    times.push({ phase, began, seconds: (performance.now() - at) / 1000 });
    current = undefined;
  };
  return {
    get current() {
      return current?.phase;
    },
    enter(phase) {
      leave();
      current = { phase, began: Date.now(), at: performance.now() };
    },
    finish() {
      leave();
      return times;
    },
  };
}
