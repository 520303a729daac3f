import { isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { FileBody, ObjectInfo, ObjectStore, PutOptions } from '../object-store.ts';
import { proveConditionalWrites } from '../probe.ts';
import { unlessAborted } from './abort.ts';
import { alreadyThere, isFileBody, wasChanged } from './calls.ts';
import { putInParts } from './s3-multipart.ts';
import { MAX_PUT_BYTES, putWhole, type UploadContext } from './s3-upload.ts';

/** When and how files are put in parts. Bytes in memory are put at once. */
export interface PartOptions {
  /** Whether it is done at all; true believes that the server honours conditions there. Default: that is tried first. */
  multipart?: boolean | undefined;
  /** Files of more bytes are put in parts. Default 64 MiB. */
  multipartThreshold?: number | undefined;
  /** Bytes of a part, 5 MiB to 5 GiB. Default 16 MiB. */
  partSize?: number | undefined;
}

const DEFAULT_THRESHOLD = 64 * 1024 ** 2;
const DEFAULT_PART_BYTES = 16 * 1024 ** 2;

/** Keys that are remembered at a time. */
const MAX_BROKEN = 1000;

/**
 * The put of the S3 store. A conditional put in parts is made only where the server has been seen to honour conditions on the completion of
 * multipart uploads: many that do on single puts came to it later (Ceph in 2025) or never.
 */
export function createPut(
  context: UploadContext,
  options: PartOptions,
  store: ObjectStore,
): ObjectStore['put'] {
  const { connection } = context;
  const { location } = store;
  const threshold = options.multipartThreshold ?? DEFAULT_THRESHOLD;
  const partBytes = options.partSize ?? DEFAULT_PART_BYTES;
  /** Why conditional puts are not made in parts here; undefined when they are. */
  let proof: Promise<string | undefined> | undefined;

  /** By puts in parts of a few bytes each. */
  async function prove(signal: AbortSignal): Promise<string | undefined> {
    const inParts: ObjectStore = {
      ...store,
      put: (key, body, call) => putInParts(context, key, body, call, partBytes),
    };
    try {
      await proveConditionalWrites(inParts, { signal });
      return undefined;
    } catch (error) {
      const refused =
        error instanceof PresyncError &&
        !error.retryable &&
        ['STORE_NO_CONDITIONAL_WRITES', 'STORE_FAILED', 'STORE_READ_ONLY'].includes(error.code);
      if (!refused) throw error;
      return error.message;
    }
  }

  async function proved(signal: AbortSignal): Promise<string | undefined> {
    for (;;) {
      const others = proof;
      proof ??= prove(signal).catch((error: unknown) => {
        proof = undefined;
        throw error;
      });
      try {
        return await unlessAborted(proof, signal);
      } catch (error) {
        throwIfAborted(signal);
        // The put that began the proof was stopped, which is no reason to stop this one.
        if (others === undefined || !isPresyncError(error, 'ABORTED')) throw error;
      }
    }
  }

  async function inParts(key: string, size: number, { condition, signal }: PutOptions): Promise<boolean> {
    if (options.multipart === false || size <= threshold) return false;
    if (options.multipart === true || condition === undefined) return true;
    const why = await proved(signal);
    if (why === undefined) return true;
    connection.notify(
      'settings',
      `files are put into ${location} at once, however large, since conditions do not hold for multipart uploads there: ${why}`,
    );
    if (size <= MAX_PUT_BYTES) return false;
    throw new PresyncError(
      'STORE_NO_CONDITIONAL_WRITES',
      `${key} would have ${size} bytes, which takes a multipart upload, and conditions do not hold for those in ${location}: ${why}`,
      { hint: 'use a store that honours If-Match and If-None-Match on CompleteMultipartUpload' },
    );
  }

  /** Spares to send what would be refused in the end. */
  async function assertCondition(key: string, { condition, signal }: PutOptions): Promise<void> {
    if (condition === undefined) return;
    let found: ObjectInfo | undefined;
    try {
      found = await store.stat(key, { signal });
    } catch (error) {
      // Who may only write finds it out by the put.
      if (isPresyncError(error, 'STORE_FORBIDDEN')) return;
      throw error;
    }
    if ('ifAbsent' in condition) {
      if (found !== undefined) throw alreadyThere(key, location);
    } else if (found?.version !== condition.ifVersion) {
      throw wasChanged(key, location);
    }
  }

  /** Keys of conditional puts whose connection broke: some servers refuse before they have read the body, and close. */
  const broken = new Set<string>();

  return async (key: string, body: Uint8Array | FileBody, call: PutOptions) => {
    throwIfAborted(call.signal);
    const parts = isFileBody(body) && (await inParts(key, body.size, call));
    if (parts || broken.has(key)) await assertCondition(key, call);
    try {
      const put = await (parts
        ? putInParts(context, key, body, call, partBytes)
        : putWhole(context, key, body, call));
      broken.delete(key);
      return put;
    } catch (error) {
      if (call.condition !== undefined && isPresyncError(error, 'STORE_UNREACHABLE')) {
        if (broken.size >= MAX_BROKEN) broken.clear();
        broken.add(key);
      }
      throw error;
    }
  };
}
