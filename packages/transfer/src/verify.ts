import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { IndexedChunk } from '@presync/format/index-file';
import type { Manifest } from '@presync/format/manifest';
import { type ErrorCode, isPresyncError } from '@presync/runtime/errors';
import { assertArchiveEnd } from './lib/archive-check.ts';
import { describeChunk, filesOf } from './lib/chunk-names.ts';
import { getChunk } from './lib/chunk-objects.ts';
import { shapeOf } from './lib/chunk-shape.ts';
import { createChunkTable } from './lib/chunk-table.ts';
import { type ChunkWorkers, createChunkWorkers } from './lib/chunk-workers.ts';
import { boundedConcurrency, forEachConcurrent } from './lib/concurrency.ts';
import { chunksOf } from './lib/local-index.ts';
import { type Selection, selectChunks } from './lib/select-chunks.ts';
import { downloadIndex, type Repository } from './repository.ts';

export { isPartial, type Selection } from './lib/select-chunks.ts';

/** Something wrong with a repository. */
export interface Problem {
  code: ErrorCode;
  /** The object. */
  object: string;
  message: string;
  /** The database files that it costs, at most a few. */
  files: string[];
}

export interface VerifyOptions {
  repository: Repository;
  /** A manifest that was resolved and checked. */
  manifest: Manifest;
  /** All chunks, or a random sample. */
  scope: 'sample' | 'full';
  /** Of all chunks, only these. */
  selection?: Selection | undefined;
  /** Where the index is kept meanwhile. */
  scratchDir: string;
  concurrency?: number | undefined;
  onProgress?: ((bytes: number) => void) | undefined;
  /** Default: threads. */
  createWorkers?: ((options: { concurrency: number }) => ChunkWorkers) | undefined;
  signal: AbortSignal;
}

export interface VerifyResult {
  /** Chunks that were proved. */
  chunks: number;
  /** Chunks that the selection names, each once, of which `chunks` are those that were proved. */
  meant: number;
  /** Bytes of plaintext that were proved. */
  bytes: number;
  problems: Problem[];
}

/** Chunks that a sample holds. */
const SAMPLE = 32;
/** Problems that are kept; a repository that is damaged all over is not listed to its end. */
const MAX_PROBLEMS = 10_000;
const DEFAULT_CONCURRENCY = 8;

/**
 * Proves a snapshot against its manifest: the index, and the chunks' sizes, digests and contents. Damage is returned, not thrown, so that
 * one call finds all of it; a store that fails is thrown.
 */
export async function verifySnapshot(options: VerifyOptions): Promise<VerifyResult> {
  const { repository, manifest, signal, scope } = options;
  const result: VerifyResult = { chunks: 0, meant: 0, bytes: 0, problems: [] };
  await mkdir(options.scratchDir, { recursive: true, mode: 0o700 });
  const scratch = await mkdtemp(join(options.scratchDir, 'verify-'));
  try {
    const index = join(scratch, 'index.zst');
    try {
      await downloadIndex(repository, manifest, index, { signal });
      const onMeant = (): void => {
        result.meant += 1;
      };
      const chunks = selectChunks(
        distinct(chunksOf(repository, manifest, index, signal)),
        options.selection ?? {},
        onMeant,
      );
      await verifyChunks(options, result, scope === 'full' ? chunks : await sample(chunks));
    } catch (error) {
      if (!isPresyncError(error) || error.exitCode !== 4) throw error;
      result.problems.push({
        code: error.code,
        object: `index of ${manifest.channel}#${manifest.sequence}`,
        message: error.message,
        files: [],
      });
    }
    return result;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function verifyChunks(
  options: VerifyOptions,
  result: VerifyResult,
  chunks: Iterable<IndexedChunk> | AsyncIterable<IndexedChunk>,
): Promise<void> {
  const { repository, signal, createWorkers = createChunkWorkers } = options;
  const concurrency = boundedConcurrency(options.concurrency ?? DEFAULT_CONCURRENCY, repository.chunkSize);
  const workers = createWorkers({ concurrency });
  const verifying = forEachConcurrent(chunks, { concurrency, signal }, async (chunk, abort) => {
    try {
      const shape = shapeOf(chunk, (file) => ({ path: file.path }));
      await getChunk(repository.sources, workers, chunk, {
        files: describeChunk(chunk),
        shape,
        use: 'check',
        signal: abort,
      });
      assertArchiveEnd(chunk);
      result.chunks += 1;
      result.bytes += chunk.length;
    } catch (error) {
      if (!isPresyncError(error) || error.exitCode !== 4) throw error;
      if (result.problems.length < MAX_PROBLEMS) {
        result.problems.push({
          code: error.code,
          object: `chunk ${chunk.sha256}`,
          message: error.message,
          files: filesOf(chunk).slice(0, 16),
        });
      }
    }
    options.onProgress?.(chunk.length);
  });
  await verifying.finally(() => workers.close());
}

/** Each chunk once, as far as the table reaches. */
async function* distinct(chunks: AsyncIterable<IndexedChunk>): AsyncGenerator<IndexedChunk> {
  const seen = createChunkTable();
  for await (const chunk of chunks) {
    const before = seen.get(chunk.sha256);
    // The same chunk with another stored digest is a lie about one of them: both are checked. So is one with a header, which only one file can have.
    if (before?.storedSha256 === chunk.storedSha256 && chunk.begins.length === 0) continue;
    seen.add(chunk);
    yield chunk;
  }
}

async function sample(chunks: AsyncIterable<IndexedChunk>): Promise<IndexedChunk[]> {
  const chosen: IndexedChunk[] = [];
  let count = 0;
  for await (const chunk of chunks) {
    count += 1;
    const place = count <= SAMPLE ? count - 1 : Math.floor(Math.random() * count);
    if (place < SAMPLE) chosen[place] = chunk;
  }
  return chosen;
}
