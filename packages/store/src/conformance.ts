import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ioError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { CHECKS_PREFIX } from './keys.ts';
import type { CaseContext, Cases } from './lib/conformance-context.ts';
import { ABSENCE_CASES, LIST_CASES, RANGE_CASES, READ_CASES } from './lib/conformance-reads.ts';
import {
  ABORT_CASES,
  CONDITION_CASES,
  CONSISTENCY_CASES,
  READER_ABORT_CASES,
  READER_CASES,
  WRITE_CASES,
} from './lib/conformance-writes.ts';
import { type LeftObject, trackPuts } from './lib/tracked-puts.ts';
import type { CallOptions, ObjectStore, StoreTraits } from './object-store.ts';

export type { LeftObject } from './lib/tracked-puts.ts';

export interface ConformanceSizes {
  /** Bytes of the largest object. Default 20 MiB. */
  largeBytes?: number | undefined;
  /** Objects in the listing that is to need several pages. Default 1100; S3 gives 1000 a page. */
  manyObjects?: number | undefined;
}

export interface ConformanceOptions extends ConformanceSizes {
  /** Of the store: what it cannot do is not asked of it. Default: it can do everything. */
  traits?: StoreTraits | undefined;
}

export interface CaseOptions extends CallOptions {
  /** For a store that can only be read: another one that holds the same objects and can be written. */
  writer?: ObjectStore | undefined;
}

/** What a promise is about. */
export type Topic =
  | 'objects'
  | 'ranges'
  | 'absence'
  | 'listing'
  | 'consistency'
  | 'conditional writes'
  | 'writes'
  | 'aborts';

/** One promise of the ObjectStore contract. */
export interface ConformanceCase {
  /** As a sentence that is true of a store that passes. */
  name: string;
  topic: Topic;
  /** The trait for which the promise is not asked of a store; undefined when it is. */
  notApplicable(traits: StoreTraits): string | undefined;
  /**
   * Puts the store to the test, on keys of its own under `checks/`, which it removes again. May run beside others.
   * Rejects with STORE_FAILED and what the store did when the promise is broken; other codes are the store's errors.
   */
  run(store: ObjectStore, options: CaseOptions): Promise<void>;
}

export interface CaseResult {
  name: string;
  topic: Topic;
  outcome: 'ok' | 'failed' | 'not applicable';
  /** Why it is not applicable, as `read only`. */
  trait: string | undefined;
  /** Why it failed. */
  error: PresyncError | undefined;
  milliseconds: number;
  /** What the case could not remove again. */
  left: readonly LeftObject[];
}

export interface RunConformanceOptions extends ConformanceSizes, CaseOptions {
  /** Cases at a time. Default 1. */
  concurrency?: number | undefined;
  /** Told of each result as it comes, and also of a case that was stopped by the signal. */
  onResult?: ((result: CaseResult) => void) | undefined;
}

interface Group {
  topic: Topic;
  needs?: 'writing' | 'listing' | 'read only';
  cases: Cases;
}

const GROUPS: readonly Group[] = [
  { topic: 'objects', cases: READ_CASES },
  { topic: 'ranges', cases: RANGE_CASES },
  { topic: 'absence', cases: ABSENCE_CASES },
  { topic: 'listing', needs: 'listing', cases: LIST_CASES },
  { topic: 'consistency', needs: 'writing', cases: CONSISTENCY_CASES },
  { topic: 'conditional writes', needs: 'writing', cases: CONDITION_CASES },
  { topic: 'writes', needs: 'writing', cases: WRITE_CASES },
  { topic: 'aborts', needs: 'writing', cases: ABORT_CASES },
  { topic: 'writes', needs: 'read only', cases: READER_CASES },
  { topic: 'aborts', needs: 'read only', cases: READER_ABORT_CASES },
];

/** The cases that are asked of a store with these traits. They write some 100 MB. */
export function storeConformance(options: ConformanceOptions = {}): ConformanceCase[] {
  const { traits = { writable: true, listable: true }, ...sizes } = options;
  return allCases(sizes).filter((one) => one.notApplicable(traits) === undefined);
}

/**
 * Puts a store to the test of everything that the comment on `ObjectStore` promises. A store adapter's test runs it; `presync store check`
 * runs it on the user's own store. It writes some 100 MB, and whatever happens removes them again as far as the store lets it.
 *
 * @throws PresyncError ABORTED, or the signal's reason; NO_SPACE and the like of this machine's folder for temporary files. What the store does is
 * a result.
 */
export async function runConformance(
  store: ObjectStore,
  { concurrency = 1, onResult, writer, signal, ...sizes }: RunConformanceOptions,
): Promise<CaseResult[]> {
  const cases = allCases(sizes);
  const results: CaseResult[] = [];
  let next = 0;
  async function work(): Promise<void> {
    for (let index = next++; index < cases.length; index = next++) {
      const one = cases[index];
      if (one === undefined) return;
      throwIfAborted(signal);
      const result = await resultOf(one, store, { writer, signal });
      results[index] = result;
      onResult?.(result);
      throwIfAborted(signal);
    }
  }
  const ended = await Promise.allSettled(Array.from({ length: concurrency }, work));
  for (const worker of ended) if (worker.status === 'rejected') throw worker.reason;
  return results;
}

interface Case extends ConformanceCase {
  /** Runs it and cleans up. Gives why it failed, and what is left. */
  attempt(store: ObjectStore, options: CaseOptions): Promise<{ failure: unknown; left: LeftObject[] }>;
}

function allCases(sizes: ConformanceSizes): Case[] {
  return GROUPS.flatMap(({ topic, needs, cases }) =>
    Object.entries(cases).map(([name, check]) => {
      const attempt: Case['attempt'] = (store, options) => inOwnCorner(store, options, sizes, check);
      return {
        name,
        topic,
        notApplicable: ({ writable, listable }) => {
          if (needs === 'writing' && !writable) return 'read only';
          if (needs === 'read only' && writable) return 'writable';
          return needs === 'listing' && !listable ? 'no listing' : undefined;
        },
        attempt,
        run: async (store, options) => {
          const { failure, left } = await attempt(store, options);
          if (failure !== undefined) throw failure;
          if (left.length > 0) throw leftBehind(left);
        },
      };
    }),
  );
}

async function resultOf(one: Case, store: ObjectStore, options: CaseOptions): Promise<CaseResult> {
  const { name, topic } = one;
  const trait = one.notApplicable(store.traits);
  if (trait !== undefined) {
    const nothing = { error: undefined, milliseconds: 0, left: [] };
    return { name, topic, outcome: 'not applicable', trait, ...nothing };
  }
  const began = performance.now();
  const { failure, left } = await one.attempt(store, options);
  const milliseconds = performance.now() - began;
  if (failure === undefined)
    return { name, topic, outcome: 'ok', trait: undefined, error: undefined, milliseconds, left };
  const error =
    failure instanceof PresyncError
      ? failure
      : new PresyncError('INTERNAL', messageOf(failure), { cause: failure });
  return { name, topic, outcome: 'failed', trait: undefined, error, milliseconds, left };
}

async function inOwnCorner(
  store: ObjectStore,
  { writer = store, signal }: CaseOptions,
  { largeBytes = 20 * 1024 ** 2, manyObjects = 1100 }: ConformanceSizes,
  check: (context: CaseContext) => Promise<void>,
): Promise<{ failure: unknown; left: LeftObject[] }> {
  const corner = newCorner();
  const tracked = trackPuts(writer, corner);
  const scratch = await mkdtemp(join(tmpdir(), 'presync-check-')).catch((error: unknown) => {
    throw ioError(error, 'make a folder in', tmpdir());
  });
  let failure: unknown;
  try {
    await check({
      store: store === writer ? tracked.store : store,
      writer: tracked.store,
      key: (name) => corner + name,
      signal,
      largeBytes,
      manyObjects,
      scratch,
    });
  } catch (error) {
    failure = error;
  }
  const left = await tracked.cleanUp();
  await rm(scratch, { recursive: true, force: true });
  return { failure, left };
}

/** A prefix that nobody else uses, with a slash at its end. */
export function newCorner(): string {
  return `${CHECKS_PREFIX}${randomBytes(8).toString('hex')}/`;
}

/** Objects that are named in a message before it is cut off. */
const NAMED_LEFT = 5;

/** The error of a check that could not remove what it had put. */
export function leftBehind(left: readonly LeftObject[]): PresyncError {
  const named = left.slice(0, NAMED_LEFT).map(({ key }) => key);
  const more = left.length > named.length ? ` and ${left.length - named.length} more` : '';
  return new PresyncError(
    'STORE_FAILED',
    `${left.length} ${left.length === 1 ? 'object' : 'objects'} of the check could not be removed again: ${named.join(', ')}${more} (${left[0]?.reason})`,
    { hint: `remove what lies under ${CHECKS_PREFIX}: it is of no use` },
  );
}
