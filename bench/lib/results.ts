import type { Ceiling } from './ceiling.ts';
import type { Arrangement } from './competitors.ts';
import type { Measurement } from './measure.ts';
import type { TreeKind } from './tree-plan.ts';

/**
 * - `snapshot`: of the first generation into an empty store.
 * - `restore`: of that to an empty target.
 * - `snapshot again`: of the second generation, after churn.
 * - `restore over`: of the second generation to the target that holds the first.
 */
export type Step = 'snapshot' | 'restore' | 'snapshot again' | 'restore over';

export const STEPS: readonly Step[] = ['snapshot', 'restore', 'snapshot again', 'restore over'];

export interface Sample extends Measurement {
  /** Bytes from the client to the store through the proxy; absent without a proxy. */
  sentBytes?: number | undefined;
  receivedBytes?: number | undefined;
  connections?: number | undefined;
  /** CPU seconds of the store's server. */
  serverSeconds: number;
  proxySeconds: number;
  /** CPU seconds of everything else on the machine meanwhile, this benchmark's own watching (some 0.03 s a second) with it. */
  otherSeconds: number;
  /** Bytes of the objects that the step wrote or replaced. */
  storedBytes: number;
}

export interface Cell {
  tree: TreeKind;
  arrangement: Arrangement;
  tool: string;
  step: Step;
  /** The script, as it was run. */
  script: string;
  samples: Sample[];
}

export interface TreeFacts {
  kind: TreeKind;
  files: number;
  /** Apparent bytes of the first generation. */
  bytes: number;
  /** Bytes that it takes on the disk: without holes. */
  allocatedBytes: number;
  /** zstd -3 of the whole as one tar with holes kept, ÷ allocated bytes. */
  ratio: number;
  changedBytes: number;
  changedFiles: number;
}

export interface Results {
  name: string;
  date: string;
  options: { size: number; repeat: number; seed: number; bytesPerSecond: number; firstByteMs: number };
  machine: Record<string, string | number>;
  versions: Record<string, string>;
  trees: TreeFacts[];
  ceilings: Ceiling[];
  /** Bytes a second: sequential write with fsync, and read with an empty cache. */
  disk: { writeBytesPerSecond: number; readBytesPerSecond: number };
  cells: Cell[];
  /** What was left out and why, such as a tool that failed. */
  remarks: string[];
}

export interface Spread {
  median: number;
  min: number;
  max: number;
}

export function spread(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  const median = sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
  return { median, min: sorted[0] ?? Number.NaN, max: sorted.at(-1) ?? Number.NaN };
}

/** Seconds until the bytes are on the disk: the command and the sync after it. */
export function durableSeconds(sample: Sample): number {
  return sample.wallSeconds + sample.syncSeconds;
}

export function findCell(
  results: Results,
  tree: TreeKind,
  arrangement: Arrangement,
  step: Step,
  tool: string,
): Cell | undefined {
  return results.cells.find(
    (cell) =>
      cell.tree === tree &&
      cell.arrangement === arrangement &&
      cell.step === step &&
      cell.tool === tool &&
      cell.samples.length > 0,
  );
}
