/** The steps of the agent's road, in their order. */
export const PHASES = ['resolve', 'preflight', 'lease', 'restore', 'start', 'catch-up', 'join'] as const;

export type Phase = (typeof PHASES)[number];

export interface PhaseTime {
  phase: Phase;
  /** ISO time of its beginning. */
  started: string;
  /** Seconds; up to now for the one under way. */
  seconds: number;
}

export interface Timeline {
  /** Ends the phase that is under way, and begins this one. A phase that comes again goes on. */
  begin(phase: Phase): void;
  /** Ends the last phase. */
  end(): void;
  readonly current: Phase | undefined;
  /** Seconds since the timeline was made. */
  elapsed(): number;
  phases(): PhaseTime[];
}

/** @param onEnd called with each phase that has ended, and all the seconds that it took so far */
export function createTimeline(onEnd: (phase: Phase, seconds: number) => void): Timeline {
  const origin = performance.now();
  const times = new Map<Phase, { started: string; seconds: number }>();
  let current: { phase: Phase; since: number } | undefined;
  const sinceOf = (since: number): number => (performance.now() - since) / 1000;

  function end(): void {
    if (current === undefined) return;
    const time = times.get(current.phase);
    if (time !== undefined) {
      time.seconds += sinceOf(current.since);
      onEnd(current.phase, time.seconds);
    }
    current = undefined;
  }

  return {
    begin(phase) {
      if (current?.phase === phase) return;
      end();
      if (!times.has(phase)) times.set(phase, { started: new Date().toISOString(), seconds: 0 });
      current = { phase, since: performance.now() };
    },
    end,
    get current() {
      return current?.phase;
    },
    elapsed: () => sinceOf(origin),
    phases: () =>
      [...times].map(([phase, { started, seconds }]) => ({
        phase,
        started,
        seconds: seconds + (current?.phase === phase ? sinceOf(current.since) : 0),
      })),
  };
}
