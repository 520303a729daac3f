import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import type { FileBody, ObjectData, ObjectInfo, ReadOptions } from '../object-store.ts';

/** True for a body that is read from a file. */
export function isFileBody(body: Uint8Array | FileBody): body is FileBody {
  return !(body instanceof Uint8Array);
}

/** Bytes of a body. */
export function bodySize(body: Uint8Array | FileBody): number {
  return isFileBody(body) ? body.size : body.byteLength;
}

/**
 * The bytes from `start` up to `end` that a read gives of an object of `size` bytes.
 * Throws OBJECT_TOO_LARGE when they are more than the caller's bound, INTERNAL for a range that cannot be.
 */
export function window(key: string, size: number, options: ReadOptions): { start: number; end: number } {
  assertRange(key, options.range);
  const start = Math.min(options.range?.offset ?? 0, size);
  const end = options.range === undefined ? size : Math.min(size, start + options.range.length);
  assertWithin(key, end - start, options.maxBytes);
  return { start, end };
}

/** Throws OBJECT_TOO_LARGE when a read would give more than `maxBytes`. */
export function assertWithin(key: string, bytes: number, maxBytes: number): void {
  if (bytes > maxBytes) throw tooLarge(key, `${bytes}`, maxBytes);
}

/** OBJECT_TOO_LARGE; `bytes` says how many there are, as far as that is known. */
export function tooLarge(key: string, bytes: string, maxBytes: number): PresyncError {
  return new PresyncError(
    'OBJECT_TOO_LARGE',
    `${key} has ${bytes} bytes where at most ${maxBytes} are allowed`,
    {
      hint: 'something other than presync has written this object, or it is damaged: run `presync verify`',
    },
  );
}

/**
 * What a read gives of a range that has no bytes, with the size and version that `stat` tells. `grown` is thrown when the object reaches
 * past `offset` after all.
 */
export async function emptyRead(
  key: string,
  offset: number,
  {
    location,
    stat,
    grown,
  }: { location: string; stat: () => Promise<ObjectInfo | undefined>; grown: () => PresyncError },
): Promise<ObjectData> {
  const found = await stat();
  if (found === undefined) throw notFound(key, location);
  if (found.size > offset) throw grown();
  return { bytes: new Uint8Array(0), size: found.size, version: found.version };
}

/** Throws INTERNAL for a range that is not two whole numbers. */
export function assertRange(key: string, range: ReadOptions['range']): void {
  if (range === undefined) return;
  if ([range.offset, range.length].every((n) => Number.isSafeInteger(n) && n >= 0)) return;
  throw new PresyncError('INTERNAL', `the range ${range.offset}+${range.length} of ${key} is not one`);
}

/** What the call gives; undefined when there is no such object. */
export async function unlessAbsent<T>(call: Promise<T>): Promise<T | undefined> {
  try {
    return await call;
  } catch (error) {
    if (isPresyncError(error, 'OBJECT_NOT_FOUND')) return undefined;
    throw error;
  }
}

/** OBJECT_NOT_FOUND for this object. */
export function notFound(key: string, location: string, cause?: unknown): PresyncError {
  return new PresyncError('OBJECT_NOT_FOUND', `there is no object ${key} in ${location}`, {
    cause,
    hint: 'it was never written, or was removed: look at the store URL, and at what else removes objects there',
  });
}

/** CONDITION_FAILED for a create-only put that found an object. */
export function alreadyThere(key: string, location: string, cause?: unknown): PresyncError {
  return new PresyncError('CONDITION_FAILED', `${key} is already in ${location}`, {
    cause,
    hint: 'another writer was first; look at what it wrote',
  });
}

/** CONDITION_FAILED for a replacing put that found another version, or none. */
export function wasChanged(key: string, location: string, cause?: unknown): PresyncError {
  return new PresyncError(
    'CONDITION_FAILED',
    `${key} in ${location} is not the version that was to be replaced`,
    {
      cause,
      hint: 'another writer was first; read the object again and decide anew',
    },
  );
}

/** The FileBody is not what it says. */
export function bodyChanged(path: string, key: string): PresyncError {
  return new PresyncError('IO_FAILED', `${path} changed its size while it was put as ${key}`, {
    hint: 'nothing else may write to the file during the upload',
  });
}
