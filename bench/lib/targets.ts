import type { Arrangement } from './competitors.ts';
import { durableSeconds, findCell, type Results, type Sample, type Step, spread } from './results.ts';

/** One of DESIGN 8's numbers, as this run shows it. */
export interface Target {
  what: string;
  tree: string;
  wanted: string;
  measured: string;
  met: boolean;
}

const MEMORY_LIMIT = 512 * 1024 * 1024;

/** DESIGN 8's numbers that this benchmark can speak to; those whose tools were not run are left out. */
export function targetsOf(results: Results): Target[] {
  const targets: Target[] = [];
  for (const { kind } of results.trees) {
    const pick = (
      arrangement: Arrangement,
      step: Step,
      tool: string,
      value: (sample: Sample) => number,
    ): number | undefined => {
      const cell = findCell(results, kind, arrangement, step, tool);
      return cell === undefined ? undefined : spread(cell.samples.map(value)).median;
    };
    const compare = (what: string, arrangement: Arrangement, rival: string, factor: number): void => {
      const mine = pick(arrangement, 'restore', 'presync', durableSeconds);
      const theirs = pick(arrangement, 'restore', rival, durableSeconds);
      if (mine === undefined || theirs === undefined) return;
      const ratio = theirs / mine;
      targets.push({
        what,
        tree: kind,
        wanted: `≥ ${factor.toFixed(1)} ×`,
        measured: `${ratio.toFixed(2)} ×`,
        met: ratio >= factor,
      });
    };
    compare('restore, limited connections, against curl | zstd -d | tar x', 'throttled', 'tar | zstd', 8);
    compare('restore, limited connections, against rclone', 'throttled', 'rclone', 1);
    compare('restore, limited connections, against restic', 'throttled', 'restic', 1);
    compare('restore, S3 on loopback, against curl | zstd -d | tar x', 'loopback', 'tar | zstd', 1);
    compare('restore, S3 on loopback, against restic', 'loopback', 'restic', 2);
    compare('restore, file store, against zstd -d | tar x', 'file', 'tar | zstd', 1);
    compare('restore, file store, against restic', 'file', 'restic', 2);

    const memory = results.cells
      .filter((cell) => cell.tree === kind && cell.tool === 'presync')
      .flatMap((cell) => cell.samples.map((sample) => sample.peakRssBytes));
    if (memory.length > 0) {
      const most = Math.max(...memory);
      targets.push({
        what: 'memory of snapshot and restore',
        tree: kind,
        wanted: '≤ 512 MiB',
        measured: `${(most / 1024 ** 2).toFixed(0)} MiB`,
        met: most <= MEMORY_LIMIT,
      });
    }
    const narrowest = narrowestShare(
      results,
      kind,
      pick('throttled', 'restore', 'presync', durableSeconds),
      pick('throttled', 'restore', 'presync', (sample) => sample.receivedBytes ?? 0),
    );
    if (narrowest !== undefined) targets.push(narrowest);
    const uploaded = pick('throttled', 'snapshot again', 'presync', (sample) => sample.sentBytes ?? 0);
    const changed = results.trees.find((tree) => tree.kind === kind)?.changedBytes;
    if (kind === 'rocksdb' && uploaded !== undefined && changed !== undefined) {
      const ratio = results.trees.find((tree) => tree.kind === kind)?.ratio ?? 1;
      const share = uploaded / (changed * ratio);
      targets.push({
        what: 'uploaded ÷ compressed new bytes (everything sent, headers too)',
        tree: kind,
        wanted: '≤ 1.1',
        measured: share.toFixed(2),
        met: share <= 1.1,
      });
    }
    const stored = pick('throttled', 'snapshot again', 'presync', (sample) => sample.storedBytes);
    const fetched = pick('throttled', 'restore over', 'presync', (sample) => sample.receivedBytes ?? 0);
    if (stored !== undefined && fetched !== undefined) {
      const share = fetched / stored;
      targets.push({
        what: 'restore over an older one: bytes fetched ÷ bytes that the second snapshot stored',
        tree: kind,
        wanted: '≤ 1.05',
        measured: share.toFixed(2),
        met: share <= 1.05,
      });
    }
  }
  return targets;
}

/** The rate of a limited restore against the narrower of the proxy's and the disk's own ceiling. */
function narrowestShare(
  results: Results,
  kind: string,
  mine: number | undefined,
  received: number | undefined,
): Target | undefined {
  const tree = results.trees.find((candidate) => candidate.kind === kind);
  const link = Math.max(
    0,
    ...results.ceilings
      .filter((ceiling) => ceiling.what === 'proxy with limits')
      .map((ceiling) => ceiling.bytesPerSecond),
  );
  if (mine === undefined || received === undefined || tree === undefined || link === 0) return undefined;
  const floor = Math.max(received / link, tree.allocatedBytes / results.disk.writeBytesPerSecond);
  return {
    what: 'restore, limited connections, against the narrower of proxy (curl to /dev/null) and disk (write with fsync), each alone',
    tree: kind,
    wanted: '≥ 90 %',
    measured: `${((floor / mine) * 100).toFixed(0)} %`,
    met: floor / mine >= 0.9,
  };
}
