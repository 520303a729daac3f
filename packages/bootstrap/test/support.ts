import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateKey, type PrivateKey } from '@presync/format/signature';
import type { EventName } from '@presync/runtime/events';
import type { Logger } from '@presync/runtime/log';
import type { ComposedSources } from '@presync/store/compose';
import { createFileStore } from '@presync/store/file';
import type { ObjectStore } from '@presync/store/object-store';
import { createSources } from '@presync/store/sources';
import { forgeSnapshot } from '../../../test/support/forge.ts';

export const NEVER: AbortSignal = new AbortController().signal;
export const HOUR_MS = 3_600_000;

export interface TestScope {
  after(fn: () => Promise<void>): void;
}

/** A log that a test reads. */
export interface Told {
  log: Logger;
  /** Names of what was logged, in order. */
  events: EventName[];
  lines: string[];
}

export function createTold(): Told {
  const events: EventName[] = [];
  const lines: string[] = [];
  const note = (event: EventName, message: string): void => {
    events.push(event);
    lines.push(`${event}: ${message}`);
  };
  const log: Logger = { debug: () => {}, info: note, warn: note, error: note, child: () => log };
  return { log, events, lines };
}

/** A store that counts, and that a test may change. */
export interface CountedStore {
  store: ObjectStore;
  /** Reads of chunks. */
  chunks: () => number;
  /** Bytes of chunks that were read. */
  chunkBytes: () => number;
}

export function countReads(store: ObjectStore): CountedStore {
  let chunks = 0;
  let chunkBytes = 0;
  const counted: ObjectStore = {
    ...store,
    async read(key, options) {
      const data = await store.read(key, options);
      if (key.startsWith('chunks/')) {
        chunks += 1;
        chunkBytes += data.bytes.length;
      }
      return data;
    },
  };
  return { store: counted, chunks: () => chunks, chunkBytes: () => chunkBytes };
}

export function sourcesOf(...stores: readonly ObjectStore[]): ComposedSources {
  return { stores, sources: createSources({ stores, rounds: 1, minDelayMs: 1 }), close: async () => {} };
}

export interface Place {
  dir: string;
  storeDir: string;
  store: ObjectStore;
  stateDir: string;
  key: PrivateKey;
  forge: (
    options?: Partial<Parameters<typeof forgeSnapshot>[0]>,
  ) => Promise<Awaited<ReturnType<typeof forgeSnapshot>>>;
}

/** A file store for forged snapshots. Everything goes when the test ends. */
export async function createPlace(t: TestScope): Promise<Place> {
  const dir = await mkdtemp(join(tmpdir(), 'presync-choice-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const storeDir = join(dir, 'store');
  const key = generateKey();
  return {
    dir,
    storeDir,
    store: createFileStore({ dir: storeDir }),
    stateDir: join(dir, 'state'),
    key,
    forge: (options = {}) => forgeSnapshot({ storeDir, keys: [key], ...options }),
  };
}
