import type { IndexedFile } from '@presync/format/index-file';

/** A file of a frozen view, as the snapshot pipeline reads it. */
export interface SourceFile extends IndexedFile {
  /** Where its frozen bytes are. */
  readPath: string;
  /** Where it lies in the database itself. */
  sourcePath: string;
  identity: FileIdentity;
}

/** What tells a file from another, and from itself after a change. */
export interface FileIdentity {
  dev: bigint;
  ino: bigint;
  mtimeNs: bigint;
  ctimeNs: bigint;
}
