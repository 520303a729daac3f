import type { IndexedFile } from '@presync/format/index-file';

/** A file of a frozen view, as the snapshot pipeline reads it. */
export interface SourceFile extends IndexedFile {
  /** Where its frozen bytes are. */
  readPath: string;
  identity: FileIdentity;
}

/**
 * What tells a file from another, and from itself after a change. Birth time in place of ctime, because each hard link that a frozen
 * view makes or removes changes the latter.
 */
export interface FileIdentity {
  dev: bigint;
  ino: bigint;
  mtimeNs: bigint;
  birthtimeNs: bigint;
}
