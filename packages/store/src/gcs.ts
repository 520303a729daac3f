import type { IncomingMessage } from 'node:http';
import { isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { type ConnectionOptions, DEFAULT_STALL_MS } from './lib/agents.ts';
import { announced } from './lib/announced.ts';
import { field, malformed } from './lib/answer-errors.ts';
import { receive, receiveAll } from './lib/body.ts';
import { assertRange, assertWithin, bodySize, emptyRead, unlessAbsent, wasChanged } from './lib/calls.ts';
import { checked } from './lib/checked.ts';
import { ANONYMOUS, createCredentials } from './lib/gcs-credentials.ts';
import { gcsServer } from './lib/gcs-endpoint.ts';
import {
  answerError,
  type GcsCall,
  mayBeBucket,
  provesBucket,
  requestError,
  statusOf,
} from './lib/gcs-errors.ts';
import { createTransport, type GcsRequest } from './lib/gcs-transport.ts';
import { isMd5Of, prepareUpload } from './lib/gcs-upload.ts';
import { type ListedPage, listed } from './lib/listed.ts';
import type {
  FileBody,
  ObjectData,
  ObjectInfo,
  ObjectStore,
  PutOptions,
  ReadOptions,
} from './object-store.ts';

export interface GcsStoreOptions extends ConnectionOptions {
  bucket: string;
  /** Key prefix without slashes at its ends; '' for the whole bucket. */
  prefix: string;
  /** Base URL of another server (fake-gcs-server). Default: Google. */
  endpoint?: string | undefined;
}

/** An object has at most 5 TiB. https://cloud.google.com/storage/quotas#objects */
const MAX_OBJECT_BYTES = 5 * 1024 ** 4;

/** A page of a listing has some 300 KiB. */
const MAX_JSON_BYTES = 16 * 1024 ** 2;
const MAX_REFUSAL_BYTES = 64 * 1024;

/** The most that one page may have. https://cloud.google.com/storage/docs/json_api/v1/objects/list */
const PAGE_OBJECTS = 1000;

/** Whole objects up to this size are compared with the MD5 that comes with them: documents that have no other digest. */
const MD5_CHECK_BYTES = 1024 ** 2;

/**
 * A store in a Google Cloud Storage bucket, over the JSON API. Credentials are Application Default Credentials, as the
 * SDK finds them: the file of GOOGLE_APPLICATION_CREDENTIALS (a key, or workload identity federation), that of gcloud,
 * or the metadata server. `gcsServer` says which servers are asked without any. Proxies come from the environment.
 *
 * The version is the generation, and the conditions are `ifGenerationMatch`: there is no compare-and-swap on ETags. The
 * store checks each upload against an MD5 that is sent ahead of it.
 *
 * @throws PresyncError STORE_URL_INVALID. Nothing is sent yet.
 */
export async function createGcsStore(options: GcsStoreOptions): Promise<ObjectStore> {
  const { bucket } = options;
  const stallMs = options.stallMs ?? DEFAULT_STALL_MS;
  const root = options.prefix === '' ? '' : `${options.prefix}/`;
  const { endpoint, anonymous } = gcsServer(options.endpoint, process.env.STORAGE_EMULATOR_HOST);
  const location = `gs://${bucket}${options.prefix === '' ? '' : `/${options.prefix}`}${endpoint === undefined ? '' : `?endpoint=${endpoint}`}`;

  const sdk = await import('@google-cloud/storage');
  const newStorage = (): InstanceType<typeof sdk.Storage> =>
    new sdk.Storage({
      ...(endpoint === undefined ? {} : { apiEndpoint: endpoint }),
      retryOptions: { autoRetry: false },
      // No request names a project. Without one here, the SDK would look for it before it gives credentials: it asks
      // the metadata server or Resource Manager, runs gcloud, and never asks again after a failure.
      projectId: 'none',
      // Of the requests for tokens. For those to metadata servers and of federation the SDK keeps retries of its own, of
      // a few seconds, which no option ends.
      clientOptions: {
        transporterOptions: { retryConfig: { retry: 0, noResponseRetries: 0 }, timeout: stallMs },
      },
    });
  const base = newStorage().apiEndpoint;
  const credentials = anonymous
    ? ANONYMOUS
    : createCredentials(() => newStorage().authClient, { url: base, stallMs });
  const transport = createTransport({ ...options, base, stallMs });

  /** True once an answer proved that there is such a bucket: most 404s do not tell. */
  let bucketSeen = false;

  const bucketPath = `/storage/v1/b/${encodeURIComponent(bucket)}`;
  const objectPath = (key: string): string => `${bucketPath}/o/${encodeURIComponent(root + key)}`;

  const describe = (action: GcsCall['action'], key: string, signal: AbortSignal): GcsCall => ({
    action,
    key,
    location,
    bucket,
    anonymous,
    signal: AbortSignal.any([signal]),
  });

  const receiving = (call: GcsCall) => ({
    what: `${location} ${call.action} ${call.key || '/'}`,
    stallMs,
    signal: call.signal,
  });

  /** The head of a success. Anything else is thrown. */
  async function ask(request: GcsRequest, call: GcsCall): Promise<IncomingMessage> {
    throwIfAborted(call.signal);
    const lease = await credentials.lease(call);
    const headers = { ...request.headers, ...lease.headers };
    const answer = await transport.send({ ...request, headers }, call);
    const status = answer.statusCode ?? 0;
    if (status >= 200 && status < 300) return answer;
    if (status === 401) lease.refused();
    throw answerError(
      { status, headers: answer.headers, body: await refusalText(answer, call) },
      call,
      lease.secrets,
    );
  }

  /** What a refusal says; '' when that cannot be had, since its status is enough. */
  async function refusalText(answer: IncomingMessage, call: GcsCall): Promise<string> {
    const tooLarge = (): PresyncError => malformed(call, 'a refusal of too many words');
    try {
      return Buffer.from(await receiveAll(answer, MAX_REFUSAL_BYTES, tooLarge, receiving(call))).toString();
    } catch {
      throwIfAborted(call.signal);
      return '';
    } finally {
      answer.destroy();
    }
  }

  async function run<T>(
    request: GcsRequest,
    call: GcsCall,
    use: (answer: IncomingMessage) => Promise<T>,
  ): Promise<T> {
    let answer: IncomingMessage | undefined;
    try {
      answer = await ask(request, call);
      const result = await use(answer);
      bucketSeen = true;
      return result;
    } catch (error) {
      const failure = requestError(error, call);
      if (provesBucket(failure)) bucketSeen = true;
      else if (!bucketSeen && mayBeBucket(failure)) await findBucket(call.signal);
      throw failure;
    } finally {
      answer?.destroy();
    }
  }

  /** Rejects with STORE_NOT_FOUND when there is no such bucket. */
  async function findBucket(signal: AbortSignal): Promise<void> {
    try {
      await askJson({ method: 'GET', path: `${bucketPath}?fields=name` }, describe('LIST', '', signal));
    } catch (error) {
      // Who may read objects need not have storage.buckets.get. The 404 of the object itself stands.
      if (!isPresyncError(error, 'STORE_FORBIDDEN')) throw error;
      bucketSeen = true;
    }
  }

  async function askJson(request: GcsRequest, call: GcsCall): Promise<unknown> {
    return run(request, call, async (answer) => {
      const tooLarge = (): PresyncError => malformed(call, `more than ${MAX_JSON_BYTES} bytes`);
      const bytes = await receiveAll(answer, MAX_JSON_BYTES, tooLarge, receiving(call));
      try {
        return JSON.parse(Buffer.from(bytes).toString()) as unknown;
      } catch {
        throw malformed(call, 'what is not JSON');
      }
    });
  }

  async function stat(key: string, signal: AbortSignal): Promise<ObjectInfo | undefined> {
    const call = describe('GET', key, signal);
    const found = await unlessAbsent(
      askJson({ method: 'GET', path: `${objectPath(key)}?fields=size,generation` }, call),
    );
    if (found === undefined) return undefined;
    return { key, size: sizeOf(call, found), version: generationOf(call, field(found, 'generation')) };
  }

  async function read(key: string, { range, maxBytes, signal }: ReadOptions): Promise<ObjectData> {
    assertRange(key, range);
    if (range?.length === 0) return nothing(key, Number.POSITIVE_INFINITY, signal);
    const call = describe('GET', key, signal);
    const headers = {
      // Takes what is stored as it is stored; otherwise it would be decompressed, with other lengths and ranges.
      'accept-encoding': 'gzip',
      ...(range === undefined ? {} : { range: `bytes=${range.offset}-${range.offset + range.length - 1}` }),
    };
    try {
      return await run(
        { method: 'GET', path: `${objectPath(key)}?alt=media`, headers },
        call,
        async (answer) => {
          const { length, size } = announcedBy(answer, call, range);
          assertWithin(key, length, maxBytes);
          const version = generationOf(call, answer.headers['x-goog-generation']);
          const bytes = await receive(answer, length, receiving(call));
          if (length === size && size <= MD5_CHECK_BYTES) assertDigest(call, answer, bytes);
          return { bytes, size, version };
        },
      );
    } catch (error) {
      if (range !== undefined && statusOf(error) === 416) return nothing(key, range.offset, signal);
      throw error;
    }
  }

  const nothing = (key: string, offset: number, signal: AbortSignal): Promise<ObjectData> =>
    emptyRead(key, offset, {
      location,
      stat: () => stat(key, signal),
      grown: () => malformed(describe('GET', key, signal), 'an object that grew between two requests'),
    });

  async function put(
    key: string,
    body: Uint8Array | FileBody,
    { condition, immutable = false, signal }: PutOptions,
  ): Promise<{ version: string }> {
    const call = { ...describe('PUT', key, signal), condition };
    throwIfAborted(signal);
    const size = bodySize(body);
    if (size > MAX_OBJECT_BYTES) {
      throw new PresyncError(
        'OBJECT_TOO_LARGE',
        `${key} would have ${size} bytes; Cloud Storage takes at most ${MAX_OBJECT_BYTES}`,
        { hint: 'use a smaller chunk size' },
      );
    }
    if (condition !== undefined && 'ifVersion' in condition && !isGeneration(condition.ifVersion))
      throw wasChanged(key, location);
    const upload = await prepareUpload(root + key, body, { key, immutable, signal: call.signal });
    const query = new URLSearchParams({ uploadType: 'multipart', fields: 'size,generation,md5Hash' });
    if (condition !== undefined)
      query.set('ifGenerationMatch', 'ifAbsent' in condition ? '0' : condition.ifVersion);
    const answer = await askJson(
      {
        method: 'POST',
        path: `/upload${bucketPath}/o?${query}`,
        headers: { 'content-type': upload.contentType, 'content-length': upload.contentLength },
        body: upload.parts,
      },
      call,
    );
    const md5 = field(answer, 'md5Hash');
    if (sizeOf(call, answer) !== size || (md5 !== undefined && md5 !== upload.md5))
      throw malformed(call, 'another size or MD5 than that of the bytes that were sent');
    return { version: generationOf(call, field(answer, 'generation')) };
  }

  async function page(call: GcsCall, token: string | undefined): Promise<ListedPage> {
    const query = new URLSearchParams({
      prefix: root + call.key,
      maxResults: `${PAGE_OBJECTS}`,
      fields: 'nextPageToken,items(name,size,generation)',
      ...(token === undefined ? {} : { pageToken: token }),
    });
    const answer = await askJson({ method: 'GET', path: `${bucketPath}/o?${query}` }, call);
    const items: unknown = field(answer, 'items') ?? [];
    const next = field(answer, 'nextPageToken') ?? '';
    if (!Array.isArray(items)) throw malformed(call, 'a listing without items');
    if (typeof next !== 'string')
      throw malformed(call, 'a page of a listing that does not say where the next begins');
    return {
      entries: items.map((item: unknown) => ({
        name: String(field(item, 'name')),
        info: (key) => ({
          key,
          size: sizeOf(call, item),
          version: generationOf(call, field(item, 'generation')),
        }),
      })),
      next: next === '' ? undefined : next,
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
      const removal = run({ method: 'DELETE', path: objectPath(key) }, call, (answer) => {
        const tooLarge = (): PresyncError => malformed(call, 'a body to a removal');
        return receiveAll(answer, MAX_REFUSAL_BYTES, tooLarge, receiving(call));
      });
      await unlessAbsent(removal);
    },

    list(prefix, { signal }) {
      const call = describe('LIST', prefix, signal);
      return listed(call, root, (token) => page(call, token));
    },

    async close() {
      transport.close();
    },
  });
}

/** A signed 64-bit number, and not the 0 that stands for absence. */
function isGeneration(version: string): boolean {
  return /^[1-9]\d{0,18}$/.test(version) && BigInt(version) < 2n ** 63n;
}

function generationOf(call: GcsCall, value: unknown): string {
  if (typeof value === 'string' && isGeneration(value)) return value;
  throw malformed(call, 'no generation');
}

/** The API gives sizes as texts. */
function sizeOf(call: GcsCall, object: unknown): number {
  const size = field(object, 'size');
  if (typeof size === 'string' && /^\d{1,15}$/.test(size)) return Number(size);
  throw malformed(call, 'no size');
}

function announcedBy(
  { statusCode, headers }: IncomingMessage,
  call: GcsCall,
  range: ReadOptions['range'],
): { length: number; size: number } {
  const stored = headers['x-goog-stored-content-length'];
  const coding = headers['content-encoding'] ?? 'identity';
  if (coding !== (headers['x-goog-stored-content-encoding'] ?? 'identity'))
    throw malformed(call, `a body in the coding ${coding}, in which it is not stored`);
  const length = headers['content-length'];
  const found = announced(
    call,
    {
      status: statusCode,
      contentLength: length !== undefined && /^\d{1,15}$/.test(length) ? Number(length) : undefined,
      contentRange: headers['content-range'],
    },
    range,
  );
  if (stored !== undefined && stored !== `${found.size}`)
    throw malformed(call, `${found.size} bytes of an object of ${String(stored)}`);
  return found;
}

function assertDigest(call: GcsCall, answer: IncomingMessage, bytes: Uint8Array): void {
  const told = /\bmd5=([A-Za-z0-9+/]{22}==)/.exec(String(answer.headers['x-goog-hash']))?.[1];
  if (told !== undefined && !isMd5Of(told, bytes)) throw malformed(call, 'bytes that have not its MD5');
}
