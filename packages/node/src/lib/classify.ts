import type { Backend, FileClass } from '../layout.ts';
import type { DatabaseRole } from './roles.ts';

type Rule = readonly [pattern: RegExp, fileClass: FileClass];

/**
 * RocksDB (`file/filename.cc`): numbers have at least six digits. `*.dbtmp` is what `CURRENT`, `IDENTITY` and `OPTIONS-*`
 * are renamed from, `*.trash` waits for its deletion: RocksDB removes both when it opens the folder. A write-ahead log
 * that was archived lies in a subfolder, which Substrate never asks for, so that folder stays unknown.
 * `db_version` is Substrate's own (`substrate/client/db/src/upgrade.rs`).
 */
const ROCKSDB: readonly Rule[] = [
  [/^\d{6,20}\.(?:sst|blob)$/, 'immutable'],
  [/^\d{6,20}\.log$/, 'mutable'],
  [/^MANIFEST-\d{6,20}$/, 'mutable'],
  [/^OPTIONS-\d{6,20}$/, 'mutable'],
  [/^IDENTITY$/, 'mutable'],
  [/^db_version$/, 'mutable'],
  [/^CURRENT$/, 'seal'],
  [/^LOCK$/, 'skip'],
  [/^LOG(?:\.old(?:\.\d{1,20})?)?$/, 'skip'],
  [/^(?:\d{6,20}|OPTIONS-\d{6,20})\.dbtmp$/, 'skip'],
  [/^\d{6,20}\.(?:sst|blob|log)\.trash$/, 'skip'],
];

/**
 * ParityDB (`db.rs`, `log.rs`, `index.rs`, `ref_count.rs`, `table.rs`): columns are two decimal digits (three from column 100 on),
 * index and reference count sizes are decimal bits, value tables are two hexadecimal digits. `stats.txt` is written for
 * people and never read.
 */
const PARITYDB: readonly Rule[] = [
  [/^log\d{1,10}$/, 'mutable'],
  [/^index_\d{2,3}_\d{1,2}$/, 'mutable'],
  [/^table_\d{2,3}_[0-9a-f]{2}$/, 'mutable'],
  [/^refcount_\d{2,3}_\d{1,2}$/, 'mutable'],
  [/^metadata$/, 'seal'],
  [/^lock$/, 'skip'],
  [/^stats\.txt$/, 'skip'],
];

/** Polkadot's own version of the database of parachain data (`polkadot/node/service/src/parachains_db/upgrade.rs`). */
const PARACHAINS: readonly Rule[] = [[/^parachain_db_version$/, 'mutable']];

/** True for the databases of parachain data. */
export function isParachains(role: DatabaseRole | undefined): boolean {
  return role === 'parachains' || role === 'relay-parachains';
}

/** The class of a file by its name in the database folder, or undefined when the backend has no such file there. */
export function classifyFile(
  backend: Backend,
  name: string,
  role: DatabaseRole = 'main',
): FileClass | undefined {
  const rules = backend === 'rocksdb' ? ROCKSDB : PARITYDB;
  const more = isParachains(role) ? PARACHAINS : [];
  return [...rules, ...more].find(([pattern]) => pattern.test(name))?.[1];
}
