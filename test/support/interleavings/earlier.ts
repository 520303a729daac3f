import { PresyncError } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import type { Clock } from '@presync/transfer/clock';
import { pruneRepository } from '@presync/transfer/prune';
import type { Repository } from '@presync/transfer/repository';
import type { SourceFile } from '@presync/transfer/source';
import type { Model } from './model.ts';

/**
 * What there is when a world begins, made hours before. `given up`: a newer snapshot has all but one file given up, and nobody has collected since. `marked`: that has been
 * collected, and the tombstones are ripe. `without notes`: a collector came by while the only snapshot was written, so that its chunks have tombstones and no notes. `replaced`: the
 * same, and a newer snapshot has all but one file given up. `unfinished`: a writer died before its manifest, and its index holds the first number.
 */
export type Earlier = 'nothing' | 'given up' | 'marked' | 'without notes' | 'replaced' | 'unfinished';

const HOUR = 60 * 60_000;
const NEVER = new AbortController().signal;

export interface EarlierOptions {
  repository: Repository;
  pool: readonly SourceFile[];
  /** When the world begins. */
  now: number;
  scratchDir: string;
  upload(repository: Repository, files: readonly SourceFile[], clock: Clock): Promise<unknown>;
}

export async function arrange(
  earlier: Earlier,
  { repository, pool, now, scratchDir, upload }: EarlierOptions,
): Promise<void> {
  const begun = createClockAt(now - 3 * HOUR);
  const later = createClockAt(now - 2 * HOUR);
  const prune = (clock: Clock) =>
    pruneRepository({ repository, keep: { last: 0 }, graceMs: 0, scratchDir, clock, signal: NEVER });
  /** Does something when the manifest is to be put. */
  const beforeManifest = (first: () => Promise<unknown>): Repository => {
    const { store } = repository;
    const put: ObjectStore['put'] = async (key, body, options) => {
      if (key.endsWith('/manifest.json')) await first();
      return store.put(key, body, options);
    };
    return { ...repository, store: { ...store, put } };
  };
  switch (earlier) {
    case 'nothing':
      return;
    case 'given up':
    case 'marked':
      await upload(repository, pool, begun);
      await upload(repository, pool.slice(0, 1), later);
      if (earlier === 'marked') await prune(later);
      return;
    case 'without notes':
    case 'replaced':
      await upload(
        beforeManifest(() => prune(begun)),
        pool,
        begun,
      );
      if (earlier === 'replaced') await upload(repository, pool.slice(0, 1), later);
      return;
    case 'unfinished': {
      const dies = async (): Promise<never> => {
        throw new PresyncError('STORE_FAILED', 'the writer dies here');
      };
      await upload(beforeManifest(dies), pool, begun).catch(() => {});
    }
  }
}

/** A clock that stands still; who sleeps on it sleeps until it is stopped. */
function createClockAt(time: number): Clock {
  return {
    now: () => time,
    elapsed: () => 0,
    sleep: (_ms, signal) =>
      new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true })),
  };
}

/** Tells the model what is there already, pointers last. */
export async function fill(model: Model, store: ObjectStore): Promise<void> {
  const keys: string[] = [];
  for await (const { key } of store.list('', { signal: NEVER })) keys.push(key);
  const isPointer = (key: string): number => Number(key.startsWith('channels/'));
  for (const key of keys.sort((a, b) => isPointer(a) - isPointer(b)))
    model.put(key, (await store.read(key, { maxBytes: 1 << 24, signal: NEVER })).bytes);
}
