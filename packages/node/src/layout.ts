/**
 * What lies where in a node's base path, and what each file of a database is.
 * Sources: polkadot-sdk `substrate/client/cli/src/config.rs` (folders), `substrate/client/db/src/utils.rs` (backends),
 * RocksDB's `file/filename.h`, and parity-db's `src`.
 */
import type { DatabaseRole } from './lib/roles.ts';

export type Backend = 'rocksdb' | 'paritydb';

/**
 * - `immutable`: never changes once written (RocksDB SST and blob files), so a hard link is a faithful copy.
 * - `mutable`: changes in place or is appended to.
 * - `seal`: without this file the backend does not take the folder for a database (`CURRENT`, `metadata`); a restore writes it last.
 * - `skip`: belongs to a database but not to a snapshot of it (locks, RocksDB's text logs).
 */
export type FileClass = 'immutable' | 'mutable' | 'seal' | 'skip';

/** Where one database lies. */
export interface DatabaseLayout {
  /** Default `main`. */
  role?: DatabaseRole | undefined;
  /** The node's base path, absolute, as it was given (symbolic links not resolved). */
  basePath: string;
  /** The chain spec id: the name of the folder below `chains/`. */
  chainId: string;
  backend: Backend;
  /** Absolute path of the database folder, as the `full` folder, symbolic links resolved. */
  dir: string;
  /** The database folder relative to the node's base path, in POSIX form, as `chains/dev/db/full`; with a relay chain's below `polkadot/`, wherever that lies here. */
  archivePrefix: string;
}

/** One regular file of a database, as it was when it was looked at. */
export interface DatabaseFile {
  /** Name inside the `full` folder. */
  name: string;
  /** `archivePrefix` + `/` + name. */
  archivePath: string;
  /** Absolute path on disk. */
  path: string;
  class: Exclude<FileClass, 'skip'>;
  /** Bytes. */
  size: number;
  /** Bytes that the file takes on disk; less than `size` where it has holes. */
  allocated: number;
  /** Permission bits. */
  mode: number;
  mtimeNs: bigint;
  /** Changes with each hard link that is made or removed, so with each frozen view as well. */
  ctimeNs: bigint;
  /** Birth time; 0 where the file system has none. With `dev` and `ino` it tells a file from a later one that got its inode. */
  birthtimeNs: bigint;
  ino: bigint;
  dev: bigint;
}

/** What tells one database from another. */
export interface DatabaseIdentity {
  /** RocksDB's `IDENTITY`, or ParityDB's salt. */
  identity: string;
  /** The text of `db_version` (RocksDB), or the `version` of ParityDB's `metadata`. */
  version: string;
}

export { classifyFile } from './lib/classify.ts';
export { databasePath, type FindDatabaseOptions, findDatabase } from './lib/find-database.ts';
export { findDatabases, isPartPath } from './lib/find-parts.ts';
export { readDatabaseIdentity } from './lib/identity.ts';
export { DATABASE_ROLES, type DatabaseRole, RELAY_FOLDER } from './lib/roles.ts';
export { MAX_FILES, scanDatabase } from './lib/scan.ts';
