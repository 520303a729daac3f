import type { CallOptions, ObjectStore } from './object-store.ts';
import { openStore } from './open.ts';
import { withLimit } from './with-limit.ts';
import { type StoreMetrics, withMetrics } from './with-metrics.ts';
import { withRetry } from './with-retry.ts';

export interface ComposeStoreOptions extends CallOptions {
  metrics?: StoreMetrics | undefined;
}

/** Calls under way at once, whatever the pipelines ask for: the sockets that an adapter keeps. */
const MAX_CALLS = 64;

/**
 * The store as every program uses it. Metrics are innermost, so that they count attempts; a call holds its place in the
 * limit while it waits for its next attempt, which is what slows a program down when the store asks for it.
 */
export async function composeStore(
  url: string,
  { metrics, signal }: ComposeStoreOptions,
): Promise<ObjectStore> {
  const adapter = await openStore(url, { signal });
  const observed = metrics === undefined ? adapter : withMetrics(adapter, metrics);
  return withLimit(withRetry(observed), { concurrency: MAX_CALLS });
}
