/** What retention keeps of a channel. A rule that is not given keeps nothing; without any rule everything is kept. */
export interface KeepRules {
  /** That many of the newest. */
  last?: number | undefined;
  /** The newest of each of so many hours, days, weeks (from Monday on) and months in which there is one, in UTC. */
  hourly?: number | undefined;
  daily?: number | undefined;
  weekly?: number | undefined;
  monthly?: number | undefined;
}

export interface RetainedSnapshot {
  sequence: number;
  /** As its manifest says; undefined when the manifest cannot be read. */
  created: string | undefined;
  /** False when it is known to lack something, or is in quarantine: it is then no use as one of those that are kept. */
  sound: boolean;
}

export interface RetentionState {
  /** What the channel's pointer names; undefined when there is none. */
  newest: number | undefined;
  pinned: ReadonlySet<number>;
  /** Those that a lease names. */
  inUse: ReadonlySet<number>;
  now: number;
}

/** A manifest that was put twice may come back for so long after it was removed, and the clocks of who put and who removes it differ. */
export const YOUNG_MS = 30 * 60_000;

const PERIODS = {
  hourly: (time: number) => Math.floor(time / 3_600_000),
  daily: (time: number) => Math.floor(time / 86_400_000),
  // The first of January 1970 was a Thursday.
  weekly: (time: number) => Math.floor((time / 86_400_000 + 3) / 7),
  monthly: (time: number) => {
    const date = new Date(time);
    return date.getUTCFullYear() * 12 + date.getUTCMonth();
  },
} as const;

const RULES = ['hourly', 'daily', 'weekly', 'monthly'] as const;

/** Why each snapshot stays, by its sequence number. One without a reason is to be removed. */
export function retain(
  snapshots: readonly RetainedSnapshot[],
  rules: KeepRules,
  state: RetentionState,
): Map<number, string[]> {
  const reasons = new Map(snapshots.map(({ sequence }) => [sequence, new Set<string>()]));
  const keep = (sequence: number, why: string): void => {
    reasons.get(sequence)?.add(why);
  };
  const { newest } = state;
  const noRule = [rules.last, ...RULES.map((rule) => rules[rule])].every((count) => count === undefined);
  for (const { sequence, created } of snapshots) {
    if (newest === undefined || sequence > newest) keep(sequence, 'not promoted');
    if (sequence === newest) keep(sequence, 'newest');
    if (state.pinned.has(sequence)) keep(sequence, 'pinned');
    if (state.inUse.has(sequence)) keep(sequence, 'in use');
    if (created === undefined) keep(sequence, 'unreadable');
    else if (state.now - Date.parse(created) < YOUNG_MS) keep(sequence, 'young');
    if (noRule) keep(sequence, 'no rule');
  }
  const ordered = snapshots
    .filter(({ sequence, created }) => created !== undefined && newest !== undefined && sequence <= newest)
    .toSorted((a, b) => b.sequence - a.sequence);
  // Damaged ones stay as long as they would if they were sound, and take no place from one that is.
  for (const candidates of [ordered, ordered.filter(({ sound }) => sound)]) {
    for (const { sequence } of candidates.slice(0, rules.last ?? 0)) keep(sequence, 'last');
    for (const rule of RULES) keepPeriods(candidates, rule, rules[rule] ?? 0, keep);
  }
  return new Map([...reasons].map(([sequence, why]) => [sequence, [...why]]));
}

function keepPeriods(
  newestFirst: readonly RetainedSnapshot[],
  rule: (typeof RULES)[number],
  count: number,
  keep: (sequence: number, why: string) => void,
): void {
  const periods = new Set<number>();
  for (const { sequence, created } of newestFirst) {
    const period = PERIODS[rule](Date.parse(created ?? ''));
    if (periods.has(period)) continue;
    if (periods.size >= count) return;
    periods.add(period);
    keep(sequence, rule);
  }
}
