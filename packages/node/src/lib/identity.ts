import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { ioError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { DatabaseIdentity, DatabaseLayout } from '../layout.ts';
import { isParachains } from './classify.ts';
import { metadataField } from './metadata.ts';

/** These files are some dozens to some thousand bytes long. */
const MAX_BYTES = 1 << 20;

/**
 * Reads what tells this database from another one.
 *
 * @throws FORMAT_INVALID when the file is not what the backend writes
 * @throws IO_FAILED, ABORTED
 */
export async function readDatabaseIdentity(
  layout: DatabaseLayout,
  options: { signal: AbortSignal },
): Promise<DatabaseIdentity> {
  const { signal } = options;
  if (layout.backend === 'rocksdb') {
    const identity = await readText(layout, 'IDENTITY', /^[\w.-]{1,200}$/, signal);
    const name = isParachains(layout.role) ? 'parachain_db_version' : 'db_version';
    const version = await readText(layout, name, /^\d{1,9}$/, signal);
    return { identity, version };
  }
  const text = await readText(layout, 'metadata', undefined, signal);
  return {
    identity: fieldOf(layout, text, 'salt'),
    version: fieldOf(layout, text, 'version'),
  };
}

function fieldOf(layout: DatabaseLayout, text: string, key: 'salt' | 'version'): string {
  const value = metadataField(text, key);
  if (value === undefined) throw malformed(join(layout.dir, 'metadata'), `has no valid ${key}`);
  return value;
}

async function readText(
  layout: DatabaseLayout,
  name: string,
  pattern: RegExp | undefined,
  signal: AbortSignal,
): Promise<string> {
  throwIfAborted(signal);
  const path = join(layout.dir, name);
  try {
    await using file = await open(path, 'r');
    const buffer = Buffer.alloc(MAX_BYTES);
    const { bytesRead } = await file.read(buffer, 0, MAX_BYTES, 0);
    const text = buffer.toString('utf8', 0, bytesRead);
    if (pattern === undefined) return text;
    if (!pattern.test(text.trim()))
      throw malformed(path, `does not hold what ${layout.backend} writes there`);
    return text.trim();
  } catch (error) {
    throw ioError(error, 'read', path);
  }
}

function malformed(path: string, what: string): PresyncError {
  return new PresyncError('FORMAT_INVALID', `${path} ${what}`, {
    hint: 'start the node once and let it check its database',
  });
}
