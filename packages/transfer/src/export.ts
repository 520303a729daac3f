import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { IndexedFile } from '@presync/format/index-file';
import type { OnEvent } from './events.ts';
import { assertArchiveEnd } from './lib/archive-check.ts';
import { describeChunk } from './lib/chunk-names.ts';
import { getChunk } from './lib/chunk-objects.ts';
import { shapeOf } from './lib/chunk-shape.ts';
import { createChunkWorkers } from './lib/chunk-workers.ts';
import { boundedConcurrency, mapOrdered } from './lib/concurrency.ts';
import { chunksOf } from './lib/local-index.ts';
import { whileHeld } from './lib/reader-lease.ts';
import { downloadIndex, type Repository, type Snapshot } from './repository.ts';

export interface ExportOptions {
  repository: Repository;
  /** Resolved and checked. */
  snapshot: Snapshot;
  /** Called for each file of the index before anything is written; throws to refuse it. */
  assertFile: (file: IndexedFile) => void;
  /** Takes the archive piece by piece, in order; the next piece comes when it resolves. */
  write: (bytes: Uint8Array) => Promise<void>;
  /** Where the index is kept meanwhile. */
  scratchDir: string;
  concurrency?: number | undefined;
  /** Told of bytes of plaintext. */
  onProgress?: ((bytes: number) => void) | undefined;
  onEvent?: OnEvent | undefined;
  signal: AbortSignal;
}

export interface ExportResult {
  files: number;
  /** Bytes of the archive. */
  bytes: number;
}

const DEFAULT_CONCURRENCY = 8;

/**
 * Writes a snapshot as one plain `.tar.zst`: its chunks' objects, each proved against the index, one after the other. `zstd -d | tar x`
 * restores it without presync. A lease keeps collectors from removing what is read, where one can be had.
 */
export function exportSnapshot(options: ExportOptions): Promise<ExportResult> {
  const { repository, snapshot, onEvent, signal } = options;
  return whileHeld({ repository, snapshot, onEvent, signal }, () => exportHeld(options));
}

async function exportHeld(options: ExportOptions): Promise<ExportResult> {
  const { repository, snapshot, signal } = options;
  const { manifest } = snapshot;
  await mkdir(options.scratchDir, { recursive: true, mode: 0o700 });
  const scratch = await mkdtemp(join(options.scratchDir, 'export-'));
  const concurrency = boundedConcurrency(options.concurrency ?? DEFAULT_CONCURRENCY, repository.chunkSize);
  const workers = createChunkWorkers({ concurrency });
  const result: ExportResult = { files: manifest.totals.files, bytes: 0 };
  try {
    const index = join(scratch, 'index.zst');
    await downloadIndex(repository, manifest, index, { signal });
    for await (const { begins } of chunksOf(repository, manifest, index, signal))
      begins.forEach(options.assertFile);
    const frames = mapOrdered(
      chunksOf(repository, manifest, index, signal),
      { concurrency, signal },
      async (chunk, abort) => {
        const frame = await getChunk(repository.sources, workers, chunk, {
          files: describeChunk(chunk),
          shape: shapeOf(chunk, (file) => ({ path: file.path })),
          use: 'keep',
          signal: abort,
        });
        assertArchiveEnd(chunk);
        return { frame, length: chunk.length };
      },
    );
    for await (const { frame, length } of frames) {
      await options.write(frame);
      result.bytes += frame.length;
      options.onProgress?.(length);
    }
    return result;
  } finally {
    await workers.close();
    await rm(scratch, { recursive: true, force: true });
  }
}
