import type { StoreAccess } from './access.ts';
import type { RetryOptions } from './lib/retried.ts';
import type { CallOptions, ObjectStore, StoreNotice } from './object-store.ts';
import { openStore } from './open.ts';
import { createSources, type SourceEvent, type Sources } from './sources.ts';
import { createPace, withBandwidth } from './with-bandwidth.ts';
import { withLimit } from './with-limit.ts';
import { type StoreMetrics, withMetrics } from './with-metrics.ts';
import { withRetry } from './with-retry.ts';

export interface ComposeStoreOptions extends CallOptions {
  metrics?: StoreMetrics | undefined;
  access?: StoreAccess | undefined;
  /** Told before a call is made again. */
  onRetry?: RetryOptions['onRetry'];
  /** Told of what a store finds out. */
  onNotice?: ((notice: StoreNotice) => void) | undefined;
}

/** Calls under way at once, whatever the pipelines ask for: the sockets that an adapter keeps. */
const MAX_CALLS = 64;

/** With others to turn to, a store that fails is not waited for. */
const ATTEMPTS_OF_SEVERAL = 3;

/**
 * The store as every program uses it. Metrics are innermost, so that they count attempts; a call holds its place in the
 * limit while it waits for its next attempt, which is what slows a program down when the store asks for it.
 */
export async function composeStore(url: string, options: ComposeStoreOptions): Promise<ObjectStore> {
  const [adapter] = await openAll([url], options);
  const { metrics, onRetry } = options;
  return withLimit(
    withRetry(adapter, {
      onRetry: (retry) => {
        metrics?.retried?.(retry.error.code);
        onRetry?.(retry);
      },
    }),
    { concurrency: MAX_CALLS },
  );
}

export interface ComposeSourcesOptions extends ComposeStoreOptions {
  /** Chunks that are read at a time; found out by measuring when absent. */
  concurrency?: number | undefined;
  onEvent?: ((event: SourceEvent) => void) | undefined;
}

/** Several stores that hold the same repository. */
export interface ComposedSources {
  /** Each for itself and in the given order, for the documents that say what there is. */
  stores: readonly ObjectStore[];
  /** All of them together, for chunks. */
  sources: Sources;
  close(): Promise<void>;
}

/** The stores as programs that only read use them. Chunks have their retries in `sources`, documents in each store. */
export async function composeSources(
  urls: readonly [string, ...string[]],
  options: ComposeSourcesOptions,
): Promise<ComposedSources> {
  const adapters = await openAll(urls, options);
  const { concurrency, onEvent } = options;
  return {
    stores: adapters.map((adapter) =>
      withRetry(adapter, adapters.length > 1 ? { attempts: ATTEMPTS_OF_SEVERAL } : {}),
    ),
    sources: createSources({
      stores: adapters,
      maxConcurrency: concurrency ?? MAX_CALLS,
      adaptive: concurrency === undefined,
      onEvent,
    }),
    close: async () => {
      for (const adapter of adapters) await adapter.close();
    },
  };
}

async function openAll(
  urls: readonly [string, ...string[]],
  { metrics, access, onNotice, signal }: ComposeStoreOptions,
): Promise<[ObjectStore, ...ObjectStore[]]> {
  const pace = access?.bandwidth === undefined ? undefined : createPace(access.bandwidth);
  const opened: ObjectStore[] = [];
  const open = async (url: string): Promise<ObjectStore> => {
    const adapter = await openStore(url, { access, onNotice, signal });
    opened.push(adapter);
    const paced = pace === undefined ? adapter : withBandwidth(adapter, pace);
    return metrics === undefined ? paced : withMetrics(paced, metrics);
  };
  try {
    const [first, ...others] = urls;
    const stores: [ObjectStore, ...ObjectStore[]] = [await open(first)];
    for (const url of others) stores.push(await open(url));
    return stores;
  } catch (error) {
    for (const adapter of opened) await adapter.close();
    throw error;
  }
}
