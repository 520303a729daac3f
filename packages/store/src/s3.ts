import { stat as fileStat } from 'node:fs/promises';
import type { S3Client } from '@aws-sdk/client-s3';
import { ioError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { cacheControl } from './cache-control.ts';
import { assertKey, assertPrefix, isKey } from './keys.ts';
import { unlessAborted } from './lib/abort.ts';
import { announced } from './lib/announced.ts';
import { malformed } from './lib/answer-errors.ts';
import { fileStream, isByteStream, receive } from './lib/body.ts';
import { assertRange, assertWithin, bodyChanged, bodySize, isFileBody, notFound } from './lib/calls.ts';
import { isAboutObject, isStaleCredentials, type S3Call, s3Error } from './lib/s3-errors.ts';
import type {
  FileBody,
  ObjectData,
  ObjectInfo,
  ObjectStore,
  PutOptions,
  ReadOptions,
} from './object-store.ts';

export interface S3StoreOptions {
  bucket: string;
  /** Key prefix without slashes at its ends; '' for the whole bucket. */
  prefix: string;
  /** Default: from the environment or the profile; with an endpoint and nothing else said, us-east-1. */
  region?: string | undefined;
  /** Base URL of an S3-compatible server. Default: AWS. */
  endpoint?: string | undefined;
  /** `https://host/bucket/key` in place of `https://bucket.host/key`. Default false. */
  pathStyle?: boolean | undefined;
  /** Sockets at a time; further calls wait. Default 256: one answer gives some 90 MB/s, so a fast link needs many. */
  maxConnections?: number | undefined;
  /** A connection that moves no byte for so many milliseconds is dead. Default 30,000, as in the AWS CRT. */
  stallMs?: number | undefined;
}

/** A single PutObject takes at most 5 GiB. */
const MAX_PUT_BYTES = 5 * 1024 ** 3;

const DEFAULT_MAX_CONNECTIONS = 256;
const DEFAULT_STALL_MS = 30_000;

/** Time to open a connection, or `stallMs` when that is less. */
const CONNECT_MS = 10_000;

/**
 * A store in an S3 bucket, on AWS or a server that speaks its protocol. Credentials come from the AWS SDK's usual
 * chain (environment, profile, web identity, container, instance role). The SDK's own retries are off.
 *
 * The version is the ETag. Without `s3:ListBucket` S3 answers 403 for absent objects, which is STORE_FORBIDDEN here.
 *
 * @throws PresyncError STORE_URL_INVALID when no region is to be found. Nothing is sent yet.
 */
export async function createS3Store(options: S3StoreOptions): Promise<ObjectStore> {
  const sdk = await import('@aws-sdk/client-s3');
  const { NodeHttpHandler } = await import('@smithy/node-http-handler');
  const { bucket } = options;
  const stallMs = options.stallMs ?? DEFAULT_STALL_MS;
  const root = options.prefix === '' ? '' : `${options.prefix}/`;
  const location = locationOf(options);

  const agent = { keepAlive: true, maxSockets: options.maxConnections ?? DEFAULT_MAX_CONNECTIONS };
  const requestHandler = new NodeHttpHandler({
    httpAgent: agent,
    httpsAgent: agent,
    connectionTimeout: Math.min(stallMs, CONNECT_MS),
    socketTimeout: stallMs,
    // Waiting for a socket is what maxConnections is for, and nothing to warn of.
    socketAcquisitionWarningTimeout: 2 ** 31 - 1,
  });
  const region = options.region ?? (options.endpoint === undefined ? undefined : endpointRegion());
  const newClient = (): S3Client =>
    new sdk.S3Client({
      ...(region === undefined ? {} : { region }),
      ...(options.endpoint === undefined ? {} : { endpoint: options.endpoint }),
      forcePathStyle: options.pathStyle ?? false,
      maxAttempts: 1,
      requestHandler,
      // Checksum trailers are unknown to R2, Spaces and others, and cost time; presync checks digests of its own.
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      // With `Expect: 100-continue` the SDK opens a connection for each put.
      expectContinueHeader: false,
    });
  let client = newClient();
  await assertRegion(client);

  /** True once an answer proved that there is such a bucket: the 404 of a HEAD does not tell. */
  let bucketSeen = false;

  async function run<T>(call: S3Call, send: (client: S3Client) => Promise<T>): Promise<T> {
    throwIfAborted(call.signal);
    try {
      // The chain of credentials does not know the signal.
      const answer = await unlessAborted(send(client), call.signal);
      bucketSeen ||= answer !== undefined;
      return answer;
    } catch (error) {
      bucketSeen ||= isAboutObject(error);
      // A new client asks the chain for credentials anew; the sockets are shared.
      if (isStaleCredentials(error)) client = newClient();
      throw s3Error(error, call);
    }
  }

  const describe = (action: S3Call['action'], key: string, signal: AbortSignal): S3Call => ({
    action,
    key,
    location,
    bucket,
    signal: AbortSignal.any([signal]),
  });

  async function head(key: string, signal: AbortSignal): Promise<ObjectInfo | undefined> {
    const call = describe('HEAD', key, signal);
    const answer = await run(call, async (s3) => {
      try {
        return await s3.send(new sdk.HeadObjectCommand({ Bucket: bucket, Key: root + key }), {
          abortSignal: call.signal,
        });
      } catch (error) {
        if (error instanceof Error && error.name === 'NotFound') return undefined;
        throw error;
      }
    });
    if (answer === undefined) return undefined;
    if (answer.ContentLength === undefined) throw malformed(call, 'no Content-Length');
    return { key, size: answer.ContentLength, version: versionOf(call, answer.ETag) };
  }

  async function stat(key: string, signal: AbortSignal): Promise<ObjectInfo | undefined> {
    const found = await head(key, signal);
    if (found !== undefined || bucketSeen) return found;
    try {
      await read(key, { maxBytes: 1, range: { offset: 0, length: 1 }, signal });
    } catch (error) {
      if (!(error instanceof PresyncError) || error.code !== 'OBJECT_NOT_FOUND') throw error;
    }
    return undefined;
  }

  async function nothing(key: string, offset: number, signal: AbortSignal): Promise<ObjectData> {
    const found = await stat(key, signal);
    if (found === undefined) throw notFound(key, location);
    if (found.size > offset)
      throw malformed(describe('GET', key, signal), 'an object that grew between two requests');
    return { bytes: new Uint8Array(0), size: found.size, version: found.version };
  }

  async function read(key: string, { range, maxBytes, signal }: ReadOptions): Promise<ObjectData> {
    assertRange(key, range);
    if (range?.length === 0) return nothing(key, Number.POSITIVE_INFINITY, signal);
    const call = describe('GET', key, signal);
    // Also lets go of the connection when the answer is not one to read.
    const done = new AbortController();
    const abortSignal = AbortSignal.any([signal, done.signal]);
    const Range = range && `bytes=${range.offset}-${range.offset + range.length - 1}`;
    try {
      return await run(call, async (s3) => {
        const answer = await s3.send(new sdk.GetObjectCommand({ Bucket: bucket, Key: root + key, Range }), {
          abortSignal,
        });
        const { length, size } = announced(
          call,
          {
            status: answer.$metadata.httpStatusCode,
            contentLength: answer.ContentLength,
            contentRange: answer.ContentRange,
          },
          range,
        );
        assertWithin(key, length, maxBytes);
        const version = versionOf(call, answer.ETag);
        if (!isByteStream(answer.Body)) throw malformed(call, 'no body');
        const what = `${call.location} GET ${key}`;
        return { bytes: await receive(answer.Body, length, { what, stallMs, signal }), size, version };
      });
    } catch (error) {
      done.abort();
      if (range !== undefined && isBeyondEnd(error)) return await nothing(key, range.offset, signal);
      throw error;
    }
  }

  async function put(
    key: string,
    body: Uint8Array | FileBody,
    options: PutOptions,
  ): Promise<{ version: string }> {
    const { condition, sha256, immutable = false, signal } = options;
    const call = { ...describe('PUT', key, signal), condition };
    const size = bodySize(body);
    if (size > MAX_PUT_BYTES) {
      throw new PresyncError(
        'OBJECT_TOO_LARGE',
        `${key} would have ${size} bytes; S3 takes at most ${MAX_PUT_BYTES} in a put`,
        {
          hint: 'use a smaller chunk size',
        },
      );
    }
    if (isFileBody(body)) await assertSize(body, key);
    const file = isFileBody(body) && size > 0 ? fileStream(body, key) : undefined;
    const Body = file?.stream ?? (isFileBody(body) ? Buffer.alloc(0) : asBuffer(body));
    const command = new sdk.PutObjectCommand({
      Bucket: bucket,
      Key: root + key,
      Body,
      ContentLength: size,
      CacheControl: cacheControl(immutable),
      ...(condition === undefined
        ? {}
        : 'ifAbsent' in condition
          ? { IfNoneMatch: '*' }
          : { IfMatch: condition.ifVersion }),
    });
    // A digest that is known spares the SDK to hash the body, and has the server check the body against it, over TLS too.
    if (sha256 !== undefined) {
      command.middlewareStack.add(
        (next) => (args) => {
          const { request } = args;
          if (typeof request === 'object' && request !== null && 'headers' in request)
            request.headers = { ...Object(request.headers), 'x-amz-content-sha256': sha256 };
          return next(args);
        },
        { step: 'build', name: 'knownDigest' },
      );
    }
    const abortSignal = file === undefined ? call.signal : AbortSignal.any([signal, file.failed]);
    try {
      const answer = await run(call, (s3) => s3.send(command, { abortSignal }));
      return { version: versionOf(call, answer.ETag) };
    } catch (error) {
      if (file?.failed.aborted) throw file.failed.reason;
      throw error;
    } finally {
      file?.stream.destroy();
    }
  }

  return {
    location,
    traits: { writable: true, listable: true },

    async stat(key, { signal }) {
      assertKey(key);
      return stat(key, signal);
    },

    async read(key, options) {
      assertKey(key);
      return read(key, options);
    },

    async put(key, body, options) {
      assertKey(key);
      return put(key, body, options);
    },

    async remove(key, { signal }) {
      assertKey(key);
      const call = describe('DELETE', key, signal);
      try {
        await run(call, (s3) =>
          s3.send(new sdk.DeleteObjectCommand({ Bucket: bucket, Key: root + key }), {
            abortSignal: call.signal,
          }),
        );
      } catch (error) {
        if (!(error instanceof PresyncError) || error.code !== 'OBJECT_NOT_FOUND') throw error;
      }
    },

    async *list(prefix, { signal }): AsyncGenerator<ObjectInfo> {
      assertPrefix(prefix);
      const call = describe('LIST', prefix, signal);
      let token: string | undefined;
      let last = '';
      do {
        const page = await run(call, (s3) =>
          s3.send(
            new sdk.ListObjectsV2Command({ Bucket: bucket, Prefix: root + prefix, ContinuationToken: token }),
            {
              abortSignal: call.signal,
            },
          ),
        );
        for (const entry of page.Contents ?? []) {
          throwIfAborted(signal);
          const key = entry.Key?.slice(root.length) ?? '';
          // Folder markers of consoles and what other programs put there are none of presync's objects.
          if (!isKey(key)) continue;
          if (key <= last) throw malformed(call, `a listing that is not in key order (${key} after ${last})`);
          last = key;
          if (entry.Size === undefined) throw malformed(call, `no size for ${key}`);
          yield { key, size: entry.Size, version: versionOf(call, entry.ETag) };
        }
        if (page.IsTruncated && (page.NextContinuationToken ?? token) === token) {
          throw malformed(call, 'a page of a listing that does not say where the next begins');
        }
        token = page.IsTruncated ? page.NextContinuationToken : undefined;
        throwIfAborted(signal);
      } while (token !== undefined);
    },

    async close() {
      client.destroy();
      requestHandler.destroy();
    },
  };
}

function locationOf({ bucket, prefix, endpoint }: S3StoreOptions): string {
  const query = endpoint === undefined ? '' : `?endpoint=${endpoint}`;
  return `s3://${bucket}${prefix === '' ? '' : `/${prefix}`}${query}`;
}

/** Servers other than AWS mostly take any region; undefined leaves it to the SDK's chain. */
function endpointRegion(): string | undefined {
  return process.env.AWS_REGION === undefined && process.env.AWS_PROFILE === undefined
    ? 'us-east-1'
    : undefined;
}

async function assertRegion(client: S3Client): Promise<void> {
  try {
    await client.config.region();
  } catch (error) {
    throw new PresyncError(
      'STORE_URL_INVALID',
      `the region of the bucket is not known: ${messageOf(error)}`,
      {
        cause: error,
        hint: 'add ?region=… to the store URL, or set AWS_REGION',
      },
    );
  }
}

function isBeyondEnd(error: unknown): boolean {
  return error instanceof PresyncError && error.cause instanceof Error && error.cause.name === 'InvalidRange';
}

function versionOf(call: S3Call, etag: string | undefined): string {
  if (etag === undefined || etag === '') throw malformed(call, 'no ETag');
  return etag;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

async function assertSize(body: FileBody, key: string): Promise<void> {
  const { size } = await fileStat(body.path).catch((error: unknown) => {
    throw ioError(error, 'read', body.path);
  });
  if (size !== body.size) throw bodyChanged(body.path, key);
}
