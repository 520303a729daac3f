import { stat } from 'node:fs/promises';
import { ioError, PresyncError } from '@presync/runtime/errors';
import type { DatabaseLayout } from '../layout.ts';
import type { FrozenView } from '../view.ts';
import { findDatabase } from './find-database.ts';
import { readDatabaseIdentity } from './identity.ts';
import { scanDatabase } from './scan.ts';

/**
 * The database in a frozen copy of the base path that somebody else has made, a volume's snapshot say, as a view. Whoever made the copy removes
 * it; the view's own `release` does nothing.
 *
 * @throws NODE_PAUSE_FAILED when there is no copy of this database, or it is the live one
 * @throws NODE_UNKNOWN_FILE, IO_FAILED, ABORTED
 */
export async function openCopy(
  layout: DatabaseLayout,
  basePath: string,
  options: { signal: AbortSignal },
): Promise<FrozenView> {
  const copy = await findDatabase({
    basePath,
    chainId: layout.chainId,
    backend: layout.backend,
    signal: options.signal,
  }).catch((error: unknown) => {
    if (options.signal.aborted) throw error;
    throw unfit(basePath, 'holds no copy of the database', error);
  });
  if (await isSameFolder(copy.dir, layout.dir))
    throw unfit(basePath, 'is the live database, not a copy of it');
  const [mine, live] = [
    await readDatabaseIdentity(copy, options),
    await readDatabaseIdentity(layout, options),
  ];
  if (mine.identity !== live.identity) throw unfit(basePath, 'is a copy of another database');
  const files = await scanDatabase(copy, options);
  return {
    dir: copy.dir,
    files: files.map((file) => ({
      ...file,
      archivePath: `${layout.archivePrefix}/${file.name}`,
      viewPath: file.path,
      method: 'copy',
    })),
    methods: { link: 0, reflink: 0, copy: files.length },
    bytesReadInPause: 0,
    bytesCopiedInPause: 0,
    release: async () => {},
  };
}

async function isSameFolder(one: string, other: string): Promise<boolean> {
  try {
    const [a, b] = [await stat(one, { bigint: true }), await stat(other, { bigint: true })];
    return a.dev === b.dev && a.ino === b.ino;
  } catch (error) {
    throw ioError(error, 'look at', one);
  }
}

function unfit(path: string, why: string, cause?: unknown): PresyncError {
  return new PresyncError('NODE_PAUSE_FAILED', `${path}, where the before hook leaves its copy, ${why}`, {
    cause,
    hint: 'look at the hook’s output in the log; --hook-view names what stands for the base path',
  });
}
