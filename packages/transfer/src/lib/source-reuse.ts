import { join } from 'node:path';
import { type ChunkLayout, compareFiles, planChunks } from '@presync/format/chunks';
import type { StoredChunk } from '@presync/format/index-file';
import type { Manifest } from '@presync/format/manifest';
import { messageOf, throwIfAborted } from '@presync/runtime/errors';
import type { UploadOptions } from '../snapshot.ts';
import type { SourceFile } from '../source.ts';
import type { ChunkTable } from './chunk-table.ts';
import type { ChunkWorkers } from './chunk-workers.ts';
import { chunksOf } from './local-index.ts';
import { readSource } from './read-source.ts';
import { loadSourceRecord, saveSourceRecord, sourceKey } from './source-record.ts';

/** Chunks taken from the record that are read anyway, to catch a file that changed although it must not. */
const RECHECKED_CHUNKS = 16;
/**
 * Answers which chunks need not be read, from the last run's record. Some of them are read all the same; if one differs, the
 * record is not believed at all.
 */
export async function createUnchanged(
  options: UploadOptions,
  workers: ChunkWorkers,
  files: SourceFile[],
  known: ChunkTable,
): Promise<(layout: ChunkLayout<SourceFile>) => StoredChunk | undefined> {
  const { repository, channel, databaseIdentity, signal } = options;
  const record = await loadSourceRecord(recordPath(options), { repositoryId: repository.id, channel });
  if (record === undefined) return () => undefined;
  const lookup = (layout: ChunkLayout<SourceFile>): StoredChunk | undefined => {
    const key = sourceKey(layout, databaseIdentity);
    const sha256 = key === undefined ? undefined : record.lookup(key);
    return sha256 === undefined ? undefined : known.get(sha256);
  };
  // Reservoir sampling: every candidate has the same chance, and the candidates need not be held.
  const sample: { layout: ChunkLayout<SourceFile>; sha256: string }[] = [];
  let candidates = 0;
  for (const layout of planChunks(files, repository.chunkSize)) {
    const chunk = lookup(layout);
    if (chunk === undefined) continue;
    candidates += 1;
    const place = candidates <= RECHECKED_CHUNKS ? candidates - 1 : Math.floor(Math.random() * candidates);
    if (place < RECHECKED_CHUNKS) sample[place] = { layout, sha256: chunk.sha256 };
  }
  for (const { layout, sha256 } of sample) {
    throwIfAborted(signal);
    const read = await readSource(workers, layout);
    await workers.run({ kind: 'drop', kept: read.kept });
    if (read.sha256 === sha256) continue;
    options.onEvent?.('snapshot.record_wrong', 'a file changed that must not; everything is read', {
      files: [...new Set(layout.segments.map(({ file }) => file.path))].slice(0, 3),
    });
    return () => undefined;
  }
  return lookup;
}

function recordPath({ stateDir, channel }: UploadOptions): string {
  return join(stateDir, `source-${channel.replace('/', '-')}.record`);
}

/** Writes what was read, for the next run. */
export async function remember(options: UploadOptions, indexPath: string, manifest: Manifest): Promise<void> {
  const { repository, channel, databaseIdentity, signal } = options;
  async function* rows(): AsyncGenerator<{ key: Buffer; sha256: string }> {
    const layouts = planChunks([...options.files].sort(compareFiles), repository.chunkSize);
    for await (const chunk of chunksOf(repository, manifest, indexPath, signal)) {
      const { value } = layouts.next();
      const key = value === undefined ? undefined : sourceKey(value, databaseIdentity);
      if (key !== undefined) yield { key, sha256: chunk.sha256 };
    }
  }
  try {
    await saveSourceRecord(recordPath(options), { repositoryId: repository.id, channel }, rows());
  } catch (error) {
    // The snapshot is complete; without the record the next one only takes longer.
    options.onEvent?.('snapshot.record_not_saved', 'the next snapshot will read everything', {
      reason: messageOf(error),
    });
  }
}
