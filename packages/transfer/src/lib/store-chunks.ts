import { type ChunkLayout, planChunks } from '@presync/format/chunks';
import { createIndexWriter, type IndexDigest, type StoredChunk } from '@presync/format/index-file';
import type { Manifest } from '@presync/format/manifest';
import { throwIfAborted } from '@presync/runtime/errors';
import type { SourceFile } from '../source.ts';
import type { KeptChunk } from './chunk-objects.ts';
import type { ChunkTable } from './chunk-table.ts';
import type { ChunkWorkers } from './chunk-workers.ts';
import { mapOrdered } from './concurrency.ts';
import { createDigestTable } from './digest-table.ts';
import { readSource } from './read-source.ts';

export interface StoreChunksOptions {
  /** In archive order. */
  files: readonly SourceFile[];
  chunkSize: number;
  /** The index, which must not exist. */
  indexPath: string;
  concurrency: number;
  /** Chunks that are stored already. Those that `keep` stores are added. */
  known: ChunkTable;
  /** A chunk that need not be read, because its files are known not to have changed. */
  unchanged: (layout: ChunkLayout<SourceFile>) => StoredChunk | undefined;
  /** Stores a chunk whose plaintext a worker keeps, and has the worker let go of it. `added` is the size of a new object. */
  keep: (chunk: KeptChunk, signal: AbortSignal) => Promise<{ stored: StoredChunk; added: number }>;
  /** Told of each chunk, in order. */
  onChunk?: ((layout: ChunkLayout<SourceFile>, chunk: StoredChunk) => void) | undefined;
  onProgress?: ((bytes: number) => void) | undefined;
  signal: AbortSignal;
}

export interface StoreChunksResult {
  digest: IndexDigest;
  totals: Manifest['totals'];
  readBytes: number;
  addedChunks: number;
}

/** Reads and hashes a frozen view, has each chunk kept that is not known, and writes the index. */
export async function storeChunks(
  workers: ChunkWorkers,
  options: StoreChunksOptions,
): Promise<StoreChunksResult> {
  const { files, chunkSize, concurrency, known, signal } = options;
  const inFlight = new Map<string, Promise<{ stored: StoredChunk; added: number }>>();
  const counted = createDigestTable(0);
  const totals = { files: 0, chunks: 0, bytes: 0, unique: 0, stored: 0, added: 0 };
  let readBytes = 0;
  let addedChunks = 0;

  async function chunkOf(layout: ChunkLayout<SourceFile>, abort: AbortSignal): Promise<StoredChunk> {
    const skipped = options.unchanged(layout);
    if (skipped !== undefined) return skipped;
    throwIfAborted(abort);
    const { sha256, kept } = await readSource(workers, layout);
    readBytes += layout.length;
    const before = known.get(sha256) ?? inFlight.get(sha256);
    if (before !== undefined) {
      await workers.run({ kind: 'drop', kept });
      return 'sha256' in before ? before : (await before).stored;
    }
    const task = options.keep({ sha256, length: layout.length, kept }, abort);
    inFlight.set(sha256, task);
    try {
      const { stored, added } = await task;
      known.add(stored);
      totals.added += added;
      if (added > 0) addedChunks += 1;
      return stored;
    } finally {
      inFlight.delete(sha256);
    }
  }

  const index = createIndexWriter(options.indexPath, { chunkSize });
  try {
    const work = async (layout: ChunkLayout<SourceFile>, abort: AbortSignal) => ({
      layout,
      chunk: await chunkOf(layout, abort),
    });
    for await (const { layout, chunk } of mapOrdered(
      planChunks(files, chunkSize),
      { concurrency, signal },
      work,
    )) {
      for (const file of layout.begins) await index.file(file);
      await index.chunk(chunk);
      const digest = Buffer.from(chunk.sha256, 'hex');
      if (counted.get(digest) === undefined) {
        counted.set(digest, NOTHING);
        totals.unique += chunk.length;
        totals.stored += chunk.storedSize;
      }
      options.onChunk?.(layout, chunk);
      options.onProgress?.(layout.length);
    }
    const { digest, totals: indexed } = await index.finish();
    return { digest, totals: { ...totals, ...indexed }, readBytes, addedChunks };
  } catch (error) {
    await index.abort();
    throw error;
  }
}

const NOTHING = Buffer.alloc(0);
