import { isSafeSegment } from '@presync/format/paths';
import { type Backend, classifyFile, type FileClass } from '@presync/node/layout';
import { PresyncError } from '@presync/runtime/errors';

/** A database that an archive holds. */
export interface ArchiveDatabase {
  /** Its folder in the archive; '' when its files lie at the top. */
  dir: string;
  backend: Backend;
  /** The chain spec id, where the archive's paths name it. */
  chainId: string | undefined;
}

/** What a file of an archive is: one of the database's, or nothing that is wanted. */
export type Sorted = { name: string; class: Exclude<FileClass, 'skip'> } | undefined;

/**
 * Finds the one database in an archive by the paths of its files, in whatever order they come. Archives are made of the base path, of the
 * folder of a chain, or of a database folder, so a database may lie in `…/chains/<id>/db/full`, `…/chains/<id>/paritydb/full`,
 * `db/full`, `paritydb/full`, `full`, or at the top.
 */
export interface ArchiveSorter {
  /**
   * @throws PresyncError ARCHIVE_UNFIT when the file belongs to a second database; PATH_UNSAFE
   */
  sort(path: string): Sorted;
  /** The database, as far as it was seen. */
  readonly found: ArchiveDatabase | undefined;
  /** What was left out. */
  readonly skipped: { count: number; names: readonly string[] };
  /** Nothing follows. Throws MANIFEST_FOREIGN, TARGET_BACKEND or ARCHIVE_UNFIT when there was no database, or not the wanted one. */
  finish(): ArchiveDatabase;
}

export interface ArchiveSorterOptions {
  /** The archive, for errors. */
  what: string;
  /** Only the database of this chain. A folder that names no chain may be of any. */
  chainId?: string | undefined;
  /** Only a database of this backend. */
  backend?: Backend | undefined;
  /** Told of each database that is there and is not wanted, once. */
  onOther?: ((database: ArchiveDatabase) => void) | undefined;
}

const BACKENDS: readonly Backend[] = ['rocksdb', 'paritydb'];
const FOLDERS: Readonly<Record<string, Backend>> = { db: 'rocksdb', paritydb: 'paritydb' };

/** Names of what was left out that are told. */
const MAX_NAMES = 20;
const MAX_SHOWN = 200;
/** Databases that are told of when none is the right one; more are no chain's. */
const MAX_OTHERS = 8;

export function createArchiveSorter(options: ArchiveSorterOptions): ArchiveSorter {
  const { what, chainId, backend } = options;
  const skipped = { count: 0, names: [] as string[] };
  const others: ArchiveDatabase[] = [];
  let found: ArchiveDatabase | undefined;

  function skip(path: string): undefined {
    skipped.count += 1;
    if (skipped.names.length < MAX_NAMES) skipped.names.push(path.slice(0, MAX_SHOWN));
  }

  function other(database: ArchiveDatabase): void {
    if (others.length >= MAX_OTHERS || others.some((known) => isSame(known, database))) return;
    others.push(database);
    options.onOther?.(database);
  }

  return {
    get found() {
      return found;
    },
    skipped,

    sort(path) {
      const slash = path.lastIndexOf('/');
      const dir = path.slice(0, Math.max(0, slash));
      const name = path.slice(slash + 1);
      const place = placeOf(dir);
      if (place === undefined) return skip(path);
      const owner = BACKENDS.find((candidate) => classifyFile(candidate, name) !== undefined);
      const fileClass = owner === undefined ? undefined : classifyFile(owner, name);
      if (owner === undefined || fileClass === undefined || fileClass === 'skip') return skip(path);
      // A file of the other backend in a folder that says whose it is: a leftover.
      if (place.backend !== undefined && place.backend !== owner) return skip(path);
      if (place.chainId !== undefined && !isSafeSegment(place.chainId)) {
        throw new PresyncError(
          'PATH_UNSAFE',
          `${what} holds ${JSON.stringify(path.slice(0, MAX_SHOWN))}, which names no chain that can be`,
          {
            hint: 'do not use this archive; ask who made it',
          },
        );
      }
      const database: ArchiveDatabase = { dir, backend: owner, chainId: place.chainId };
      const wanted =
        (backend === undefined || backend === owner) &&
        (chainId === undefined || place.chainId === undefined || place.chainId === chainId);
      if (!wanted) {
        other(database);
        return skip(path);
      }
      found ??= database;
      if (!isSame(found, database)) throw several(what, found, database);
      return { name, class: fileClass };
    },

    finish() {
      if (found !== undefined) return found;
      const [first] = others;
      if (first === undefined) throw none(what, skipped);
      const list = others.map(describe).join(', ');
      if (
        chainId !== undefined &&
        others.every((database) => database.chainId !== undefined && database.chainId !== chainId)
      ) {
        throw new PresyncError(
          'MANIFEST_FOREIGN',
          `${what} holds ${list}, and no database of chain ${chainId}`,
          {
            hint: 'check --chain: it is the id in the chain specification, as ksmcc3 for Kusama',
          },
        );
      }
      throw new PresyncError('TARGET_BACKEND', `${what} holds ${list}, and no ${backend} database`, {
        hint: 'use an archive with that backend, or start the node with the other --database',
      });
    },
  };
}

/** What a folder's path says of the database in it; undefined when databases do not lie in such folders. */
function placeOf(dir: string): { backend: Backend | undefined; chainId: string | undefined } | undefined {
  if (dir === '') return { backend: undefined, chainId: undefined };
  const [full, kind, chain, chains] = dir.split('/').reverse();
  if (full !== 'full') return undefined;
  const backend = kind !== undefined && Object.hasOwn(FOLDERS, kind) ? FOLDERS[kind] : undefined;
  return { backend, chainId: backend !== undefined && chains === 'chains' ? chain : undefined };
}

function isSame(one: ArchiveDatabase, two: ArchiveDatabase): boolean {
  return one.dir === two.dir && one.backend === two.backend;
}

/** A database and its place in the archive, for people. */
export function describe({ dir, backend, chainId }: ArchiveDatabase): string {
  const chain = chainId === undefined ? '' : ` of chain ${chainId}`;
  return `a ${backend} database${chain} in ${dir === '' ? 'its top folder' : JSON.stringify(dir.slice(0, MAX_SHOWN))}`;
}

function several(what: string, one: ArchiveDatabase, two: ArchiveDatabase): PresyncError {
  const apart =
    one.chainId !== two.chainId ? '--chain' : one.backend !== two.backend ? '--backend' : undefined;
  return new PresyncError(
    'ARCHIVE_UNFIT',
    `${what} holds several databases: ${describe(one)}, and ${describe(two)}`,
    {
      hint:
        apart === undefined
          ? 'ask who made it for an archive with one'
          : `say with ${apart} which one is wanted`,
    },
  );
}

function none(what: string, { count, names }: { count: number; names: readonly string[] }): PresyncError {
  const seen =
    count === 0
      ? 'no file at all'
      : `${count} other files: ${names
          .slice(0, 5)
          .map((name) => JSON.stringify(name))
          .join(', ')}${count > 5 ? ', …' : ''}`;
  return new PresyncError('ARCHIVE_UNFIT', `${what} holds no database, but ${seen}`, {
    hint: 'a database lies in chains/<id>/db/full, chains/<id>/paritydb/full, db/full, paritydb/full or full, or at the top of an archive',
  });
}
