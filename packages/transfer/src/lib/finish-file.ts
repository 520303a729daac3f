import { open } from 'node:fs/promises';
import { ioError } from '@presync/runtime/errors';

/** Brings a complete file to disk with its metadata. */
export async function finishFile(
  path: string,
  { mtimeMs, owner }: { mtimeMs: number; owner: { uid: number; gid: number } | undefined },
): Promise<void> {
  const handle = await open(path, 'r+');
  try {
    await handle.utimes(new Date(), new Date(mtimeMs));
    await handle.chmod(0o644);
    if (owner !== undefined) await handle.chown(owner.uid, owner.gid);
    await handle.sync();
  } catch (error) {
    throw ioError(error, 'sync', path);
  } finally {
    await handle.close();
  }
}
