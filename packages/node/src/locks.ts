/**
 * Who has a database open. RocksDB holds a POSIX record lock (fcntl) on `LOCK`, ParityDB an flock on `lock`.
 */
import { join } from 'node:path';
import type { Backend } from './layout.ts';
import { holderOf } from './lib/lock-table.ts';

/** The process that holds a database open. */
export interface DatabaseHolder {
  /** Unknown when the lock belongs to an open file description rather than to a process. */
  pid?: number | undefined;
}

/** The lock file's name in the database folder. */
export function lockFileName(backend: Backend): 'LOCK' | 'lock' {
  return backend === 'rocksdb' ? 'LOCK' : 'lock';
}

/**
 * Tells whether a process holds the database's lock, and which one, from Linux's /proc/locks. Nothing is locked or opened
 * by the look itself. A lock that is held in another PID namespace (a container beside this one) is not listed there:
 * undefined then means "none that can be seen from here".
 *
 * @returns undefined when nobody holds it, or there is no lock file
 * @throws IO_FAILED when /proc/locks or the lock file cannot be looked at, and on other systems than Linux
 */
export async function databaseHolder(
  database: { dir: string; backend: Backend },
  options: { signal: AbortSignal },
): Promise<DatabaseHolder | undefined> {
  return holderOf(join(database.dir, lockFileName(database.backend)), options);
}
