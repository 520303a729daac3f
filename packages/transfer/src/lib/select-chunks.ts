import { basename, matchesGlob } from 'node:path/posix';
import type { IndexedChunk, IndexedFile } from '@presync/format/index-file';

/** Which part of a snapshot is looked at. Without any of it: all. */
export interface Selection {
  /** Patterns of paths in the snapshot, or of plain names. */
  globs?: readonly string[] | undefined;
  /** So many percent of the chunks, chosen by chance. */
  percent?: number | undefined;
}

export function isPartial({ globs = [], percent }: Selection): boolean {
  return globs.length > 0 || percent !== undefined;
}

/** True when a file is meant. A pattern without a slash is one of names. */
export function matchesAny(globs: readonly string[], { path }: Pick<IndexedFile, 'path'>): boolean {
  return globs.some((glob) => matchesGlob(glob.includes('/') ? path : basename(path), glob));
}

/** Says for each chunk whether it is looked at. Of a snapshot in which anything is meant, one chunk is looked at at least. */
export async function* selectChunks(
  chunks: AsyncIterable<IndexedChunk>,
  { globs = [], percent }: Selection,
  onMeant?: (() => void) | undefined,
): AsyncGenerator<IndexedChunk> {
  let spare: IndexedChunk | undefined;
  let taken = 0;
  let meant = 0;
  for await (const chunk of chunks) {
    if (globs.length > 0 && !chunk.segments.some(({ file }) => matchesAny(globs, file))) continue;
    meant += 1;
    onMeant?.();
    if (percent === undefined || Math.random() * 100 < percent) {
      taken += 1;
      yield chunk;
    } else if (taken === 0 && Math.random() * meant < 1) spare = chunk;
  }
  if (taken === 0 && spare !== undefined) yield spare;
}
