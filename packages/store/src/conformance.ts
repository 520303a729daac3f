import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CaseContext } from './lib/conformance-context.ts';
import { LIST_CASES, READ_CASES } from './lib/conformance-reads.ts';
import { READER_CASES, WRITE_CASES } from './lib/conformance-writes.ts';
import type { CallOptions, ObjectStore, StoreTraits } from './object-store.ts';

export interface ConformanceOptions {
  /** Of the store: what it cannot do is not asked of it. Default: it can do everything. */
  traits?: StoreTraits | undefined;
  /** Bytes of the largest object. Default 20 MiB. */
  largeBytes?: number | undefined;
  /** Objects in the listing that is to need several pages. Default 1100; S3 gives 1000 a page. */
  manyObjects?: number | undefined;
}

export interface CaseOptions extends CallOptions {
  /** For a store that can only be read: another one that holds the same objects and can be written. */
  writer?: ObjectStore | undefined;
}

/** One promise of the ObjectStore contract. */
export interface ConformanceCase {
  /** As a sentence that is true of a store that passes. */
  name: string;
  /**
   * Puts the store to the test, on keys of its own under `checks/`, which it removes again. May run beside others.
   * Rejects with STORE_FAILED and what the store did when the promise is broken; other codes are the store's errors.
   */
  run(store: ObjectStore, options: CaseOptions): Promise<void>;
}

const CLEANUP_MS = 120_000;

/**
 * Everything that the comment on `ObjectStore` promises, as cases. A store adapter's test runs them all; `presync store check` runs
 * them on the user's own store. They write some 100 MB.
 */
export function storeConformance(options: ConformanceOptions = {}): ConformanceCase[] {
  const { traits = { writable: true, listable: true } } = options;
  const cases = {
    ...READ_CASES,
    ...(traits.listable ? LIST_CASES : {}),
    ...(traits.writable ? WRITE_CASES : READER_CASES),
  };
  return Object.entries(cases).map(([name, check]) => ({
    name,
    run: (store, call) => inOwnCorner(store, call, options, check),
  }));
}

async function inOwnCorner(
  store: ObjectStore,
  { writer = store, signal }: CaseOptions,
  { largeBytes = 20 * 1024 ** 2, manyObjects = 1100 }: ConformanceOptions,
  check: (context: CaseContext) => Promise<void>,
): Promise<void> {
  const corner = `checks/${randomBytes(8).toString('hex')}/`;
  const scratch = await mkdtemp(join(tmpdir(), 'presync-check-'));
  let failure: unknown;
  try {
    await check({ store, writer, key: (name) => corner + name, signal, largeBytes, manyObjects, scratch });
  } catch (error) {
    failure = error;
  }
  try {
    await rm(scratch, { recursive: true, force: true });
    // Also after an abort. The objects are listed to the end before any is removed: pages may shift otherwise.
    const cleanup = AbortSignal.timeout(CLEANUP_MS);
    const keys: string[] = [];
    for await (const info of writer.list(corner, { signal: cleanup })) keys.push(info.key);
    while (keys.length > 0) {
      await Promise.all(keys.splice(0, 16).map((key) => writer.remove(key, { signal: cleanup })));
    }
  } catch (error) {
    failure ??= error;
  }
  if (failure !== undefined) throw failure;
}
