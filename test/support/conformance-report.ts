/** The one report on all adapters: cases as rows, adapters as columns, every cell green or with the trait that makes it not applicable. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type CaseResult, runConformance } from '@presync/store/conformance';
import { type OpenSubject, SUBJECTS, type Subject } from './conformance-subjects.ts';

const RESULTS = resolve(import.meta.dirname, '../results');

interface Row {
  case: string;
  topic: string;
  /** By adapter: `ok`, `n.a. (read only)`, `FAILED: …`. */
  results: Record<string, string>;
}

export interface ConformanceReport {
  adapters: string[];
  cases: Row[];
}

/** Runs the suite on a subject. Results come also when cases fail. */
export async function runSubject({ store, writer }: OpenSubject, signal: AbortSignal): Promise<CaseResult[]> {
  return runConformance(store, { writer, signal });
}

/** Opens subjects one after another, as they must be; the work on them may overlap. */
export function createOpener(): (subject: Subject) => Promise<OpenSubject> {
  let last: Promise<unknown> = Promise.resolve();
  return (subject) => {
    const opened = last.then(() => subject.open());
    last = opened.catch(() => undefined);
    return opened;
  };
}

/** It has no times in it, so that it changes only when a result does. */
export function reportOf(results: ReadonlyMap<string, readonly CaseResult[]>): ConformanceReport {
  const adapters = SUBJECTS.map(({ name }) => name);
  const rows = new Map<string, Row>();
  for (const adapter of adapters) {
    for (const result of results.get(adapter) ?? []) {
      const row = rows.get(result.name) ?? { case: result.name, topic: result.topic, results: {} };
      row.results[adapter] = cellOf(result);
      rows.set(result.name, row);
    }
  }
  return { adapters, cases: [...rows.values()] };
}

/** Cells that have no result, or a failure: a sound report has none. */
export function holesIn({ adapters, cases }: ConformanceReport): string[] {
  return cases.flatMap((row) =>
    adapters
      .filter((adapter) => !/^ok$|^n\.a\. \(.+\)$/.test(row.results[adapter] ?? ''))
      .map((adapter) => `${adapter}: ${row.case}: ${row.results[adapter] ?? 'no result'}`),
  );
}

export async function writeConformanceReport(report: ConformanceReport): Promise<void> {
  await mkdir(RESULTS, { recursive: true });
  await writeFile(join(RESULTS, 'conformance.json'), `${JSON.stringify(report, null, 2)}\n`);
  await writeFile(join(RESULTS, 'conformance.md'), markdownOf(report));
}

export function markdownOf({ adapters, cases }: ConformanceReport): string {
  return [
    '# What every store promises, and which adapter keeps it',
    '',
    'Written by `npm test` and `npm run campaign -- conformance`, which run the conformance suite on every adapter with a real server behind it.',
    '`n.a.` names the trait for which a promise is not asked of an adapter.',
    '',
    `| promise | ${adapters.join(' | ')} |`,
    `| --- |${' --- |'.repeat(adapters.length)}`,
    ...cases.map(
      (row) => `| ${row.case} | ${adapters.map((adapter) => row.results[adapter] ?? '').join(' | ')} |`,
    ),
    '',
  ].join('\n');
}

function cellOf({ outcome, trait, error }: CaseResult): string {
  if (outcome === 'not applicable') return `n.a. (${trait})`;
  return error === undefined ? 'ok' : `FAILED: ${error.code} ${error.message.replaceAll(/[|\n]/g, ' ')}`;
}
