import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CaseContext } from './lib/conformance-context.ts';
import { READ_CASES } from './lib/conformance-reads.ts';
import { WRITE_CASES } from './lib/conformance-writes.ts';
import type { CallOptions, ObjectStore } from './object-store.ts';

export interface ConformanceOptions {
  /** Bytes of the largest object. Default 20 MiB. */
  largeBytes?: number | undefined;
  /** Objects in the listing that is to need several pages. Default 1100; S3 gives 1000 a page. */
  manyObjects?: number | undefined;
}

/** One promise of the ObjectStore contract. */
export interface ConformanceCase {
  /** As a sentence that is true of a store that passes. */
  name: string;
  /**
   * Puts the store to the test, on keys of its own under `checks/`, which it removes again. May run beside others.
   * Rejects with STORE_FAILED and what the store did when the promise is broken; other codes are the store's errors.
   */
  run(store: ObjectStore, options: CallOptions): Promise<void>;
}

const CLEANUP_MS = 120_000;

/**
 * Everything that the comment on `ObjectStore` promises, as cases for writable and listable stores. A store adapter's
 * test runs them all; `presync store check` runs them on the user's own store. They write some 100 MB.
 */
export function storeConformance(options: ConformanceOptions = {}): ConformanceCase[] {
  return Object.entries({ ...READ_CASES, ...WRITE_CASES }).map(([name, check]) => ({
    name,
    run: (store, { signal }) => inOwnCorner(store, signal, options, check),
  }));
}

async function inOwnCorner(
  store: ObjectStore,
  signal: AbortSignal,
  { largeBytes = 20 * 1024 ** 2, manyObjects = 1100 }: ConformanceOptions,
  check: (context: CaseContext) => Promise<void>,
): Promise<void> {
  const corner = `checks/${randomBytes(8).toString('hex')}/`;
  const scratch = await mkdtemp(join(tmpdir(), 'presync-check-'));
  let failure: unknown;
  try {
    await check({ store, key: (name) => corner + name, signal, largeBytes, manyObjects, scratch });
  } catch (error) {
    failure = error;
  }
  try {
    await rm(scratch, { recursive: true, force: true });
    // Also after an abort. The objects are listed to the end before any is removed: pages may shift otherwise.
    const cleanup = AbortSignal.timeout(CLEANUP_MS);
    const keys: string[] = [];
    for await (const info of store.list(corner, { signal: cleanup })) keys.push(info.key);
    while (keys.length > 0) {
      await Promise.all(keys.splice(0, 16).map((key) => store.remove(key, { signal: cleanup })));
    }
  } catch (error) {
    failure ??= error;
  }
  if (failure !== undefined) throw failure;
}
