import { zeroDigest } from '@presync/format/digest';
import type { IndexedChunk } from '@presync/format/index-file';
import { TAR_END_LENGTH, tarHeader } from '@presync/format/tar';
import { PresyncError } from '@presync/runtime/errors';
import type { ChunkShape } from './chunk-tasks.ts';

const hint = 'do not use this snapshot';

/** INDEX_CORRUPT unless the archive's end is what tar wants: zeros. */
export function assertArchiveEnd({ segments, sha256 }: Pick<IndexedChunk, 'segments' | 'sha256'>): void {
  if (segments.length > 0 || sha256 === zeroDigest(TAR_END_LENGTH)) return;
  throw new PresyncError('INDEX_CORRUPT', "the archive's end is not zero", { hint });
}

/** INDEX_CORRUPT unless the headers in a chunk's plaintext are those of the files that the index names: tar would make something else of them. */
export async function assertHeaders({ segments }: ChunkShape, plain: Uint8Array): Promise<void> {
  for (const segment of segments) {
    if (segment.kind !== 'header') continue;
    const { at, length, path, size } = segment;
    if (Buffer.compare(plain.subarray(at, at + length), await tarHeader(path, size)) === 0) continue;
    throw new PresyncError('INDEX_CORRUPT', `the archive's header of ${path} is not what the index says`, {
      hint,
    });
  }
}
