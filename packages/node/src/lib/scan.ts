import { type BigIntStats, lstatSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { errnoOf, ioError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { DatabaseFile, DatabaseLayout } from '../layout.ts';
import { classifyFile, isParachains } from './classify.ts';
import { PARACHAINS_FOLDER } from './roles.ts';

/** More files than any node's database has; a folder with more is something else. */
export const MAX_FILES = 1_000_000;

/** How many files are looked at before other work gets its turn. */
const BATCH = 512;

/**
 * Every file of the database that belongs to a snapshot, sorted bytewise by archive path. Symbolic links are never
 * followed. A file that disappears between listing and looking is left out: a running RocksDB deletes SSTs at any time.
 *
 * The calls are synchronous, in batches: 16,000 files take 0.1 s this way, several times as long through the thread pool,
 * and the node stands still meanwhile.
 *
 * @throws NODE_UNKNOWN_FILE for anything that is not on the backend's allow-list or not a regular file
 * @throws NODE_LAYOUT_NOT_FOUND when the folder is gone
 * @throws IO_FAILED, ABORTED
 */
export async function scanDatabase(
  layout: DatabaseLayout,
  options: { signal: AbortSignal },
): Promise<DatabaseFile[]> {
  throwIfAborted(options.signal);
  const names = listFolder(layout.dir);
  if (names.length > MAX_FILES) {
    throw new PresyncError(
      'NODE_UNKNOWN_FILE',
      `${layout.dir} holds ${names.length} entries, more than the ${MAX_FILES} that a database can have`,
      {
        hint: 'check that the base path is a node’s',
      },
    );
  }
  const files: DatabaseFile[] = [];
  for (const [index, name] of names.entries()) {
    if (index % BATCH === BATCH - 1) await setImmediate();
    throwIfAborted(options.signal);
    const file = lookAt(layout, name);
    if (file !== undefined) files.push(file);
  }
  return files.sort((a, b) => (a.archivePath < b.archivePath ? -1 : a.archivePath > b.archivePath ? 1 : 0));
}

function listFolder(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') {
      throw new PresyncError('NODE_LAYOUT_NOT_FOUND', `the database folder ${dir} is gone`, {
        cause: error,
        hint: 'check the base path',
      });
    }
    throw ioError(error, 'list', dir);
  }
}

function lookAt(layout: DatabaseLayout, name: string): DatabaseFile | undefined {
  const path = join(layout.dir, name);
  // A name that is not on the list must stop the run also when its owner removes it right after, so it is judged first.
  const fileClass = classifyFile(layout.backend, name, layout.role);
  let stats: BigIntStats;
  try {
    stats = lstatSync(path, { bigint: true });
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' && fileClass !== undefined) return undefined;
    throw errnoOf(error) === 'ENOENT' ? unknownFile(layout, name, 'a file') : ioError(error, 'look at', path);
  }
  // The database of parachain data, which is another part.
  if (
    layout.backend === 'rocksdb' &&
    !isParachains(layout.role) &&
    name === PARACHAINS_FOLDER &&
    stats.isDirectory()
  )
    return undefined;
  if (!stats.isFile()) throw unknownFile(layout, name, kindOf(stats));
  if (fileClass === undefined) throw unknownFile(layout, name, 'a file');
  if (fileClass === 'skip') return undefined;
  return {
    name,
    archivePath: `${layout.archivePrefix}/${name}`,
    path,
    class: fileClass,
    size: Number(stats.size),
    allocated: Number(stats.blocks) * 512,
    mode: Number(stats.mode & 0o7777n),
    mtimeNs: stats.mtimeNs,
    ctimeNs: stats.ctimeNs,
    birthtimeNs: stats.birthtimeNs,
    ino: stats.ino,
    dev: stats.dev,
  };
}

function kindOf(stats: BigIntStats): string {
  if (stats.isSymbolicLink()) return 'a symbolic link';
  if (stats.isDirectory()) return 'a folder';
  return 'a special file';
}

function unknownFile(layout: DatabaseLayout, name: string, kind: string): PresyncError {
  return new PresyncError(
    'NODE_UNKNOWN_FILE',
    `${JSON.stringify(name)} in ${layout.dir} is ${kind} that no ${layout.backend} database has`,
    {
      hint: 'move it out of the database folder; if the database itself wrote it, report its name, since presync takes nothing that it does not know',
    },
  );
}
