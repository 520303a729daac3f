import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  channelSchema,
  encodeDocument,
  parseDocument,
  sequenceSchema,
  sha256Schema,
} from '@presync/format/documents';
import { errnoOf, ioError } from '@presync/runtime/errors';
import { waitForLock } from '@presync/runtime/lock';
import { z } from 'zod';
import { replaceFile } from './lib/durable.ts';

/**
 * What this machine has accepted from each channel: the guard against a repository that is rolled back. One small file
 * for each repository and channel, in the state directory.
 */
export interface Seen {
  sequence: number;
  /** SHA-256 of `manifest.json`. */
  sha256: string;
}

const seenSchema = z.strictObject({
  presync: z.literal('seen'),
  version: z.literal(1),
  repository: z.uuid(),
  channel: channelSchema,
  sequence: sequenceSchema,
  sha256: sha256Schema,
});

export interface SeenSubject {
  stateDir: string;
  repositoryId: string;
  channel: string;
}

function pathOf({ stateDir, repositoryId, channel }: SeenSubject): string {
  return join(stateDir, 'seen', `${repositoryId}-${channel.replace('/', '-')}.json`);
}

/** The newest snapshot that was accepted, or undefined. A damaged record is an error: forgetting would let a rollback pass. */
export async function readSeen(subject: SeenSubject): Promise<Seen | undefined> {
  const path = pathOf(subject);
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw ioError(error, 'read', path);
  }
  const { sequence, sha256 } = parseDocument(bytes, seenSchema, path);
  return { sequence, sha256 };
}

/** A record is written in milliseconds. */
const PATIENCE_MS = 30_000;

/**
 * Remembers a snapshot, unless a newer one was accepted before. One writer at a time, or the lower of two numbers could be the one that stays.
 *
 * @throws LOCKED when another presync holds the records for half a minute; IO_FAILED, ABORTED
 */
export async function recordSeen(
  subject: SeenSubject,
  seen: Seen,
  { signal }: { signal: AbortSignal },
): Promise<void> {
  const dir = join(subject.stateDir, 'seen');
  const path = pathOf(subject);
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw ioError(error, 'make the folder', dir);
  }
  const lock = await waitForLock({ name: 'seen', dir, patienceMs: PATIENCE_MS, signal });
  try {
    const before = await readSeen(subject);
    if (before !== undefined && before.sequence >= seen.sequence) return;
    await write(subject, seen, path);
  } finally {
    await lock.release();
  }
}

async function write(subject: SeenSubject, seen: Seen, path: string): Promise<void> {
  const document = {
    presync: 'seen',
    version: 1,
    repository: subject.repositoryId,
    channel: subject.channel,
    sequence: seen.sequence,
    sha256: seen.sha256,
  };
  try {
    await replaceFile(path, encodeDocument(document));
  } catch (error) {
    throw ioError(error, 'write', path);
  }
}
