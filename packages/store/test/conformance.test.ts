import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import { storeConformance } from '@presync/store/conformance';
import { createFileStore } from '@presync/store/file';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectStore } from '@presync/store/object-store';
import { openStore } from '@presync/store/open';
import { proveConditionalWrites } from '@presync/store/probe';
import { withLimit } from '@presync/store/with-limit';
import { withMetrics } from '@presync/store/with-metrics';
import { withRetry } from '@presync/store/with-retry';
import { type AzureServer, findAzureServer, startAzureServer } from '../../../test/support/azure-server.ts';
import { findGcsServer, type GcsServer, startGcsServer } from '../../../test/support/gcs-server.ts';
import { findMinio, startMinio } from '../../../test/support/minio-server.ts';
import { needs } from '../../../test/support/needs.ts';
import { findS3Server, type S3Server, startS3Server } from '../../../test/support/s3-server.ts';

function suite(store: () => ObjectStore): void {
  for (const { name, run } of storeConformance()) {
    test(name, { timeout: 300_000 }, ({ signal }) => run(store(), { signal }));
  }
  test('conditional writes are proved', ({ signal }) => proveConditionalWrites(store(), { signal }));
}

describe('the memory store', () => {
  const store = createMemoryStore();
  suite(() => store);
});

describe('the memory store in all wrappers', () => {
  const bare = createMemoryStore();
  const metered = withMetrics(bare, { observe: () => undefined });
  const store = withLimit(withRetry(metered), { concurrency: 4 });
  suite(() => store);
});

describe('the file store', () => {
  let parent = '';
  let store: ObjectStore | undefined;
  before(async () => {
    parent = await mkdtemp(join(tmpdir(), 'presync-store-'));
    store = createFileStore({ dir: join(parent, 'store') });
  });
  after(() => rm(parent, { recursive: true, force: true }));
  suite(() => {
    if (store === undefined) throw new Error('there is no store');
    return store;
  });
});

describe('the S3 store on versitygw', needs('versitygw', findS3Server() !== undefined), () => {
  let server: S3Server | undefined;
  let store: ObjectStore | undefined;
  before(async () => {
    server = await startS3Server();
    Object.assign(process.env, server.env);
    store = await openStore(server.url.replace('?', '/some/prefix?'), {
      signal: AbortSignal.timeout(60_000),
    });
  });
  after(async () => {
    await store?.close();
    await server?.stop();
  });
  const opened = (): ObjectStore => {
    if (store === undefined) throw new Error('there is no store');
    return store;
  };
  suite(opened);

  test('a body that is not what its digest says is refused on arrival', async ({ signal }) => {
    const body = Buffer.from('the right body');
    const sha256 = createHash('sha256').update(body).digest('hex');
    const wrong = opened().put('digest/wrong', Buffer.from('another body'), { sha256, signal });
    await assert.rejects(wrong, (error) => isPresyncError(error, 'STORE_FAILED') && error.retryable);
    assert.equal(await opened().stat('digest/wrong', { signal }), undefined);
    await opened().put('digest/right', body, { sha256, condition: { ifAbsent: true }, signal });
    const { bytes } = await opened().read('digest/right', { maxBytes: 100, signal });
    assert.deepEqual(Buffer.from(bytes), body);
  });
});

describe('the S3 store on MinIO', needs('minio', findMinio() !== undefined), () => {
  let server: S3Server | undefined;
  let store: ObjectStore | undefined;
  before(async () => {
    server = await startMinio();
    Object.assign(process.env, server.env);
    store = await openStore(server.url.replace('?', '/some/prefix?'), {
      signal: AbortSignal.timeout(60_000),
    });
  });
  after(async () => {
    await store?.close();
    await server?.stop();
  });
  suite(() => {
    if (store === undefined) throw new Error('there is no store');
    return store;
  });
});

describe('the Azure store on azurite', needs('azurite', findAzureServer() !== undefined), () => {
  let server: AzureServer | undefined;
  let store: ObjectStore | undefined;
  before(async () => {
    server = await startAzureServer();
    Object.assign(process.env, server.env);
    store = await openStore(server.url.replace('?', '/some/prefix?'), {
      signal: AbortSignal.timeout(60_000),
    });
  });
  after(async () => {
    await store?.close();
    await server?.stop();
  });
  suite(() => {
    if (store === undefined) throw new Error('there is no store');
    return store;
  });
});

describe('the GCS store on fake-gcs-server', needs('fake-gcs-server', findGcsServer() !== undefined), () => {
  let server: GcsServer | undefined;
  let store: ObjectStore | undefined;
  before(async () => {
    server = await startGcsServer();
    store = await openStore(server.url.replace('?', '/some/prefix?'), {
      signal: AbortSignal.timeout(60_000),
    });
  });
  after(async () => {
    await store?.close();
    await server?.stop();
  });
  suite(() => {
    if (store === undefined) throw new Error('there is no store');
    return store;
  });
});
