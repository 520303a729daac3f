/** Every adapter keeps every promise of the ObjectStore contract, or says by a trait why it is not asked to: on real servers, and in one report. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { CaseResult } from '@presync/store/conformance';
import { proveConditionalWrites } from '@presync/store/probe';
import {
  createOpener,
  holesIn,
  reportOf,
  runSubject,
  writeConformanceReport,
} from '../support/conformance-report.ts';
import { SUBJECTS } from '../support/conformance-subjects.ts';
import { needs } from '../support/needs.ts';

const TIMEOUT_MS = 600_000;

const results = new Map<string, readonly CaseResult[]>();
const open = createOpener();

// The adapters have nothing to do with each other, and mostly wait.
describe('the adapters keep every promise', { concurrency: SUBJECTS.length, timeout: TIMEOUT_MS }, () => {
  for (const subject of SUBJECTS) {
    const { skip } = needs(subject.needs?.what ?? '', subject.needs?.found ?? true);
    test(subject.name, { skip, timeout: TIMEOUT_MS }, async (t) => {
      const opened = await open(subject);
      t.after(() => opened.close());
      const cases = await runSubject(opened, t.signal);
      results.set(subject.name, cases);
      for (const { name, outcome, error, left } of cases) {
        if (outcome === 'not applicable') continue;
        await t.test(name, () => {
          if (error !== undefined) throw error;
          assert.deepEqual(left, [], 'objects were left behind');
        });
      }
      if (opened.store.traits.writable)
        await t.test('conditional writes are proved', ({ signal }) =>
          proveConditionalWrites(opened.store, { signal }),
        );
    });
  }
});

const lacking = SUBJECTS.filter((subject) => subject.needs?.found === false).map(({ name }) => name);

test(
  'the report has a row for each promise, a column for each adapter, and no hole',
  needs(`every adapter (${lacking.join(', ')})`, lacking.length === 0),
  async () => {
    const report = reportOf(results);
    await writeConformanceReport(report);
    assert.equal(report.adapters.length, SUBJECTS.length);
    assert.ok(report.cases.length >= 29, `there are only ${report.cases.length} promises`);
    assert.deepEqual(holesIn(report), []);
  },
);

test('a hole in the report is found', () => {
  const ok: CaseResult = {
    name: 'a promise',
    topic: 'objects',
    outcome: 'ok',
    trait: undefined,
    error: undefined,
    milliseconds: 1,
    left: [],
  };
  const whole = new Map(SUBJECTS.map(({ name }) => [name, [ok]]));
  assert.deepEqual(holesIn(reportOf(whole)), []);
  whole.set('file', []);
  assert.deepEqual(holesIn(reportOf(whole)), ['file: a promise: no result']);
});
