import { PresyncError } from '@presync/runtime/errors';
import { type ConnectionOptions, DEFAULT_STALL_MS } from './lib/agents.ts';
import { announced } from './lib/announced.ts';
import { malformed } from './lib/answer-errors.ts';
import { isByteStream, receive } from './lib/body.ts';
import { assertRange, assertWithin, emptyRead, unlessAbsent } from './lib/calls.ts';
import { checked } from './lib/checked.ts';
import { quotedEtag } from './lib/etag.ts';
import { type ListedPage, listed } from './lib/listed.ts';
import { createS3Connection } from './lib/s3-client.ts';
import { factsOf, type S3Call, s3Error } from './lib/s3-errors.ts';
import { createPut, type PartOptions } from './lib/s3-put.ts';
import type { UploadContext } from './lib/s3-upload.ts';
import { extrasOf, type S3WriteOptions } from './lib/s3-writes.ts';
import type { ObjectData, ObjectInfo, ObjectStore, ReadOptions, StoreNotice } from './object-store.ts';

export interface S3StoreOptions extends ConnectionOptions, S3WriteOptions, PartOptions {
  bucket: string;
  /** Key prefix without slashes at its ends; '' for the whole bucket. */
  prefix: string;
  /** Default: from the environment or the profile, else us-east-1; a server that names another one is believed. */
  region?: string | undefined;
  /** Base URL of an S3-compatible server. Default: AWS. */
  endpoint?: string | undefined;
  /** `https://host/bucket/key` in place of `https://bucket.host/key`. Default: on AWS the latter, elsewhere the former, unless it is refused. */
  pathStyle?: boolean | undefined;
  /** Send a SHA-256 in a header of its own with each put. Default: when the server wants one. */
  checksum?: boolean | undefined;
  /** Pay for requests and traffic of somebody else's bucket. */
  requesterPays?: boolean | undefined;
  /** Told of what was found out about the server. */
  onNotice?: ((notice: StoreNotice) => void) | undefined;
}

/** Refusals of a HEAD that do not say why. */
const MUTE: ReadonlySet<number> = new Set([301, 307, 400, 405]);

/**
 * A store in an S3 bucket, on AWS or a server that speaks its protocol. Credentials come from the AWS SDK's usual
 * chain (environment, profile, web identity, container, instance role). The SDK's own retries are off.
 *
 * What servers differ in is found out from what they answer: region, style of the URL, checksums, and whether the completion of a multipart
 * upload honours conditions. What the options say of it is not changed.
 *
 * The version is the ETag. Without `s3:ListBucket` S3 answers 403 for absent objects, which is STORE_FORBIDDEN here.
 *
 * @throws PresyncError STORE_URL_INVALID when the profile cannot be read, CONFIG_INVALID for a proxy that is none. Nothing is sent yet.
 */
export async function createS3Store(options: S3StoreOptions): Promise<ObjectStore> {
  const sdk = await import('@aws-sdk/client-s3');
  const { bucket, endpoint } = options;
  const stallMs = options.stallMs ?? DEFAULT_STALL_MS;
  const root = options.prefix === '' ? '' : `${options.prefix}/`;
  const location = locationOf(options);
  const extras = extrasOf(options);
  const payer = options.requesterPays ? { RequestPayer: 'requester' as const } : {};
  const connection = await createS3Connection({
    ...options,
    endpoint,
    stallMs,
    given: { region: options.region, pathStyle: options.pathStyle, checksums: options.checksum },
  });

  const describe = (action: S3Call['action'], key: string, signal: AbortSignal): S3Call => ({
    action,
    key,
    location,
    bucket,
    extras: action === 'PUT' ? extras : extras.filter((name) => name === 'requesterPays'),
    assumedRegion: connection.assumedRegion,
    signal: AbortSignal.any([signal]),
  });
  /** True when something about the server is to be found out. */
  const curious = options.region === undefined || (endpoint !== undefined && options.pathStyle === undefined);
  const context: UploadContext = { ...options, connection, root, payer, describe };

  async function head(key: string, signal: AbortSignal): Promise<ObjectInfo | undefined> {
    const call = describe('HEAD', key, signal);
    const answer = await connection.run(call, async ({ client }) => {
      try {
        return await client.send(new sdk.HeadObjectCommand({ Bucket: bucket, Key: root + key, ...payer }), {
          abortSignal: call.signal,
        });
      } catch (error) {
        if (error instanceof Error && error.name === 'NotFound') return undefined;
        throw error;
      }
    });
    if (answer === undefined) return undefined;
    if (answer.ContentLength === undefined) throw malformed(call, 'no Content-Length');
    return { key, size: answer.ContentLength, version: quotedEtag(call, answer.ETag) };
  }

  async function stat(key: string, signal: AbortSignal): Promise<ObjectInfo | undefined> {
    const seen = connection.bucketSeen;
    const found = await refusedForAReason('HEAD', key, signal, () => head(key, signal));
    if (found !== undefined || seen) return found;
    // The 404 of a HEAD does not say whether there is a bucket.
    const first = { maxBytes: 1, range: { offset: 0, length: 1 }, signal };
    if ((await unlessAbsent(read(key, first))) === undefined) return undefined;
    // It has come meanwhile, or the HEAD went where this server does not look for it.
    return head(key, signal);
  }

  /** Whether listing is allowed to whom reading was refused; undefined until that was tried. */
  let mayList: boolean | undefined;

  /**
   * The answer to a HEAD has no body, and a 403 does not say what is missing: a listing of one key tells more. When it teaches how the server
   * wants to be spoken to, the call is made again.
   */
  async function refusedForAReason<T>(
    action: 'HEAD' | 'GET',
    key: string,
    signal: AbortSignal,
    ask: () => Promise<T>,
  ): Promise<T> {
    const { settings, bucketSeen } = connection;
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof PresyncError)) throw error;
      const { name, status = 0 } = factsOf(error.cause);
      const forbidden = status === 403 && (name === '' || name === 'AccessDenied' || name === 'Forbidden');
      if (!forbidden && !(action === 'HEAD' && !bucketSeen && curious && MUTE.has(status))) throw error;
      const call = describe(action, key, signal);
      if (mayList === undefined) {
        const refusal = await refusalOfListing(key, signal);
        if (refusal?.code === 'ABORTED') throw refusal;
        if (connection.settings !== settings) return await ask();
        const why = factsOf(refusal?.cause);
        const says = why.name !== '' && why.name !== 'AccessDenied' && (why.status ?? 500) < 500;
        if (name === '' && says) throw s3Error(refusal?.cause, call);
        if (refusal === undefined || refusal.code === 'STORE_FORBIDDEN') mayList = refusal === undefined;
      }
      throw forbidden ? s3Error(error.cause, call, { mayList }) : error;
    }
  }

  async function refusalOfListing(key: string, signal: AbortSignal): Promise<PresyncError | undefined> {
    try {
      await page(describe('LIST', key, signal), undefined, 1);
      return undefined;
    } catch (error) {
      if (error instanceof PresyncError) return error;
      throw error;
    }
  }

  const nothing = (key: string, offset: number, signal: AbortSignal): Promise<ObjectData> =>
    emptyRead(key, offset, {
      location,
      stat: () => stat(key, signal),
      grown: () => malformed(describe('GET', key, signal), 'an object that grew between two requests'),
    });

  async function read(key: string, { range, maxBytes, signal }: ReadOptions): Promise<ObjectData> {
    assertRange(key, range);
    if (range?.length === 0) return nothing(key, Number.POSITIVE_INFINITY, signal);
    const call = describe('GET', key, signal);
    // Also lets go of the connection when the answer is not one to read.
    const done = new AbortController();
    const abortSignal = AbortSignal.any([signal, done.signal]);
    const Range = range && `bytes=${range.offset}-${range.offset + range.length - 1}`;
    try {
      return await connection.run(call, async ({ client }) => {
        const answer = await client.send(
          new sdk.GetObjectCommand({ Bucket: bucket, Key: root + key, Range, ...payer }),
          { abortSignal },
        );
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
        const version = quotedEtag(call, answer.ETag);
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

  async function page(call: S3Call, token: string | undefined, most?: number): Promise<ListedPage> {
    const answer = await connection.run(call, ({ client }) =>
      client.send(
        new sdk.ListObjectsV2Command({
          Bucket: bucket,
          Prefix: root + call.key,
          // XML has no way to write some characters that keys of other programs may have.
          EncodingType: 'url',
          ContinuationToken: token,
          MaxKeys: most,
          ...payer,
        }),
        { abortSignal: call.signal },
      ),
    );
    const { Contents = [], EncodingType, IsTruncated = false, NextContinuationToken = '' } = answer;
    return {
      entries: Contents.map(({ Key = '', Size, ETag }) => ({
        name: EncodingType === 'url' ? decoded(Key, root) : Key,
        info(key) {
          if (Size === undefined) throw malformed(call, `no size for ${key}`);
          return { key, size: Size, version: quotedEtag(call, ETag) };
        },
      })),
      next: IsTruncated ? NextContinuationToken : undefined,
    };
  }

  const store = checked({
    location,
    traits: { writable: true, listable: true },
    stat: (key, { signal }) => stat(key, signal),
    read: (key, call) => refusedForAReason('GET', key, call.signal, () => read(key, call)),
    put: (key, body, call) => put(key, body, call),

    async remove(key, { signal }) {
      const call = describe('DELETE', key, signal);
      const removal = connection.run(call, ({ client }) =>
        client.send(new sdk.DeleteObjectCommand({ Bucket: bucket, Key: root + key, ...payer }), {
          abortSignal: call.signal,
        }),
      );
      await unlessAbsent(removal);
    },

    list(prefix, { signal }) {
      const call = describe('LIST', prefix, signal);
      return listed(call, root, (token) => page(call, token));
    },

    async close() {
      connection.close();
    },
  });
  const put = createPut(context, options, store);
  return store;
}

function locationOf({ bucket, prefix, endpoint }: S3StoreOptions): string {
  const query = endpoint === undefined ? '' : `?endpoint=${endpoint}`;
  return `s3://${bucket}${prefix === '' ? '' : `/${prefix}`}${query}`;
}

function isBeyondEnd(error: unknown): boolean {
  return error instanceof PresyncError && error.cause instanceof Error && error.cause.name === 'InvalidRange';
}

/** A name of a listing in URL encoding, with `+` for a space. Some servers say that they encode names, and do not. */
function decoded(name: string, root: string): string {
  let plain: string;
  try {
    plain = decodeURIComponent(name.replaceAll('+', ' '));
  } catch {
    return name;
  }
  return name.startsWith(root) && !plain.startsWith(root) ? name : plain;
}
