export interface Jitter {
  /** Calls back at once or later. One waits at a time: what is due meanwhile is the same run. */
  soon(begin: () => void): void;
  stop(): void;
}

/** Lets scheduled runs begin up to `jitterMs` later, by chance, so that many nodes do not come at once. */
export function createJitter({
  jitterMs,
  isBusy,
}: {
  jitterMs: () => number;
  /** While a run is under way there is nothing to wait for. */
  isBusy: () => boolean;
}): Jitter {
  let waiting: NodeJS.Timeout | undefined;
  return {
    soon(begin) {
      if (waiting !== undefined) return;
      const delayMs = Math.random() * jitterMs();
      if (delayMs < 1 || isBusy()) {
        begin();
        return;
      }
      waiting = setTimeout(() => {
        waiting = undefined;
        begin();
      }, delayMs);
    },
    stop: () => clearTimeout(waiting),
  };
}
