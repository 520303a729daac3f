import type { CompletedPart, S3Client } from '@aws-sdk/client-s3';
import { isPresyncError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { cacheControl } from '../cache-control.ts';
import type { FileBody, PutOptions } from '../object-store.ts';
import { malformed } from './answer-errors.ts';
import type { FileSlice } from './body.ts';
import { bodySize } from './calls.ts';
import { quotedEtag } from './etag.ts';
import { inParallel } from './in-parallel.ts';
import { retried } from './retried.ts';
import { factsOf } from './s3-errors.ts';
import { assertFileSize, sliceOf } from './s3-slices.ts';
import {
  ADDING,
  adding,
  checksumParameters,
  conditionParameters,
  digestHeaders,
  tooLarge,
  type UploadContext,
} from './s3-upload.ts';
import { classHeaders, writeParameters } from './s3-writes.ts';
import { sleep } from './sleep.ts';

/** Objects have at most so many parts (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html). */
const MAX_PARTS = 10_000;

/** The largest object of the smallest limit: 5 TiB. */
const MAX_OBJECT_BYTES = 5 * 1024 ** 4;

/** Parts of one object that are on their way at a time. They are streamed, so that memory does not depend on their size. */
const PARALLEL = 4;

/** Part sizes are whole multiples of this. */
const ROUND_BYTES = 1024 ** 2;

/** A part that fails is sent again by itself: a put of thousands of parts would not get through a link with faults otherwise. */
const PART_ATTEMPTS = 5;

/** After an abort, the begin of an upload is waited for so long: only its answer tells what is to be removed. */
const BEGIN_GRACE_MS = 2000;

/** When a part has failed, the others that are on their way may come to their end for so long: what is cut off may still arrive. */
const PARTS_GRACE_MS = 5000;

/** How long the parts of a failed upload are tried to be removed, and how often. */
const CLEANUP_MS = 20_000;
const CLEANUP_ROUNDS = 4;

/** A part whose request was cut off has arrived by then, if ever. */
const SETTLE_MS = 1000;

/** The size of each part but the last: R2 wants all of them equal. */
export function partSize(size: number, partBytes: number): number {
  const least = Math.ceil(size / MAX_PARTS / ROUND_BYTES) * ROUND_BYTES;
  return Math.max(partBytes, least);
}

/** Puts a body part by part. Rejects as `put` does. */
export async function putInParts(
  context: UploadContext,
  key: string,
  body: Uint8Array | FileBody,
  options: PutOptions,
  partBytes: number,
): Promise<{ version: string }> {
  const size = bodySize(body);
  if (size > MAX_OBJECT_BYTES) throw tooLarge(key, size, MAX_OBJECT_BYTES);
  const { connection } = context;
  const { checksums } = connection.settings;
  try {
    return await upload(context, key, body, { ...options, partBytes, checksums });
  } catch (error) {
    // Checksums are announced when an upload begins, and some servers want them only when the first part comes.
    if (checksums || !connection.settings.checksums) throw error;
    return upload(context, key, body, { ...options, partBytes, checksums: true });
  }
}

interface PartsOptions extends PutOptions {
  partBytes: number;
  checksums: boolean;
}

/**
 * One multipart upload; the condition is that of the completion, the one call that makes an object of the parts. Whatever fails, the parts
 * are removed again: on S3 they cost as much as objects and are in no listing of them. A process that is killed leaves its parts to the
 * bucket's lifecycle rule (AbortIncompleteMultipartUpload).
 */
async function upload(
  context: UploadContext,
  key: string,
  body: Uint8Array | FileBody,
  { condition, immutable = false, signal, partBytes, checksums }: PartsOptions,
): Promise<{ version: string }> {
  const { connection, bucket, root, payer } = context;
  const sdk = await import('@aws-sdk/client-s3');
  const call = context.describe('PUT', key, signal);
  const target = { Bucket: bucket, Key: root + key, ...payer };
  throwIfAborted(call.signal);
  await assertFileSize(body, key);
  /** True when a request ended without its answer: what it was for may still happen. */
  let loose = false;
  const UploadId = await begin();
  try {
    throwIfAborted(call.signal);
    const parts = await sendParts();
    // A file that grew would end in an object that is only the first part of it.
    await assertFileSize(body, key);
    return { version: await complete(parts) };
  } catch (error) {
    await abandon(context, key, UploadId, loose);
    throw error;
  }

  async function begin(): Promise<string> {
    const patient = afterGrace(call.signal, BEGIN_GRACE_MS);
    try {
      return await connection.run({ ...call, signal: patient.signal }, async ({ client }) => {
        const command = new sdk.CreateMultipartUploadCommand({
          ...target,
          CacheControl: cacheControl(immutable),
          ...writeParameters(context),
          ...(checksums ? { ChecksumAlgorithm: 'SHA256' } : {}),
        });
        command.middlewareStack.add(adding(classHeaders(context, immutable)), ADDING);
        const answer = await client.send(command, { abortSignal: patient.signal });
        if (answer.UploadId === undefined || answer.UploadId === '')
          throw malformed(call, 'no id of the upload');
        return answer.UploadId;
      });
    } finally {
      patient.end();
    }
  }

  async function sendParts(): Promise<CompletedPart[]> {
    const size = bodySize(body);
    const length = partSize(size, partBytes);
    const parts: CompletedPart[] = Array.from({ length: Math.ceil(size / length) }, (_, index) => ({
      PartNumber: index + 1,
    }));
    const left = parts.entries();
    await inParallel(PARALLEL, call.signal, async (both) => {
      const patient = afterGrace(both, PARTS_GRACE_MS);
      const sending = AbortSignal.any([call.signal, patient.signal]);
      try {
        for (const [index, part] of left) {
          const start = index * length;
          const piece = { start, length: Math.min(length, size - start) };
          parts[index] = await retried(
            `put part ${index + 1} of ${key}`,
            both,
            () => sendPart(part, piece, sending),
            { attempts: PART_ATTEMPTS },
          );
          throwIfAborted(both);
        }
      } finally {
        patient.end();
      }
    });
    return parts;
  }

  async function sendPart(
    part: CompletedPart,
    piece: FileSlice,
    partSignal: AbortSignal,
  ): Promise<CompletedPart> {
    const partCall = { ...call, signal: partSignal };
    const slice = await sliceOf(body, key, piece, { signal: partSignal });
    const checksum = checksumParameters(checksums, slice);
    const answer = await answered(
      connection.run(partCall, ({ client }) =>
        slice.use((Body, abortSignal) => {
          const command = new sdk.UploadPartCommand({
            ...target,
            UploadId,
            PartNumber: part.PartNumber,
            Body,
            ContentLength: piece.length,
            ...checksum,
          });
          command.middlewareStack.add(adding(digestHeaders(slice)), ADDING);
          return client.send(command, { abortSignal });
        }, partSignal),
      ),
    );
    if (answer.ETag === undefined || answer.ETag === '') throw malformed(partCall, 'no ETag of a part');
    return { ...part, ETag: answer.ETag, ...checksum };
  }

  async function complete(Parts: CompletedPart[]): Promise<string> {
    const answer = await answered(
      connection.run({ ...call, condition }, ({ client }) =>
        client.send(
          new sdk.CompleteMultipartUploadCommand({
            ...target,
            UploadId,
            MultipartUpload: { Parts },
            ...conditionParameters(condition),
          }),
          { abortSignal: call.signal },
        ),
      ),
    );
    // The SDK throws an answer of 200 whose body is an error; one that is neither has no ETag.
    return quotedEtag(call, answer.ETag);
  }

  async function answered<T>(request: Promise<T>): Promise<T> {
    try {
      return await request;
    } catch (error) {
      loose ||= !(error instanceof PresyncError) || factsOf(error.cause).status === undefined;
      throw error;
    }
  }
}

/**
 * Removes the parts of an upload. One that was on its way when its request was cut off may still arrive, and be there again after the removal
 * (https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html): it is looked whether there are any, and where requests are
 * `loose`, once more after a while.
 */
async function abandon(context: UploadContext, key: string, UploadId: string, loose: boolean): Promise<void> {
  const { connection, bucket, root, payer } = context;
  const sdk = await import('@aws-sdk/client-s3');
  const call = context.describe('DELETE', key, AbortSignal.timeout(CLEANUP_MS));
  const target = { Bucket: bucket, Key: root + key, UploadId, ...payer };
  const options = { abortSignal: call.signal };
  /** Undefined when there is no such upload any more. */
  const ask = <T>(work: (client: S3Client) => Promise<T>): Promise<T | undefined> =>
    retried(`remove the parts of ${key}`, call.signal, async () => {
      try {
        return await connection.run(call, ({ client }) => work(client));
      } catch (error) {
        if (error instanceof PresyncError && factsOf(error.cause).name === 'NoSuchUpload') return undefined;
        throw error;
      }
    });
  /** Whether there are parts; false where nobody may tell: who puts objects need not have the right to list their parts. */
  const partsLeft = async (): Promise<boolean> => {
    try {
      const found = await ask((client) =>
        client.send(new sdk.ListPartsCommand({ ...target, MaxParts: 1 }), options),
      );
      return (found?.Parts ?? []).length > 0;
    } catch (error) {
      if (isPresyncError(error, 'STORE_FORBIDDEN')) return false;
      throw error;
    }
  };
  let why = 'more of them came each time';
  let clean = 0;
  try {
    for (let round = 0; round < CLEANUP_ROUNDS; round++) {
      await ask((client) => client.send(new sdk.AbortMultipartUploadCommand(target), options));
      clean = (await partsLeft()) ? 0 : clean + 1;
      if (clean > (loose ? 1 : 0)) return;
      await sleep(SETTLE_MS, call.signal);
    }
  } catch (error) {
    why = messageOf(error);
  }
  connection.notify(
    'leftover',
    `parts of ${key} in ${call.location} could not be removed (${why}): they are paid for until a lifecycle rule with AbortIncompleteMultipartUpload, or somebody, removes them`,
  );
}

/** A signal that fires `ms` after another one. */
function afterGrace(signal: AbortSignal, ms: number): { signal: AbortSignal; end(): void } {
  const late = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const watched = AbortSignal.any([signal]);
  const onAbort = (): void => {
    timer = setTimeout(() => late.abort(signal.reason), ms);
  };
  watched.addEventListener('abort', onAbort, { once: true });
  return {
    signal: late.signal,
    end() {
      clearTimeout(timer);
      watched.removeEventListener('abort', onAbort);
    },
  };
}
