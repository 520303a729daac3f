import { type IndexedChunk, readIndex } from '@presync/format/index-file';
import type { Manifest } from '@presync/format/manifest';
import type { Repository } from '../repository.ts';

/** Streams the chunks of an index that was downloaded, or just written, to a file. */
export function chunksOf(
  { chunkSize }: Pick<Repository, 'chunkSize'>,
  manifest: Manifest,
  path: string,
  signal: AbortSignal,
): AsyncGenerator<IndexedChunk> {
  return readIndex(path, {
    length: manifest.index.length,
    chunkSize,
    parts: manifest.node.parts.map((part) => part.path),
    totals: manifest.totals,
    what: `the index of ${manifest.channel}#${manifest.sequence}`,
    signal,
  });
}
