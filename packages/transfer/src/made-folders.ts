import { chown, mkdir, rmdir } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { errnoOf, ioError, messageOf, PresyncError } from '@presync/runtime/errors';

/** Folders that were made for some work, and can be taken back when the work is refused. */
export interface MadeFolders {
  /** Removes those that are still empty, the deepest first. Never fails: an empty folder that stays does no harm. */
  undo(): Promise<void>;
}

/**
 * Makes a folder and all that are missing above it, with the owner that is given.
 *
 * @throws PresyncError TARGET_UNWRITABLE, NO_SPACE, IO_FAILED
 */
export async function makeFolders(
  path: string,
  owner?: { uid: number; gid: number } | undefined,
): Promise<MadeFolders> {
  const made: string[] = [];
  try {
    const whole = resolve(path);
    const first = await mkdir(whole, { recursive: true, mode: 0o755 });
    for (let folder = whole; first !== undefined && folder.length >= first.length; folder = dirname(folder))
      made.push(folder);
    if (owner !== undefined) for (const folder of made) await chown(folder, owner.uid, owner.gid);
  } catch (error) {
    const code = errnoOf(error);
    if (code !== 'EACCES' && code !== 'EPERM' && code !== 'EROFS') throw ioError(error, 'make', path);
    throw new PresyncError('TARGET_UNWRITABLE', `cannot make ${path}: ${messageOf(error)}`, {
      cause: error,
      hint: 'run as a user who may write there, or mount the file system writable',
    });
  }
  return {
    async undo() {
      for (const folder of made) {
        try {
          await rmdir(folder);
        } catch (error) {
          if (errnoOf(error) === 'ENOENT') continue;
          return;
        }
      }
    },
  };
}
