import { setTimeout as sleep } from 'node:timers/promises';
import { type ErrorCode, isPresyncError, throwIfAborted } from '@presync/runtime/errors';

/** Reads in all before what comes damaged is taken to be damaged where it is stored. */
const READS = 4;

/** Doubles each time: a connection whose answers have got mixed up is closed by then. */
const FIRST_PAUSE_MS = 50;

/** What may also be damage on the way: part of the bytes, other bytes, or those of another object. */
const DAMAGE: ReadonlySet<ErrorCode> = new Set([
  'FORMAT_INVALID',
  'CHUNK_CORRUPT',
  'INDEX_CORRUPT',
  'MANIFEST_CORRUPT',
  'MANIFEST_UNTRUSTED',
  'OBJECT_TOO_LARGE',
]);

/** Reads and proves something, and does so again when it comes damaged. Throws what the first attempt did when all fail. */
export async function readAgain<T>(signal: AbortSignal, read: () => Promise<T>): Promise<T> {
  let first: unknown;
  for (let attempt = 1; ; attempt++) {
    try {
      return await read();
    } catch (error) {
      if (!isPresyncError(error) || !DAMAGE.has(error.code)) throw error;
      first ??= error;
      if (attempt >= READS) throw first;
    }
    // A wait that the signal ends is told by the next line.
    await sleep(FIRST_PAUSE_MS * 2 ** (attempt - 1), undefined, { signal }).catch(() => undefined);
    throwIfAborted(signal);
  }
}
