import { formatBytes, formatDuration } from '@presync/runtime/units';
import type { Cost } from '@presync/store/cost';
import type { PermissionFinding } from '@presync/store/permissions';
import type { Speed, SpeedPoint } from '@presync/store/speed';
import {
  describeClock,
  lackedBy,
  namesOf,
  type StoreFindings,
  type StoreProblem,
  type StoreWarning,
  summaryOf,
} from './store-findings.ts';

/** The findings for people, line by line. */
export function textOf(
  found: StoreFindings,
  problems: readonly StoreProblem[],
  warnings: readonly StoreWarning[],
): string[] {
  return [
    `${found.location}, checked as a ${found.who}`,
    ...permissionLines(found),
    ...promiseLines(found),
    ...clockLines(found),
    ...speedLines(found),
    ...costLines(found),
    ...section(
      'Problems',
      problems.flatMap(({ code, message, hint }) => told(`${code}: ${message}`, hint)),
    ),
    ...section(
      'Worth knowing',
      warnings.flatMap(({ message, hint }) => told(message, hint)),
    ),
    '',
    problems.length === 0
      ? `All is well: presync can ${found.who === 'writer' ? 'publish to' : 'restore from'} this store.`
      : `${problems.length} ${problems.length === 1 ? 'problem' : 'problems'} found.`,
  ];
}

function section(title: string, lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : ['', title, ...lines];
}

function told(message: string, hint: string | null): string[] {
  return [`  ${message}`, ...(hint === null ? [] : [`    Try: ${hint}`])];
}

const MARKS: Readonly<Record<PermissionFinding['outcome'], string>> = {
  granted: 'ok  ',
  missing: 'FAIL',
  failed: 'FAIL',
  untested: '?   ',
  'not applicable': 'n.a.',
};

function permissionLines(found: StoreFindings): string[] {
  const findings = found.permissions?.findings ?? [];
  if (findings.length === 0) return [];
  const roles = found.who === 'writer' ? (['reader', 'writer'] as const) : (['reader'] as const);
  const width = Math.max(...findings.map(({ permission }) => permission.length));
  const nothing = findings.some(({ outcome }) => outcome === 'untested')
    ? 'nothing that could be tried'
    : 'nothing';
  return section('Permissions', [
    ...findings.map((finding) => {
      const { permission, outcome, neededBy, note } = finding;
      const why = note === undefined ? `needed by ${neededBy.join(', ')}` : note;
      return `  ${MARKS[outcome]}  ${permission.padEnd(width)}  ${namesOf(finding)}; ${why}`;
    }),
    ...roles.map((who) => {
      const lacks = lackedBy(who, found).join(', ');
      return `  To ${who === 'reader' ? 'restore' : 'publish'}, ${lacks === '' ? nothing : lacks} is missing.`;
    }),
  ]);
}

function promiseLines({ promises }: StoreFindings): string[] {
  if (promises === undefined) return [];
  const topics = summaryOf(promises);
  const width = Math.max(...topics.map(({ topic }) => topic.length));
  return section(
    'Promises',
    topics.map(({ topic, ok, failed, notApplicable }) => {
      const tried = ok + failed;
      const trait = promises.find((one) => one.topic === topic && one.trait !== undefined)?.trait;
      const mark = failed > 0 ? 'FAIL' : tried > 0 ? 'ok  ' : 'n.a.';
      const kept = tried > 0 ? `${ok} of ${tried} kept` : '';
      const rest = notApplicable > 0 ? `${notApplicable} not applicable (${trait})` : '';
      return `  ${mark}  ${topic.padEnd(width)}  ${[kept, rest].filter((part) => part !== '').join(', ')}`;
    }),
  );
}

function clockLines({ clock }: StoreFindings): string[] {
  if (clock === undefined) return [];
  const mark = { ok: 'ok  ', warning: 'WARN', error: 'FAIL' }[clock.verdict];
  return section('Clock', [`  ${mark}  ${describeClock(clock)}`]);
}

function speedLines({ speed }: StoreFindings): string[] {
  if (speed === undefined) return [];
  const { objectBytes, put, get } = speed;
  const rows = [
    ['at a time', 'put', 'median', 'p95', 'get', 'median', 'p95'],
    ...[...new Set([...levelsOf(put), ...levelsOf(get)])].map((level) => [
      String(level),
      ...cells(put, level),
      ...cells(get, level),
    ]),
  ];
  const recommended = [
    put?.recommended === undefined ? '' : `snapshot --concurrency ${put.recommended}`,
    get?.recommended === undefined ? '' : `restore --concurrency ${get.recommended}`,
  ].filter((part) => part !== '');
  return section(`Speed, objects of ${formatBytes(objectBytes)}`, [
    ...table(rows),
    recommended.length === 0
      ? '  No call ended in time: the link is too slow for objects of this size.'
      : `  The smallest within 5 % of the best: ${recommended.join(', ')}. Without the option, a restore finds it out by itself.`,
  ]);
}

function levelsOf(speed: Speed | undefined): number[] {
  return (speed?.points ?? []).map(({ concurrency }) => concurrency);
}

function cells(speed: Speed | undefined, level: number): string[] {
  const point: SpeedPoint | undefined = speed?.points.find(({ concurrency }) => concurrency === level);
  if (point === undefined) return ['-', '-', '-'];
  return [
    `${formatBytes(point.bytesPerSecond)}/s`,
    formatDuration(point.medianMs),
    formatDuration(point.p95Ms),
  ];
}

const DOLLARS = new Intl.NumberFormat('en', { style: 'currency', currency: 'USD' });

function costLines({ cost }: StoreFindings): string[] {
  if (cost === undefined) return [];
  const { usage, amounts, costs } = cost;
  const percent = (part: number): string => `${Math.round(part * 100)} %`;
  const rows = [
    ['', 'storage', 'puts', 'gets', 'egress', 'a month', 'in its region'],
    ...costs.map((one) => [
      `${one.provider}, ${one.storageClass}, ${one.region}${one.thisStore ? ' (this store)' : ''}`,
      ...[one.storage, one.puts, one.gets, one.egress, one.total].map((dollars) => DOLLARS.format(dollars)),
      one.totalInRegion === undefined ? '-' : DOLLARS.format(one.totalInRegion),
    ]),
  ];
  return section('Cost', [
    `  A database of ${formatBytes(usage.databaseBytes)}, of which ${percent(usage.compressed)} are stored and ${percent(usage.churn)} are new in each snapshot;`,
    `  ${usage.snapshotsPerDay} snapshots a day, kept for ${Number(usage.keepDays.toFixed(1))} days (${amounts.snapshotsKept} of them); ${usage.restoresPerMonth} restores a month;`,
    `  chunks of ${formatBytes(usage.chunkSize)}. That is ${formatBytes(amounts.storedBytes)} stored, ${amounts.puts} puts, ${amounts.gets} gets and ${formatBytes(amounts.restoredBytes)} restored a month.`,
    ...table(rows),
    '  "a month" has restores over the internet, "in its region" by machines in the same region of the same cloud.',
    ...notesOf(costs),
    '  List prices of the first gigabytes, without free allowances, discounts and taxes, as they were read on the days',
    `  given: ${costs.map(({ provider, asOf, page }) => `${provider} ${asOf} (${page})`).join(', ')}.`,
    '  Whether presync can publish to a provider is another question: this check answers it for the store it is given.',
  ]);
}

function notesOf(costs: readonly Cost[]): string[] {
  return costs.flatMap(({ provider, notes }) => notes.map((note) => `  ${provider}: ${note}.`));
}

/** Columns as wide as they must be; the first to the left, the others to the right. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) => {
    const padded = row.map((cell, column) =>
      column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
    );
    return `  ${padded.join('  ')}`;
  });
}
