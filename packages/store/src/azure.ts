import { getFips, hash } from 'node:crypto';
import type {
  BlobRequestConditions,
  BlockBlobClient,
  ContainerListBlobFlatSegmentResponse,
} from '@azure/storage-blob';
import { PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { cacheControl } from './cache-control.ts';
import { unlessAborted } from './lib/abort.ts';
import { type ConnectionOptions, DEFAULT_STALL_MS, withProxies } from './lib/agents.ts';
import { announced } from './lib/announced.ts';
import { malformed, storeFailed } from './lib/answer-errors.ts';
import { azureAccess } from './lib/azure-access.ts';
import { BLOCK_BYTES, MAX_BLOCKS, readWhole, stageFile } from './lib/azure-blocks.ts';
import { type AzureCall, azureError, isStaleToken } from './lib/azure-errors.ts';
import { createTransport } from './lib/azure-transport.ts';
import { asBuffer, isByteStream, receive } from './lib/body.ts';
import {
  assertRange,
  assertWithin,
  bodySize,
  emptyRead,
  isFileBody,
  notFound,
  unlessAbsent,
} from './lib/calls.ts';
import { checked } from './lib/checked.ts';
import { quotedEtag } from './lib/etag.ts';
import { type ListedPage, listed } from './lib/listed.ts';
import type {
  FileBody,
  ObjectData,
  ObjectInfo,
  ObjectStore,
  PutCondition,
  PutOptions,
  ReadOptions,
} from './object-store.ts';

export interface AzureStoreOptions extends ConnectionOptions {
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
}

/** A single Put Blob takes at most 5,000 MiB (https://learn.microsoft.com/rest/api/storageservices/put-blob). */
const MAX_PUT_BYTES = 5000 * 1024 ** 2;

/** List Blobs gives up to 5000 a page, whose XML would keep the event loop busy for the better part of a second. */
const PAGE_OBJECTS = 1000;

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
    const transport = createTransport({ ...options, stallMs });
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
    const answer = await unlessAbsent(run(call, () => blob(key).getProperties({ abortSignal: call.signal })));
    if (answer === undefined || isFolder(answer.metadata)) return undefined;
    if (answer.contentLength === undefined) throw malformed(call, 'no Content-Length');
    return { key, size: answer.contentLength, version: quotedEtag(call, answer.etag) };
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
        const version = quotedEtag(call, answer.etag);
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
      return { version: quotedEtag(call, etag) };
    }
    const bytes = isFileBody(body) ? await readWhole(body, key) : asBuffer(body);
    const checked = { ...digestOf(bytes), conditions, blobHTTPHeaders, abortSignal: call.signal };
    const { etag } = await run(call, () => blob(key).upload(bytes, bytes.length, checked));
    return { version: quotedEtag(call, etag) };
  }

  async function page(call: AzureCall, token: string | undefined, onFolder: () => void): Promise<ListedPage> {
    const pages = client
      // Metadata tells folders from objects.
      .listBlobsFlat({ prefix: root + call.key, includeMetadata: true, abortSignal: call.signal })
      .byPage({ maxPageSize: PAGE_OBJECTS, ...(token === undefined ? {} : { continuationToken: token }) });
    const { value } = await run(call, () => pages.next());
    const { segment, continuationToken }: ContainerListBlobFlatSegmentResponse = value;
    const blobs = segment.blobItems.filter(({ metadata }) => !isFolder(metadata));
    if (blobs.length < segment.blobItems.length) onFolder();
    return {
      entries: blobs.map(({ name, properties }) => ({
        name,
        info(key) {
          if (properties.contentLength === undefined) throw malformed(call, `no size for ${key}`);
          return { key, size: properties.contentLength, version: quotedEtag(call, properties.etag) };
        },
      })),
      next: continuationToken === '' ? undefined : continuationToken,
    };
  }

  return checked({
    location,
    traits: { writable: true, listable: true },
    stat: (key, { signal }) => stat(key, signal),
    read,
    put,

    async remove(key, { signal }) {
      const call = describe('DELETE', key, signal);
      await unlessAbsent(run(call, () => blob(key).delete({ abortSignal: call.signal })));
    },

    list(prefix, { signal }) {
      const call = describe('LIST', prefix, signal);
      let folders = false;
      const onFolder = (): void => {
        folders = true;
      };
      return listed(
        call,
        root,
        (token) => page(call, token, onFolder),
        (key, last) => outOfOrder(call, key, last, folders),
      );
    },

    async close() {
      transport.close();
    },
  });
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
