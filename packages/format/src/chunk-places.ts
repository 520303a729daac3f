import { type ArchiveFile, type ChunkLayout, layoutBundle, layoutEnd, layoutStretch } from './chunks.ts';

/** Where a chunk lies in the list of files that it was planned from: enough to make its layout again, in three numbers. */
export interface ChunkPlace {
  /** Index of the first file that it holds something of; the number of files for the archive's end. */
  file: number;
  /** How many whole files it holds, or 0 for a stretch of one. */
  files: number;
  /** Which stretch of its file's content, in chunk sizes. */
  stretch: number;
}

/** Tells the place of each chunk of `planChunks`; to be given all of them in order. */
export function createPlacer(chunkSize: number): (layout: ChunkLayout) => ChunkPlace {
  let begun = 0;
  return ({ begins, segments }) => {
    const file = begins.length > 0 ? begun : begun - 1;
    begun += begins.length;
    const last = segments.at(-1);
    if (last === undefined) return { file: begun, files: 0, stretch: 0 };
    // The last segment is a header only when its file is empty.
    const ends = last.kind === 'header' || last.offset + last.length === last.file.size;
    if (begins.length > 0 && ends) return { file, files: begins.length, stretch: 0 };
    return { file, files: 0, stretch: last.kind === 'header' ? 0 : last.offset / chunkSize };
  };
}

/** The layout of the chunk at a place: what `planChunks` gave there for the same files. */
export function layoutAt<F extends ArchiveFile>(
  files: readonly F[],
  { file, files: whole, stretch }: ChunkPlace,
  chunkSize: number,
): ChunkLayout<F> {
  if (whole > 0) return layoutBundle(files.slice(file, file + whole));
  const first = files[file];
  return first === undefined ? layoutEnd() : layoutStretch(first, stretch * chunkSize, chunkSize);
}
