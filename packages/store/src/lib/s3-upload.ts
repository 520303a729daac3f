import { PresyncError } from '@presync/runtime/errors';
import { cacheControl } from '../cache-control.ts';
import type { FileBody, PutCondition, PutOptions } from '../object-store.ts';
import { bodySize } from './calls.ts';
import { quotedEtag } from './etag.ts';
import type { S3Connection } from './s3-client.ts';
import type { S3Call } from './s3-errors.ts';
import { assertFileSize, type Slice, sliceOf } from './s3-slices.ts';
import { classHeaders, type S3WriteOptions, writeParameters } from './s3-writes.ts';

/** What a put works with. */
export interface UploadContext extends S3WriteOptions {
  connection: S3Connection;
  bucket: string;
  /** What stands before every key: the prefix and a slash, or nothing. */
  root: string;
  /** The parameter of every command that says who pays. */
  payer: { RequestPayer?: 'requester' };
  describe(action: S3Call['action'], key: string, signal: AbortSignal): S3Call;
}

/** A single PutObject, and each part of a multipart upload, takes at most 5 GiB. */
export const MAX_PUT_BYTES = 5 * 1024 ** 3;

/** Puts the object with one request. */
export async function putWhole(
  context: UploadContext,
  key: string,
  body: Uint8Array | FileBody,
  options: PutOptions,
): Promise<{ version: string }> {
  const { connection, bucket, root, payer } = context;
  const { condition, sha256, immutable = false, signal } = options;
  const size = bodySize(body);
  if (size > MAX_PUT_BYTES) throw tooLarge(key, size, MAX_PUT_BYTES);
  const sdk = await import('@aws-sdk/client-s3');
  const call = { ...context.describe('PUT', key, signal), condition };
  await assertFileSize(body, key);
  const slice = await sliceOf(body, key, { start: 0, length: size }, { sha256, signal: call.signal });
  const answer = await connection.run(call, ({ client, settings }) =>
    slice.use((Body, abortSignal) => {
      const command = new sdk.PutObjectCommand({
        Bucket: bucket,
        Key: root + key,
        Body,
        ContentLength: size,
        CacheControl: cacheControl(immutable),
        ...conditionParameters(condition),
        ...writeParameters(context),
        ...checksumParameters(settings.checksums, slice),
        ...payer,
      });
      const headers = { ...digestHeaders(slice), ...classHeaders(context, immutable) };
      command.middlewareStack.add(adding(headers), ADDING);
      return client.send(command, { abortSignal });
    }, call.signal),
  );
  return { version: quotedEtag(call, answer.ETag) };
}

/** The parameters of a put, or of the completion of a multipart upload, that is conditional. */
export function conditionParameters(condition: PutCondition | undefined): {
  IfNoneMatch?: string;
  IfMatch?: string;
} {
  if (condition === undefined) return {};
  return 'ifAbsent' in condition ? { IfNoneMatch: '*' } : { IfMatch: condition.ifVersion };
}

/** A digest that is known spares the SDK to hash the body, and has the server check what it gets, over TLS too. */
export function digestHeaders({ sha256 }: Slice): Record<string, string> {
  return { 'x-amz-content-sha256': sha256 };
}

/** The checksum that some buckets want beside the signature. */
export function checksumParameters(wanted: boolean, { sha256 }: Slice): { ChecksumSHA256?: string } {
  return wanted ? { ChecksumSHA256: Buffer.from(sha256, 'hex').toString('base64') } : {};
}

/** Where middleware of `adding` belongs: before the request is signed. */
export const ADDING = { step: 'build', name: 'presyncHeaders' } as const;

/** Middleware that adds headers. */
export function adding(headers: Record<string, string>) {
  return <Args extends { request: unknown }, Output>(next: (args: Args) => Promise<Output>) =>
    (args: Args): Promise<Output> => {
      const { request } = args;
      if (typeof request === 'object' && request !== null && 'headers' in request)
        request.headers = { ...Object(request.headers), ...headers };
      return next(args);
    };
}

/** OBJECT_TOO_LARGE for a put. */
export function tooLarge(key: string, size: number, most: number): PresyncError {
  return new PresyncError(
    'OBJECT_TOO_LARGE',
    `${key} would have ${size} bytes; S3 takes at most ${most} in a put`,
    { hint: 'use a smaller chunk size' },
  );
}
