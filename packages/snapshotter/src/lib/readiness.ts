import type { Condition } from '@presync/runtime/http';
import type { RunRecord } from '../history.ts';

/** The last run that published. */
export function newestOf(runs: readonly RunRecord[]): RunRecord | undefined {
  return runs.findLast(({ outcome }) => outcome === 'published');
}

/**
 * Whether new machines find a good snapshot: with a bound on its age, when the newest one is young enough; without one, when the last run that came to an
 * end did not fail.
 */
export function readiness(
  runs: readonly RunRecord[],
  { maxAgeMs, now }: { maxAgeMs: number | undefined; now: number },
): Condition {
  const newest = newestOf(runs);
  const last = runs.at(-1);
  const takenAt = newest?.started;
  const ageSeconds = takenAt === undefined ? null : Math.round((now - Date.parse(takenAt)) / 1000);
  const ok =
    maxAgeMs === undefined
      ? last?.outcome !== 'failed'
      : ageSeconds !== null && ageSeconds * 1000 <= maxAgeMs;
  return {
    ok,
    detail: {
      newest: newest === undefined ? null : { sequence: newest.sequence, takenAt, ageSeconds },
      maxAgeSeconds: maxAgeMs === undefined ? null : maxAgeMs / 1000,
      last:
        last === undefined
          ? null
          : { outcome: last.outcome, ended: last.ended, code: last.code, reason: last.reason },
    },
  };
}
