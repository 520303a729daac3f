import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PresyncError } from '@presync/runtime/errors';
import type { CaseResult } from '@presync/store/conformance';
import type { PermissionFinding } from '@presync/store/permissions';
import { judgeClockSkew } from '@presync/store/server-time';
import { textOf } from '../src/lib/store-check-text.ts';
import { problemsOf, type StoreFindings, warningsOf } from '../src/lib/store-findings.ts';

const NOTHING: StoreFindings = {
  location: 's3://bucket',
  who: 'writer',
  channelNamed: false,
  permissions: undefined,
  promises: undefined,
  clock: undefined,
  speed: undefined,
  cost: undefined,
  left: [],
  errors: [],
  untried: [],
};

function finding(permission: PermissionFinding['permission'], refused: boolean): PermissionFinding {
  return {
    permission,
    outcome: refused ? 'missing' : 'granted',
    names: [`s3:${permission}`],
    neededBy: ['restore'],
    error: refused ? new PresyncError('STORE_FORBIDDEN', 'refused') : undefined,
    note: undefined,
    hint: refused ? `allow ${permission}` : undefined,
  };
}

function readerWithoutList(channelNamed: boolean): StoreFindings {
  return {
    ...NOTHING,
    who: 'reader',
    channelNamed,
    permissions: {
      findings: [finding('get', false), finding('list', true)],
      absenceRefused: true,
      objects: [],
    },
  };
}

test('nothing wrong is no problem', () => {
  assert.deepEqual([problemsOf(NOTHING), warningsOf(NOTHING)], [[], []]);
});

test('a store that is not there ends with 5, and other errors with their own', () => {
  const errors = [
    new PresyncError('STORE_NOT_FOUND', 'no bucket', { hint: 'make it' }),
    new PresyncError('NO_SPACE', 'full'),
    new PresyncError('STORE_FAILED', 'broken'),
  ];
  const problems = problemsOf({ ...NOTHING, errors });
  assert.deepEqual(
    problems.map(({ code, exit, hint }) => [code, exit, hint]),
    [
      ['STORE_NOT_FOUND', 5, 'make it'],
      ['NO_SPACE', 6, null],
      ['STORE_FAILED', 7, null],
    ],
  );
});

test('a clock that is off is a warning, and then a problem', () => {
  const at = (minutes: number): StoreFindings => ({
    ...NOTHING,
    clock: judgeClockSkew(minutes * 60_000, 1000),
  });
  assert.deepEqual([problemsOf(at(0.5)).length, warningsOf(at(0.5)).length], [0, 0]);
  assert.deepEqual(problemsOf(at(2)), []);
  const [warning] = warningsOf(at(-2));
  assert.match(warning?.message ?? '', /2m behind that of this machine/);
  assert.match(warning?.hint ?? '', /chrony/);
  assert.deepEqual(warningsOf(at(20)), []);
  const [problem] = problemsOf(at(20));
  assert.deepEqual([problem?.about, problem?.exit], ['clock', 7]);
  assert.match(problem?.message ?? '', /20m ahead of/);
});

test('a reader who may not list needs it, unless the channel is named', () => {
  const [problem, ...others] = problemsOf(readerWithoutList(false));
  assert.deepEqual(others, []);
  assert.match(problem?.message ?? '', /^missing: s3:list /);
  assert.equal(problem?.hint, 'allow list');
  assert.match(
    textOf(readerWithoutList(false), [], []).join('\n'),
    /^ {2}To restore, s3:list is missing\.$/m,
  );
  assert.deepEqual(problemsOf(readerWithoutList(true)), []);
  assert.match(warningsOf(readerWithoutList(true))[0]?.message ?? '', /every command needs --channel/);
});

test('that absence is refused is told, unless all reading is', () => {
  const tells = (found: StoreFindings): boolean =>
    warningsOf(found).some(({ message }) => message.includes('403'));
  assert.equal(tells(readerWithoutList(false)), true);
  const nothing = { findings: [finding('get', true)], absenceRefused: true, objects: [] };
  assert.equal(tells({ ...NOTHING, permissions: nothing }), false);
});

test('who is refused everything learns that first', () => {
  const findings = [finding('get', true), finding('list', true)];
  const permissions = { findings, absenceRefused: true, objects: [] };
  const problems = problemsOf({ ...NOTHING, permissions });
  assert.equal(problems.length, 3);
  assert.match(problems[0]?.message ?? '', /^everything was refused, so the credentials may be wrong/);
});

test('a broken promise is told in full, and what was left is named', () => {
  const broken: CaseResult = {
    name: 'one of many create-only puts wins',
    topic: 'conditional writes',
    outcome: 'failed',
    trait: undefined,
    error: new PresyncError('STORE_FAILED', '3 of 8 puts won', { hint: 'use another store' }),
    milliseconds: 1,
    left: [],
  };
  const found: StoreFindings = {
    ...NOTHING,
    promises: [broken],
    left: [{ key: 'checks/1/a', reason: 'refused' }],
  };
  const problems = problemsOf(found);
  assert.deepEqual(
    problems.map(({ about, message, exit }) => [about, message, exit]),
    [
      ['promise', 'not true that one of many create-only puts wins: 3 of 8 puts won', 7],
      ['clean-up', '1 object of the check could not be removed again: checks/1/a (refused)', 7],
    ],
  );
  const text = textOf(found, problems, []).join('\n');
  assert.match(text, /FAIL {2}conditional writes {2}0 of 1 kept/);
  assert.match(text, /Try: use another store/);
  assert.match(text, /^2 problems found\.$/m);
});
