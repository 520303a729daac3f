import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import {
  channelSchema,
  encodeDocument,
  parseDocument,
  sequenceSchema,
  sha256Schema,
  timeSchema,
} from '@presync/format/documents';
import { errnoOf, ioError, isPresyncError, type PresyncError } from '@presync/runtime/errors';
import { waitForLock } from '@presync/runtime/lock';
import { z } from 'zod';
import { replaceFile } from './lib/durable.ts';
import type { Snapshot } from './repository.ts';

/** A snapshot that turned out damaged while this machine restored it. */
export interface FailedSnapshot {
  /** SHA-256 of its manifest: a snapshot that is taken anew is another one. */
  manifest: string;
  channel: string;
  sequence: number;
  code: string;
  reason: string;
  /** When, in ISO form. */
  at: string;
}

/**
 * What a machine remembers, so that it does not download the same damage again and again: one small file in the state
 * directory. It is safe to lose.
 */
export interface FailedRecord {
  /** The newest last. */
  failures: readonly FailedSnapshot[];
  /** Failures since a restore succeeded. */
  inARow: number;
  /** Why the record could not be read, and counts as empty. */
  unreadable?: string | undefined;
}

/** Older failures are forgotten: retention has removed those snapshots long since. */
const MAX_FAILURES = 64;
/** How much of a reason is kept. */
const MAX_REASON = 1000;
/** A record is written in milliseconds. */
const PATIENCE_MS = 30_000;

const recordSchema = z.strictObject({
  presync: z.literal('failed'),
  version: z.literal(1),
  inARow: z.int().min(0),
  failures: z
    .array(
      z.strictObject({
        manifest: sha256Schema,
        channel: channelSchema,
        sequence: sequenceSchema,
        code: z.string().max(64),
        reason: z.string().max(MAX_REASON),
        at: timeSchema,
      }),
    )
    .max(MAX_FAILURES),
});

function folderOf(stateDir: string): string {
  return join(stateDir, 'failed');
}

function pathOf(stateDir: string): string {
  return join(folderOf(stateDir), 'snapshots.json');
}

/** @throws IO_FAILED */
export async function readFailed(stateDir: string): Promise<FailedRecord> {
  const path = pathOf(stateDir);
  try {
    const { failures, inARow } = parseDocument(await readFile(path), recordSchema, path);
    return { failures, inARow };
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return { failures: [], inARow: 0 };
    if (!isPresyncError(error)) throw ioError(error, 'read', path);
    return { failures: [], inARow: 0, unreadable: error.message };
  }
}

/** Remembers that a snapshot failed, and returns how many have failed in a row. */
export function recordFailure(
  stateDir: string,
  { manifest, sha256 }: Pick<Snapshot, 'manifest' | 'sha256'>,
  { code, message }: PresyncError,
  { signal }: { signal: AbortSignal },
): Promise<number> {
  const { channel, sequence } = manifest;
  const failure: FailedSnapshot = {
    manifest: sha256,
    channel,
    sequence,
    code,
    reason: message.slice(0, MAX_REASON),
    at: new Date().toISOString(),
  };
  return change(stateDir, signal, ({ failures, inARow }) => ({
    failures: [...failures.filter((known) => known.manifest !== sha256), failure].slice(-MAX_FAILURES),
    inARow: inARow + 1,
  }));
}

/** A restore succeeded: failures are counted anew, and those of this snapshot are forgotten. */
export async function recordSuccess(
  stateDir: string,
  { sha256 }: Pick<Snapshot, 'sha256'>,
  { signal }: { signal: AbortSignal },
): Promise<void> {
  const { failures, inARow } = await readFailed(stateDir);
  if (inARow === 0 && failures.every(({ manifest }) => manifest !== sha256)) return;
  await change(stateDir, signal, (record) => ({
    failures: record.failures.filter(({ manifest }) => manifest !== sha256),
    inARow: 0,
  }));
}

/** Forgets all of it. */
export async function forgetFailures(stateDir: string): Promise<void> {
  const path = pathOf(stateDir);
  try {
    await rm(path, { force: true });
  } catch (error) {
    throw ioError(error, 'remove', path);
  }
}

async function change(
  stateDir: string,
  signal: AbortSignal,
  edit: (record: FailedRecord) => FailedRecord,
): Promise<number> {
  const dir = folderOf(stateDir);
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw ioError(error, 'make the folder', dir);
  }
  // Two restores may share a state directory.
  const lock = await waitForLock({ name: 'failed', dir, patienceMs: PATIENCE_MS, signal });
  const path = pathOf(stateDir);
  try {
    const { failures, inARow } = edit(await readFailed(stateDir));
    await replaceFile(path, encodeDocument({ presync: 'failed', version: 1, inARow, failures }));
    return inARow;
  } catch (error) {
    throw ioError(error, 'write', path);
  } finally {
    await lock.release();
  }
}
