import { repositoryKeys } from '@presync/format/paths';
import { throwIfAborted } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import type { Clock } from '../clock.ts';
import type { OnEvent } from '../events.ts';
import { isSettled, listCollections, readPart, readState, settledAt } from './collections.ts';
import { createFingerprints, type Fingerprints } from './fingerprints.ts';

/** Looks at a collection that is removing what is needed, while it does. */
const LOOK_MS = 60_000;

/** The tombstones that a writer has found when it began. */
export interface Tombstones {
  /**
   * To be called before a chunk is put or adopted. When it has a tombstone, a note is left for the collector; when the collector is removing already,
   * waits until it has ended. Afterwards the chunk, if it is there, stays.
   */
  rescue(sha256: string, signal: AbortSignal): Promise<void>;
}

export interface LoadTombstonesOptions {
  store: ObjectStore;
  clock: Clock;
  onEvent?: OnEvent | undefined;
  signal: AbortSignal;
}

/** Reads all tombstones. The caller has put its lease before: collections that come later wait for that. */
export async function loadTombstones({
  store,
  clock,
  onEvent,
  signal,
}: LoadTombstonesOptions): Promise<Tombstones> {
  const collections: { id: string; chunks: Fingerprints }[] = [];
  for (const { id, parts } of await listCollections(store, signal)) {
    const chunks = createFingerprints();
    for (const part of parts) {
      for (const { sha256 } of await readPart(store, part, signal)) {
        if (sha256 !== undefined) chunks.add(sha256);
      }
    }
    if (chunks.size > 0) collections.push({ id, chunks });
  }

  /** The note first, the state afterwards; a collector does it the other way round, so that one of the two sees the other. */
  async function rescueFrom(id: string, sha256: string, abort: AbortSignal): Promise<void> {
    await store.put(repositoryKeys.tombstoneKept(id, sha256), Buffer.from('kept\n'), { signal: abort });
    for (;;) {
      throwIfAborted(abort);
      const state = await readState(store, id, abort);
      if (state === undefined || isSettled(state.document, clock)) return;
      const end = settledAt(state.document.until ?? state.document.created);
      onEvent?.('snapshot.waits', 'a chunk that is needed again is just being removed', {
        chunk: sha256,
        collection: id,
        until: new Date(end).toISOString(),
      });
      await clock.sleep(Math.max(1, Math.min(LOOK_MS, end - clock.now())), abort);
    }
  }

  return {
    async rescue(sha256, abort) {
      for (const { id, chunks } of collections) if (chunks.has(sha256)) await rescueFrom(id, sha256, abort);
    },
  };
}
