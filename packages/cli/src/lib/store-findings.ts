import { type ErrorCode, PresyncError } from '@presync/runtime/errors';
import { formatDuration } from '@presync/runtime/units';
import type { CaseResult, LeftObject, Topic } from '@presync/store/conformance';
import { leftBehind } from '@presync/store/conformance';
import type { Amounts, Cost, Usage } from '@presync/store/cost';
import {
  missingFor,
  type PermissionFinding,
  type Permissions,
  refusedAltogether,
} from '@presync/store/permissions';
import type { ClockSkew } from '@presync/store/server-time';
import type { Speed } from '@presync/store/speed';

/** What a check found out about a store. What was not tried is undefined. */
export interface StoreFindings {
  location: string;
  who: 'writer' | 'reader';
  /** For a reader who names its channel, a listing is a convenience. */
  channelNamed: boolean;
  permissions: Permissions | undefined;
  promises: readonly CaseResult[] | undefined;
  clock: ClockSkew | undefined;
  speed: { objectBytes: number; put: Speed | undefined; get: Speed | undefined } | undefined;
  cost: { usage: Usage; amounts: Amounts; costs: readonly Cost[] } | undefined;
  left: readonly LeftObject[];
  /** What ended the check, or a part of it. */
  errors: readonly PresyncError[];
  /** Why promises or speed were not tried. */
  untried: readonly string[];
}

/** Something that must be put right before presync can rely on the store. */
export interface StoreProblem {
  about: 'store' | 'permission' | 'promise' | 'clock' | 'clean-up';
  code: ErrorCode;
  message: string;
  hint: string | null;
  exit: number;
}

/** Something to know of. */
export interface StoreWarning {
  about: 'permission' | 'clock' | 'check';
  message: string;
  hint: string | null;
}

/** A store that is not there is not found, for whoever checks it: the exit code of scripts that make it then. */
const NOT_FOUND_EXIT = 5;

export function problemsOf(found: StoreFindings): StoreProblem[] {
  const { errors, permissions, promises = [], clock, left } = found;
  const problems = errors.map((error) => problem('store', error));
  const findings = permissions?.findings ?? [];
  const all = refusedAltogether(findings);
  if (all !== undefined) problems.push(problem('store', everythingRefused(all)));
  for (const finding of neededAndMissing(found)) problems.push(missing(finding));
  for (const { name, error } of promises) {
    if (error === undefined) continue;
    const { code, message, hint = null, exitCode } = error;
    problems.push({
      about: 'promise',
      code,
      message: `not true that ${name}: ${message}`,
      hint,
      exit: exitCode,
    });
  }
  if (clock?.verdict === 'error') problems.push(problem('clock', clockError(clock)));
  if (left.length > 0) problems.push(problem('clean-up', leftBehind(left)));
  return problems;
}

export function warningsOf(found: StoreFindings): StoreWarning[] {
  const { permissions, clock, untried } = found;
  const warnings: StoreWarning[] = [];
  const findings = permissions?.findings ?? [];
  const needed = new Set(neededAndMissing(found));
  for (const finding of missingFor(found.who, findings)) {
    if (needed.has(finding)) continue;
    warnings.push({
      about: 'permission',
      message: `missing: ${namesOf(finding)} (list); without it, every command needs --channel`,
      hint: finding.hint ?? null,
    });
  }
  const mayGet = findings.some(({ permission, outcome }) => permission === 'get' && outcome !== 'missing');
  if (permissions?.absenceRefused === true && mayGet) {
    warnings.push({
      about: 'permission',
      message:
        'the store refuses to tell that an object is absent, as S3 does (403) without the permission to list: what was never written looks forbidden',
      hint: findings.find(({ permission }) => permission === 'list')?.hint ?? null,
    });
  }
  if (clock?.verdict === 'warning') {
    const { message, hint = null } = clockError(clock);
    warnings.push({ about: 'clock', message, hint });
  }
  for (const message of untried) warnings.push({ about: 'check', message, hint: null });
  return warnings;
}

/** Of the names of a permission, all of them, since one or the other is meant. */
export function namesOf({ names }: Pick<PermissionFinding, 'names'>): string {
  return names.join(' or ');
}

/** The names of what somebody lacks, once each. */
export function lackedBy(
  who: StoreFindings['who'],
  { permissions }: Pick<StoreFindings, 'permissions'>,
): string[] {
  const missing = missingFor(who, permissions?.findings ?? []).filter(({ outcome }) => outcome === 'missing');
  return [...new Set(missing.flatMap(({ names }) => names))];
}

export interface TopicSummary {
  topic: Topic;
  ok: number;
  failed: number;
  notApplicable: number;
}

export function summaryOf(promises: readonly CaseResult[]): TopicSummary[] {
  const topics = [...new Set(promises.map(({ topic }) => topic))];
  return topics.map((topic) => {
    const count = (outcome: CaseResult['outcome']): number =>
      promises.filter((one) => one.topic === topic && one.outcome === outcome).length;
    return { topic, ok: count('ok'), failed: count('failed'), notApplicable: count('not applicable') };
  });
}

export function describeClock({ skewMs, uncertaintyMs }: ClockSkew): string {
  const off = formatDuration(Math.abs(skewMs));
  const sure = `give or take ${formatDuration(uncertaintyMs)}`;
  if (Math.abs(skewMs) <= uncertaintyMs) return `the store's clock agrees with that of this machine, ${sure}`;
  return `the store's clock is ${off} ${skewMs < 0 ? 'behind' : 'ahead of'} that of this machine, ${sure}`;
}

/** Missing permissions without which `who` cannot work. */
function neededAndMissing({ who, channelNamed, permissions }: StoreFindings): PermissionFinding[] {
  return missingFor(who, permissions?.findings ?? []).filter(
    ({ permission }) => !(who === 'reader' && permission === 'list' && channelNamed),
  );
}

function missing(finding: PermissionFinding): StoreProblem {
  const { permission, outcome, neededBy, error, note, hint } = finding;
  const what =
    outcome === 'missing'
      ? `missing: ${namesOf(finding)} (${permission}; needed by ${neededBy.join(', ')})`
      : `${permission} (${namesOf(finding)}) could not be found out`;
  const why = note ?? error?.message;
  return {
    about: 'permission',
    code: error?.code ?? 'STORE_FORBIDDEN',
    message: why === undefined ? what : `${what}: ${why}`,
    hint: hint ?? null,
    exit: error?.exitCode ?? 7,
  };
}

function everythingRefused({ code, message, hint }: PresyncError): PresyncError {
  return new PresyncError(
    code,
    `everything was refused, so the credentials may be wrong, or somebody else's: ${message}`,
    { hint },
  );
}

/** What to do about a clock that is off. */
export function clockError(clock: ClockSkew): PresyncError {
  return new PresyncError('STORE_FAILED', describeClock(clock), {
    hint: "set this machine's clock (timedatectl, chrony): stores refuse what is signed at another time",
  });
}

function problem(about: StoreProblem['about'], error: PresyncError): StoreProblem {
  const { code, message, hint = null, exitCode } = error;
  return { about, code, message, hint, exit: code === 'STORE_NOT_FOUND' ? NOT_FOUND_EXIT : exitCode };
}
