/** The conformance suite on every adapter, as `npm test` runs it: for a report without the rest of the tests. */
import {
  type ConformanceReport,
  createOpener,
  holesIn,
  reportOf,
  runSubject,
  writeConformanceReport,
} from '../support/conformance-report.ts';
import { SUBJECTS } from '../support/conformance-subjects.ts';

/** Writes its report by itself, in the form that the test gives it. */
export async function conformanceCampaign(
  log: (line: string) => void,
): Promise<ConformanceReport & { wrong: string[] }> {
  const lacking = SUBJECTS.filter((subject) => subject.needs?.found === false);
  if (lacking.length > 0) {
    const wrong = lacking.map(({ name, needs }) => `${name} cannot be tried: it needs ${needs?.what}`);
    return { adapters: [], cases: [], wrong };
  }
  const open = createOpener();
  const signal = new AbortController().signal;
  const results = new Map(
    await Promise.all(
      SUBJECTS.map(async (subject) => {
        const opened = await open(subject);
        try {
          const cases = await runSubject(opened, signal);
          log(`${subject.name}: ${cases.filter(({ outcome }) => outcome === 'ok').length} promises kept`);
          return [subject.name, cases] as const;
        } finally {
          await opened.close();
        }
      }),
    ),
  );
  const report = reportOf(results);
  await writeConformanceReport(report);
  return { ...report, wrong: holesIn(report) };
}
