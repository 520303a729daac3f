/**
 * How long until a node that starts from a snapshot is ready. An estimate: it leaves out the start of the node, takes the import rate to be constant, and
 * takes the disk to keep up with the link.
 */
export interface ReadyEstimate {
  /** Seconds until the database is in place. */
  restoreSeconds: number;
  /** Blocks that the chain is ahead of the snapshot when the database is in place. */
  blocksBehind: number;
  /** Seconds from then on until the node has the newest block; null when it never gets there. */
  catchUpSeconds: number | null;
  /** Both together. */
  readySeconds: number | null;
}

export interface ReadyFacts {
  /** Seconds since the snapshot was taken. */
  ageSeconds: number;
  blockTimeMs: number;
  /** Blocks that the node imports a second. */
  importRate: number;
  fetchBytes: number;
  bytesPerSecond: number;
}

/** The chain goes on meanwhile: of what the node imports, only what is above the chain's own rate brings it nearer to the head. */
export function estimateReady(facts: ReadyFacts): ReadyEstimate {
  const chainRate = 1000 / facts.blockTimeMs;
  const restoreSeconds = facts.fetchBytes / facts.bytesPerSecond;
  const behind = (facts.ageSeconds + restoreSeconds) * chainRate;
  const gain = facts.importRate - chainRate;
  const catchUpSeconds = gain > 0 ? behind / gain : null;
  return {
    restoreSeconds,
    blocksBehind: Math.round(behind),
    catchUpSeconds,
    readySeconds: catchUpSeconds === null ? null : restoreSeconds + catchUpSeconds,
  };
}

/** True when a warp sync that takes so many seconds has the node ready before the snapshot does. */
export function isWarpFaster({ readySeconds }: ReadyEstimate, warpSeconds: number): boolean {
  return readySeconds === null || readySeconds > warpSeconds;
}
