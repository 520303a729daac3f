import type { ArchiveFile, ChunkLayout } from '@presync/format/chunks';
import type { ChunkShape } from './chunk-tasks.ts';

/** A chunk's layout with files on this machine, as a worker wants it. */
export function shapeOf<F extends ArchiveFile>(
  layout: Pick<ChunkLayout<F>, 'segments' | 'length'>,
  placeOf: (file: F) => { path: string; sparse?: boolean },
): ChunkShape {
  return {
    length: layout.length,
    segments: layout.segments.map((segment) => {
      const { at, length, file } = segment;
      if (segment.kind === 'header') return { kind: 'header', at, length, path: file.path, size: file.size };
      const { path, sparse = false } = placeOf(file);
      return { kind: 'data', at, length, offset: segment.offset, file: path, sparse };
    }),
  };
}
