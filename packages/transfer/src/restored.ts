import { createHash } from 'node:crypto';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { encodeDocument, parseDocument, sha256Schema } from '@presync/format/documents';
import { encodeManifest, parseManifest } from '@presync/format/manifest';
import { errnoOf, ioError } from '@presync/runtime/errors';
import { z } from 'zod';
import { replaceFile } from './lib/durable.ts';
import type { RestorePlaces } from './part-targets.ts';
import type { Snapshot } from './repository.ts';

/** What this machine has restored to a place. */
export type Restored = Pick<Snapshot, 'manifest' | 'sha256' | 'trustedBy'>;

const restoredSchema = z.strictObject({
  presync: z.literal('restored'),
  version: z.literal(1),
  sha256: sha256Schema,
  trustedBy: z.array(z.string()),
  manifest: z.string(),
});

export interface RestoredSubject extends RestorePlaces {
  stateDir: string;
}

function pathOf({ stateDir, basePath, relayBasePath }: RestoredSubject): string {
  const places = [basePath, ...(relayBasePath === undefined ? [] : [relayBasePath])].map((dir) =>
    resolve(dir),
  );
  const name = createHash('sha256').update(places.join('\0')).digest('hex').slice(0, 32);
  return join(stateDir, 'restored', `${name}.json`);
}

/**
 * The snapshot that was last brought to these places, so that a machine which boots again need not ask a store what its
 * database is. It says nothing of whether the restore came to its end: the database itself tells that. Undefined when there is none.
 *
 * @throws FORMAT_INVALID when it is damaged, IO_FAILED
 */
export async function readRestored(subject: RestoredSubject): Promise<Restored | undefined> {
  const path = pathOf(subject);
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw ioError(error, 'read', path);
  }
  const { manifest, sha256, trustedBy } = parseDocument(bytes, restoredSchema, path);
  return { manifest: parseManifest(Buffer.from(manifest), path), sha256, trustedBy };
}

/** Nothing was brought there after all: what lies there later is a node's own. */
export async function forgetRestored(subject: RestoredSubject): Promise<void> {
  const path = pathOf(subject);
  try {
    await rm(path, { force: true });
  } catch (error) {
    throw ioError(error, 'remove', path);
  }
}

/**
 * To be written before the database takes its place, so that it is never described by the record of an older one.
 *
 * @throws IO_FAILED
 */
export async function recordRestored(
  subject: RestoredSubject,
  { manifest, sha256, trustedBy }: Restored,
): Promise<void> {
  const path = pathOf(subject);
  try {
    await mkdir(join(subject.stateDir, 'restored'), { recursive: true, mode: 0o700 });
    await replaceFile(
      path,
      encodeDocument({
        presync: 'restored',
        version: 1,
        sha256,
        trustedBy,
        manifest: encodeManifest(manifest).toString(),
      }),
    );
  } catch (error) {
    throw ioError(error, 'write', path);
  }
}
