import { PresyncError } from '@presync/runtime/errors';
import type { Backend } from './layout.ts';
import { isMetadata } from './lib/metadata.ts';

/** A database whose files are known by name, wherever they lie. */
export interface DatabaseListing {
  backend: Backend;
  names: ReadonlySet<string>;
  /** The beginning of a small file. */
  read(name: string): Promise<string>;
  /** What is looked at, for errors. */
  what: string;
}

/**
 * Checks that a database is whole in form: that the files are there without which no node opens it. What is in its tables is not looked at.
 *
 * @throws PresyncError DATABASE_INCOMPLETE
 */
export async function assertWholeDatabase(listing: DatabaseListing): Promise<void> {
  await (listing.backend === 'rocksdb' ? assertRocksdb(listing) : assertParitydb(listing));
}

async function assertRocksdb(listing: DatabaseListing): Promise<void> {
  // Substrate refuses a RocksDB without it (`substrate/client/db/src/upgrade.rs`).
  assertNames(listing, ['CURRENT', 'db_version']);
  const current = await listing.read('CURRENT');
  const manifest = /^(MANIFEST-\d{6,20})\n$/.exec(current)?.[1];
  if (manifest === undefined) throw incomplete(listing, 'its CURRENT names no MANIFEST file');
  if (!listing.names.has(manifest))
    throw incomplete(listing, `its CURRENT names ${manifest}, which is not there`);
}

async function assertParitydb(listing: DatabaseListing): Promise<void> {
  assertNames(listing, ['metadata']);
  if (!isMetadata(await listing.read('metadata')))
    throw incomplete(listing, 'its metadata has no version or no salt');
  const columnsOf = (kind: string): Set<string> =>
    new Set([...listing.names].flatMap((name) => new RegExp(`^${kind}_(\\d{2,3})_`).exec(name)?.[1] ?? []));
  const tables = columnsOf('table');
  if (tables.size === 0) throw incomplete(listing, 'it has no tables');
  // ParityDB writes a value before the index entry that leads to it (parity-db `column.rs`).
  const without = [...columnsOf('index')].find((column) => !tables.has(column));
  if (without !== undefined) throw incomplete(listing, `its column ${without} has an index and no table`);
}

function assertNames(listing: DatabaseListing, names: readonly string[]): void {
  const absent = names.find((name) => !listing.names.has(name));
  if (absent !== undefined) throw incomplete(listing, `it has no ${absent}`);
}

function incomplete({ what, backend }: DatabaseListing, why: string): PresyncError {
  return new PresyncError('DATABASE_INCOMPLETE', `the ${backend} database in ${what} is not whole: ${why}`, {
    hint: 'do not use it; ask who made it for a whole one',
  });
}
