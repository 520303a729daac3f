/**
 * What lies where in a node's base path, and what each file of a database is.
 * Sources: polkadot-sdk `substrate/client/cli/src/config.rs` (folders), `substrate/client/db/src/utils.rs` (backends),
 * RocksDB's `file/filename.h`, and parity-db's `src`.
 */
export type Backend = 'rocksdb' | 'paritydb';

/**
 * - `immutable`: never changes once written (RocksDB SST and blob files), so a hard link is a faithful copy.
 * - `mutable`: changes in place or is appended to.
 * - `seal`: without this file the backend does not take the folder for a database (`CURRENT`, `metadata`); a restore writes it last.
 * - `skip`: belongs to a database but not to a snapshot of it (locks, RocksDB's text logs).
 */
export type FileClass = 'immutable' | 'mutable' | 'seal' | 'skip';
