import { statfs } from 'node:fs/promises';
import { PresyncError } from '@presync/runtime/errors';

/** Watches that what is unpacked, of whatever size its packer says it is, fits on the disk. */
export interface Room {
  /** So many bytes will come. Throws NO_SPACE when all that was announced is more than there was room for. */
  announce(bytes: number): void;
  /** So many bytes are about to be written. Rejects with NO_SPACE when the disk is nearly full. */
  use(bytes: number): Promise<void>;
}

/** The disk is looked at each time that so many bytes were written, and so many are left free. */
const MARGIN = 64 * 1024 * 1024;

/** `held`: bytes of files that lie there already and are announced all the same. */
export async function createRoom(dir: string, held: number): Promise<Room> {
  const free = async (): Promise<number> => {
    const { bavail, bsize } = await statfs(dir);
    return bavail * bsize;
  };
  const room = (await free()) + held;
  let announced = 0;
  let unchecked = 0;
  const noSpace = (why: string): PresyncError =>
    new PresyncError('NO_SPACE', `${dir} has no room for the database: ${why}`, {
      hint: 'use a larger disk, or remove what is not needed; a database that is replaced stays until the new one is complete',
    });
  return {
    announce(bytes) {
      announced += bytes;
      if (announced > room) throw noSpace(`${room} bytes were free, and it has ${announced} so far`);
    },
    async use(bytes) {
      unchecked += bytes;
      if (unchecked < MARGIN) return;
      unchecked = 0;
      const left = await free();
      if (left < MARGIN) throw noSpace(`${left} bytes are free, and more is to come`);
    },
  };
}
