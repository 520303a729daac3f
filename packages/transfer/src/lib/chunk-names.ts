import type { ChunkLayout } from '@presync/format/chunks';
import type { IndexedFile } from '@presync/format/index-file';

/** Files named in a message before it is cut off. */
const SHOWN = 3;

/** What a chunk holds, for messages: `chains/…/000012.sst (bytes 0 to 4194304)`. */
export function describeChunk(chunk: Pick<ChunkLayout<IndexedFile>, 'segments'>): string {
  const names: string[] = [];
  for (const segment of chunk.segments) {
    if (segment.kind === 'data')
      names.push(`${segment.file.path} (bytes ${segment.offset} to ${segment.offset + segment.length})`);
    else if (segment.file.size === 0) names.push(`${segment.file.path} (empty)`);
  }
  if (names.length === 0) return "the archive's end";
  if (names.length <= SHOWN) return names.join(', ');
  return `${names.slice(0, SHOWN).join(', ')} and ${names.length - SHOWN} more`;
}

/** The paths of the files that a chunk is part of. */
export function filesOf(chunk: Pick<ChunkLayout<IndexedFile>, 'segments'>): string[] {
  return [...new Set(chunk.segments.map((segment) => segment.file.path))];
}
