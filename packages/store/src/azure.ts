import { getFips, hash } from 'node:crypto';
import type {
  BlobRequestConditions,
  BlockBlobClient,
  ContainerListBlobFlatSegmentResponse,
} from '@azure/storage-blob';
import { errnoOf, isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { cacheControl } from './cache-control.ts';
import { assertKey, assertPrefix, isKey } from './keys.ts';
import { unlessAborted } from './lib/abort.ts';
import { announced } from './lib/announced.ts';
import { malformed, storeFailed } from './lib/answer-errors.ts';
import { azureAccess } from './lib/azure-access.ts';
import { BLOCK_BYTES, MAX_BLOCKS, readWhole, stageFile } from './lib/azure-blocks.ts';
import { type AzureCall, azureError, isStaleToken } from './lib/azure-errors.ts';
import { createTransport } from './lib/azure-transport.ts';
import { isByteStream, receive } from './lib/body.ts';
import { assertRange, assertWithin, bodySize, isFileBody, notFound } from './lib/calls.ts';
import type {
  FileBody,
  ObjectData,
  ObjectInfo,
  ObjectStore,
  PutCondition,
  PutOptions,
  ReadOptions,
} from './object-store.ts';

export interface AzureStoreOptions {
  account: string;
  container: string;
  /** Key prefix without slashes at its ends; '' for the whole container. */
  prefix: string;
  /**
   * Base URL of another server. With a path it is taken as it is (azurite: `http://127.0.0.1:10000/devstoreaccount1`). Without one the
   * account is put behind an address (`http://127.0.0.1:10000`), a single word (`http://azurite:8080`) or azurite's port 10000; any other
   * host is the account's own (`https://account.blob.core.chinacloudapi.cn`, a custom domain). Default: Azure, or what
   * AZURE_STORAGE_CONNECTION_STRING says.
   */
  endpoint?: string | undefined;
  /** Sockets at a time; further calls wait. Default 256. */
  maxConnections?: number | undefined;
  /** A connection that moves no byte for so many milliseconds is dead. Default 30,000. */
  stallMs?: number | undefined;
}

/** A single Put Blob takes at most 5,000 MiB (https://learn.microsoft.com/rest/api/storageservices/put-blob). */
const MAX_PUT_BYTES = 5000 * 1024 ** 2;

/** List Blobs gives up to 5000 a page, whose XML would keep the event loop busy for the better part of a second. */
const PAGE_OBJECTS = 1000;

const DEFAULT_MAX_CONNECTIONS = 256;
const DEFAULT_STALL_MS = 30_000;

/**
 * A store in a container of Azure Blob Storage, or of a server that speaks its protocol. The right to use it comes from
 * AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, or DefaultAzureCredential, whichever is there first. The
 * SDK's own retries are off.
 *
 * The version is the ETag. The store checks the MD5 of every put and every block on arrival; SHA-256 it does not know, so `sha256` is ignored.
 * A file of more than 8 MiB goes up in blocks, which become an object by the last call, the one with the condition; what a put that failed
 * leaves of them is no object, and Azure removes it after a week.
 *
 * Accounts with a hierarchical namespace list their keys in another order than the contract's where `-` or `.` stands beside `/`
 * (azure-sdk-for-go#24210); a listing that comes upon such keys is rejected.
 *
 * @throws PresyncError STORE_URL_INVALID for an endpoint of another account, CONFIG_INVALID when the environment has a key, SAS token or
 * connection string that is none or is another account's, or a proxy that is none. Nothing is sent yet.
 */
export async function createAzureStore(options: AzureStoreOptions): Promise<ObjectStore> {
  const sdk = await import('@azure/storage-blob');
  const { account, container } = options;
  const stallMs = options.stallMs ?? DEFAULT_STALL_MS;
  const root = options.prefix === '' ? '' : `${options.prefix}/`;
  const location = locationOf(options);
  // A token may need a process of its own (Azure CLI), or several endpoints that do not answer.
  const access = await azureAccess({ account, endpoint: options.endpoint, tokenMs: 2 * stallMs });
  const { transport, client } = withProxies(() => {
    const transport = createTransport({
      maxConnections: options.maxConnections ?? DEFAULT_MAX_CONNECTIONS,
      stallMs,
    });
    const pipeline = sdk.newPipeline(access.credential, {
      httpClient: transport,
      retryOptions: { maxTries: 1 },
      userAgentOptions: { userAgentPrefix: 'presync' },
    });
    const url = `${access.serviceUrl}/${container}${access.query}`;
    return { transport, client: new sdk.ContainerClient(url, pipeline) };
  });
  const blob = (key: string): BlockBlobClient => client.getBlockBlobClient(root + key);

  async function run<T>(call: AzureCall, send: () => Promise<T>): Promise<T> {
    throwIfAborted(call.signal);
    const began = Date.now();
    try {
      // The chain of credentials does not know the signal.
      return await unlessAborted(send(), call.signal);
    } catch (error) {
      if (isStaleToken(error)) access.renew(began);
      throw azureError(error, call);
    }
  }

  const describe = (action: AzureCall['action'], key: string, signal: AbortSignal): AzureCall => ({
    action,
    key,
    location,
    account,
    container,
    access,
    signal: AbortSignal.any([signal]),
  });

  async function stat(key: string, signal: AbortSignal): Promise<ObjectInfo | undefined> {
    const call = describe('HEAD', key, signal);
    try {
      const answer = await run(call, () => blob(key).getProperties({ abortSignal: call.signal }));
      if (isFolder(answer.metadata)) return undefined;
      if (answer.contentLength === undefined) throw malformed(call, 'no Content-Length');
      return { key, size: answer.contentLength, version: versionOf(call, answer.etag) };
    } catch (error) {
      if (isPresyncError(error, 'OBJECT_NOT_FOUND')) return undefined;
      throw error;
    }
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
    try {
      return await run(call, async () => {
        const answer = await blob(key).download(range?.offset, range?.length, {
          abortSignal,
          maxRetryRequests: 0,
        });
        const body = answer.readableStreamBody;
        // The SDK's stream tells of an abort by an error, which ends the process when nobody listens yet.
        body?.on('error', () => undefined);
        if (isFolder(answer.metadata)) throw notFound(key, location);
        const { length, size } = announced(
          call,
          {
            status: answer._response.status,
            contentLength: answer.contentLength,
            contentRange: answer.contentRange,
          },
          range,
        );
        assertWithin(key, length, maxBytes);
        const version = versionOf(call, answer.etag);
        if (!isByteStream(body)) throw malformed(call, 'no body');
        const what = `${call.location} GET ${key}`;
        return { bytes: await receive(body, length, { what, stallMs, signal }), size, version };
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
    const { condition, immutable = false, signal } = options;
    const blobHTTPHeaders = { blobCacheControl: cacheControl(immutable) };
    const size = bodySize(body);
    const limit = isFileBody(body) ? MAX_BLOCKS * BLOCK_BYTES : MAX_PUT_BYTES;
    if (size > limit) {
      throw new PresyncError(
        'OBJECT_TOO_LARGE',
        `${key} would have ${size} bytes; at most ${limit} can be put`,
        {
          hint: 'use a smaller chunk size',
        },
      );
    }
    const call = { ...describe('PUT', key, signal), condition };
    const conditions = conditionsOf(condition);
    throwIfAborted(signal);
    if (isFileBody(body) && size > BLOCK_BYTES) {
      const ids = await stageFile(body, key, signal, (id, bytes, stageSignal) => {
        const block = describe('PUT', key, stageSignal);
        const checked = { ...digestOf(bytes), abortSignal: block.signal };
        return run(block, async () => {
          await blob(key).stageBlock(id, bytes, bytes.length, checked);
        });
      });
      const { etag } = await run(call, () =>
        blob(key).commitBlockList(ids, { conditions, blobHTTPHeaders, abortSignal: call.signal }),
      );
      return { version: versionOf(call, etag) };
    }
    const bytes = isFileBody(body) ? await readWhole(body, key) : asBuffer(body);
    const checked = { ...digestOf(bytes), conditions, blobHTTPHeaders, abortSignal: call.signal };
    const { etag } = await run(call, () => blob(key).upload(bytes, bytes.length, checked));
    return { version: versionOf(call, etag) };
  }

  async function page(
    call: AzureCall,
    token: string | undefined,
  ): Promise<ContainerListBlobFlatSegmentResponse> {
    const pages = client
      // Metadata tells folders from objects.
      .listBlobsFlat({ prefix: root + call.key, includeMetadata: true, abortSignal: call.signal })
      .byPage({ maxPageSize: PAGE_OBJECTS, ...(token === undefined ? {} : { continuationToken: token }) });
    const { value } = await run(call, () => pages.next());
    return value;
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
        await run(call, () => blob(key).delete({ abortSignal: call.signal }));
      } catch (error) {
        if (!isPresyncError(error, 'OBJECT_NOT_FOUND')) throw error;
      }
    },

    async *list(prefix, { signal }): AsyncGenerator<ObjectInfo> {
      assertPrefix(prefix);
      const call = describe('LIST', prefix, signal);
      let token: string | undefined;
      let last = '';
      let folders = false;
      do {
        const { segment, continuationToken } = await page(call, token);
        for (const { name, metadata, properties } of segment.blobItems) {
          throwIfAborted(signal);
          if (isFolder(metadata)) {
            folders = true;
            continue;
          }
          const key = name.slice(root.length);
          // What other programs put there is none of presync's objects.
          if (!isKey(key)) continue;
          if (key <= last) throw outOfOrder(call, key, last, folders);
          last = key;
          if (properties.contentLength === undefined) throw malformed(call, `no size for ${key}`);
          yield { key, size: properties.contentLength, version: versionOf(call, properties.etag) };
        }
        if (continuationToken !== undefined && continuationToken !== '' && continuationToken === token) {
          throw malformed(call, 'a page of a listing that says that it is its own next one');
        }
        token = continuationToken;
        throwIfAborted(signal);
      } while (token !== undefined && token !== '');
    },

    async close() {
      transport.close();
    },
  };
}

/** Node and the SDK both read the proxies of the environment, and say what is wrong with passwords in it. */
function withProxies<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (!['ERR_INVALID_URL', 'ERR_PROXY_INVALID_CONFIG'].includes(errnoOf(error) ?? '')) throw error;
    throw new PresyncError('CONFIG_INVALID', 'a proxy in the environment is not the URL of one', {
      hint: 'write HTTPS_PROXY, HTTP_PROXY or ALL_PROXY as http://host:port',
    });
  }
}

function locationOf({ account, container, prefix, endpoint }: AzureStoreOptions): string {
  const query = endpoint === undefined ? '' : `?endpoint=${endpoint}`;
  return `azure://${account}/${container}${prefix === '' ? '' : `/${prefix}`}${query}`;
}

function conditionsOf(condition: PutCondition | undefined): BlobRequestConditions {
  if (condition === undefined) return {};
  return 'ifAbsent' in condition ? { ifNoneMatch: '*' } : { ifMatch: condition.ifVersion };
}

/** MD5 is the one digest that every Azure and azurite checks. A Node in FIPS mode has none; there TLS alone guards the way. */
function digestOf(bytes: Buffer): { transactionalContentMD5?: Uint8Array } {
  return getFips() === 1 ? {} : { transactionalContentMD5: hash('md5', bytes, 'buffer') };
}

/** True for what an account with a hierarchical namespace keeps as a folder: to the Blob API it is a blob of no bytes. */
function isFolder(metadata: Record<string, string> | undefined): boolean {
  return metadata?.hdi_isfolder === 'true';
}

function isBeyondEnd(error: unknown): boolean {
  return error instanceof PresyncError && error.cause instanceof Error && error.cause.name === 'InvalidRange';
}

function outOfOrder(call: AzureCall, key: string, last: string, folders: boolean): PresyncError {
  const what = `a listing that is not in key order (${key} after ${last})`;
  if (!folders) return malformed(call, what);
  return storeFailed(
    new Error(what),
    call,
    { name: '', status: undefined, retryAfterMs: undefined },
    {
      hint: 'the account has a hierarchical namespace, which orders keys in another way: use one without',
    },
  );
}

/** In a listing ETags have no quotes, elsewhere they do. */
function versionOf(call: AzureCall, etag: string | undefined): string {
  if (etag === undefined || etag === '') throw malformed(call, 'no ETag');
  return etag.endsWith('"') ? etag : `"${etag}"`;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
