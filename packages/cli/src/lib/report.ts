import { rename, writeFile } from 'node:fs/promises';
import { ioError } from '@presync/runtime/errors';

/** Writes a result into the file that `--report` names, replacing it at once. */
export async function writeReport(path: string | undefined, document: unknown): Promise<void> {
  if (path === undefined) return;
  const temporary = `${path}.${process.pid}.new`;
  try {
    await writeFile(temporary, `${JSON.stringify(document, null, 2)}\n`);
    await rename(temporary, path);
  } catch (error) {
    throw ioError(error, 'write', path);
  }
}
