import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errnoOf, ioError } from '@presync/runtime/errors';

/**
 * The file that says that the database here is whole: the condition on which a node's unit starts. It lies where a boot
 * finds nothing (`/run`), so that no older boot's word counts. Without a path nothing is written.
 */
export interface Seal {
  /** Takes the word back, before anything is changed. What it said, or undefined when it was not given. */
  break(): Promise<string | undefined>;
  /** Gives it. The text is for people. */
  set(text: string): Promise<void>;
}

export function createSeal(path: string | undefined): Seal {
  if (path === undefined) return { break: async () => undefined, set: async () => {} };
  return {
    async break() {
      try {
        const text = await readFile(path, 'utf8');
        await rm(path);
        return text;
      } catch (error) {
        if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return undefined;
        throw ioError(error, 'remove', path);
      }
    },
    async set(text) {
      const temporary = `${path}.${process.pid}.new`;
      try {
        await mkdir(dirname(path), { recursive: true });
        await writeFile(temporary, text);
        await rename(temporary, path);
      } catch (error) {
        throw ioError(error, 'write', path);
      }
    },
  };
}
