import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { inspect } from 'node:util';
import { readStoreAccess, type StoreAccess } from '@presync/store/access';
import type { ObjectStore } from '@presync/store/object-store';
import { openStore } from '@presync/store/open';
import { proveConditionalWrites } from '@presync/store/probe';
import { createS3Store } from '@presync/store/s3';
import { findAzureServer, startAzureServer } from '../../../test/support/azure-server.ts';
import { collect } from '../../../test/support/collect.ts';
import { type ConnectProxy, startConnectProxy } from '../../../test/support/connect-proxy.ts';
import { findGcsServer, startGcsServer } from '../../../test/support/gcs-server.ts';
import { failure, respond, startStandIn } from '../../../test/support/gcs-stand-in.ts';
import { needs } from '../../../test/support/needs.ts';
import { findS3Server, startS3Server } from '../../../test/support/s3-server.ts';
import { selfSigned } from '../../../test/support/self-signed.ts';
import { startTlsFront, type TlsFront } from '../../../test/support/tls-front.ts';

// Every kind of store over TLS, with authorities and certificates of the user's own, directly and through a proxy.

const signal = AbortSignal.timeout(240_000);
const environment = { ...process.env };
const authority = selfSigned([
  'localhost',
  'bucket.s3.us-east-1.amazonaws.com',
  'bucket.s3.eu-far-9.amazonaws.com',
]);
const client = selfSigned();

interface Kind {
  name: string;
  found: boolean;
  start(): Promise<{ endpoint: string; env: Record<string, string>; stop(): Promise<void> }>;
  /** The store's URL at an endpoint of that origin. */
  url(origin: string): string;
}

const KINDS: Kind[] = [
  {
    name: 'versitygw',
    found: findS3Server() !== undefined,
    start: () => startS3Server({ bucket: 'over-tls' }),
    url: (origin) => `s3://over-tls/p?endpoint=${encodeURIComponent(origin)}`,
  },
  {
    name: 'azurite',
    found: findAzureServer() !== undefined,
    start: () => startAzureServer({ container: 'over-tls' }),
    url: (origin) => `azure://presynctest/over-tls/p?endpoint=${encodeURIComponent(`${origin}/presynctest`)}`,
  },
  {
    name: 'fake-gcs-server',
    found: findGcsServer() !== undefined,
    start: async () => ({ ...(await startGcsServer({ bucket: 'over-tls' })), env: {} }),
    url: (origin) => `gs://over-tls/p?endpoint=${encodeURIComponent(origin)}`,
  },
];

let dir = '';
const open: { close(): Promise<void> }[] = [];

/** Files as the options name them. */
const files: Record<'storeCa' | 'storeCert' | 'storeCertKey', string> = {
  storeCa: '',
  storeCert: '',
  storeCertKey: '',
};

before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'presync-tls-'));
  for (const [option, pem] of [
    ['storeCa', authority.cert],
    ['storeCert', client.cert],
    ['storeCertKey', client.key],
  ] as const) {
    files[option] = join(dir, `${option}.pem`);
    await writeFile(files[option], pem);
  }
});

after(async () => {
  for (const store of open) await store.close();
  for (const name of Object.keys(process.env)) delete process.env[name];
  Object.assign(process.env, environment);
  await rm(dir, { recursive: true });
});

async function opened(url: string, access?: StoreAccess): Promise<ObjectStore> {
  const store = await openStore(url, { access, signal });
  open.push(store);
  return store;
}

/** What a store is for, in a few calls. */
async function works(store: ObjectStore): Promise<void> {
  await proveConditionalWrites(store, { signal });
  const bytes = Buffer.alloc(3 * 1024 ** 2, 'x');
  await store.put('large', bytes, { signal });
  assert.ok(bytes.equals((await store.read('large', { maxBytes: bytes.length, signal })).bytes));
  assert.deepEqual(
    (await collect(store.list('', { signal }))).map(({ key }) => key),
    ['large'],
  );
}

// In this order: an authority is trusted by the whole process from then on.
for (const { name, found, start, url } of KINDS) {
  describe(`${name} over TLS`, needs(name, found), () => {
    let server: Awaited<ReturnType<Kind['start']>>;
    let front: TlsFront;
    let strict: TlsFront;
    let proxy: ConnectProxy;

    before(async () => {
      server = await start();
      [front, strict, proxy] = await Promise.all([
        startTlsFront(server.endpoint, authority),
        startTlsFront(server.endpoint, authority, { clients: client }),
        startConnectProxy(({ port }) => Number(port)),
      ]);
      // fake-gcs-server wants no credentials, and none are looked for.
      Object.assign(process.env, server.env, { STORAGE_EMULATOR_HOST: front.endpoint });
    });

    after(async () => {
      delete process.env.HTTPS_PROXY;
      delete process.env.NO_PROXY;
      await Promise.all([front.stop(), strict.stop(), proxy.stop()]);
      await server.stop();
    });

    test('a certificate of an authority that is not trusted is no passing trouble', async () => {
      const stranger = await startTlsFront(server.endpoint, selfSigned());
      process.env.STORAGE_EMULATOR_HOST = stranger.endpoint;
      const store = await opened(url(stranger.endpoint));
      const error = await failure(store.stat('key', { signal }));
      assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', false], error.message);
      assert.match(error.hint ?? '', /--store-ca/);
      await stranger.stop();
    });

    test('an authority of --store-ca is trusted', async () => {
      process.env.STORAGE_EMULATOR_HOST = front.endpoint;
      const access = await readStoreAccess({ storeCa: files.storeCa });
      await works(await opened(url(front.endpoint), access));
    });

    test('a certificate of --store-cert is shown, and without one nobody is let in', async () => {
      process.env.STORAGE_EMULATOR_HOST = strict.endpoint;
      const nameless = await opened(url(strict.endpoint), await readStoreAccess({ storeCa: files.storeCa }));
      const error = await failure(nameless.stat('key', { signal }));
      assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', false], error.message);
      assert.match(error.hint ?? '', /--store-cert /);
      const store = await opened(url(strict.endpoint), await readStoreAccess(files));
      await store.put('shown', Buffer.from('x'), { signal });
      assert.equal((await store.stat('shown', { signal }))?.size, 1);
      await store.remove('shown', { signal });
    });

    test('a proxy of the environment is used, but not for hosts of NO_PROXY', async () => {
      process.env.STORAGE_EMULATOR_HOST = front.endpoint.replace('127.0.0.1', 'localhost');
      process.env.HTTPS_PROXY = `http://user:hunter2@${proxy.host}`;
      process.env.NO_PROXY = '127.0.0.1';
      const access = await readStoreAccess({ storeCa: files.storeCa });
      const through = await opened(url(front.endpoint.replace('127.0.0.1', 'localhost')), access);
      await works(through);
      assert.ok(proxy.asked.length > 0);
      assert.ok(proxy.asked.every(({ target }) => target === `localhost:${front.port}`));
      assert.equal(proxy.asked[0]?.authorization, `Basic ${Buffer.from('user:hunter2').toString('base64')}`);
      const asked = proxy.asked.length;
      process.env.STORAGE_EMULATOR_HOST = front.endpoint;
      const past = await opened(url(front.endpoint), access);
      await past.stat('large', { signal });
      assert.equal(proxy.asked.length, asked);
    });

    test('a proxy that refuses is named, without its password', async () => {
      proxy.refusing = true;
      process.env.STORAGE_EMULATOR_HOST = front.endpoint.replace('127.0.0.1', 'localhost');
      const store = await opened(url(front.endpoint.replace('127.0.0.1', 'localhost')));
      for (const call of [
        () => store.stat('key', { signal }),
        () => store.read('key', { maxBytes: 10, signal }),
        () => store.put('key', Buffer.alloc(10), { signal }),
      ]) {
        const error = await failure(call());
        assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', true], error.message);
        assert.match(error.message, /no way through the proxy/);
        assert.match(error.hint ?? '', /HTTPS_PROXY/);
        assert.doesNotMatch(inspect(error, { depth: 20 }), /hunter2/);
      }
      const web = await opened(`https://localhost:${front.port}/p`);
      const error = await failure(web.read('key', { maxBytes: 10, signal }));
      assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', true], error.message);
      assert.match(error.message, /no way through the proxy/);
      proxy.refusing = false;
    });

    test('a proxy that is none is a matter of configuration', async () => {
      process.env.HTTPS_PROXY = 'http://user:hunter2@:nowhere';
      const error = await failure(opened(url(front.endpoint)));
      assert.equal(error.code, 'CONFIG_INVALID');
      assert.doesNotMatch(inspect(error), /hunter2/);
      delete process.env.HTTPS_PROXY;
    });
  });
}

test('without a region anywhere AWS is asked where the bucket is', async (t) => {
  await readStoreAccess({ storeCa: files.storeCa });
  const aws = await startStandIn(authority);
  t.after(() => aws.stop());
  const proxy = await startConnectProxy(() => Number(new URL(aws.endpoint).port));
  t.after(() => proxy.stop());
  for (const name of Object.keys(process.env).filter((key) => key.startsWith('AWS_')))
    delete process.env[name];
  Object.assign(process.env, {
    AWS_ACCESS_KEY_ID: 'test',
    AWS_SECRET_ACCESS_KEY: 'test',
    AWS_CONFIG_FILE: '/none',
    AWS_SHARED_CREDENTIALS_FILE: '/none',
    HTTPS_PROXY: `http://${proxy.host}`,
    NO_PROXY: '',
  });
  const xml = { 'content-type': 'application/xml' };
  aws.answers = [
    (incoming, outgoing) =>
      (incoming.headers.host?.includes('.eu-far-9.')
        ? respond(200, { etag: '"0123"' })
        : respond(
            301,
            { ...xml, 'x-amz-bucket-region': 'eu-far-9' },
            '<?xml version="1.0"?><Error><Code>PermanentRedirect</Code></Error>',
          ))(incoming, outgoing),
  ];
  const store = await createS3Store({ bucket: 'bucket', prefix: 'p' });
  open.push(store);
  await store.put('key', Buffer.from('x'), { signal });
  await store.put('key', Buffer.from('x'), { signal });
  assert.deepEqual(
    aws.requests.map(({ headers }) => headers.host),
    ['us-east-1', 'eu-far-9', 'eu-far-9'].map((region) => `bucket.s3.${region}.amazonaws.com`),
  );
  aws.answers = [respond(403, xml, '<?xml version="1.0"?><Error><Code>InvalidAccessKeyId</Code></Error>')];
  const abroad = await createS3Store({ bucket: 'bucket', prefix: 'p' });
  open.push(abroad);
  const error = await failure(abroad.put('key', Buffer.from('x'), { signal }));
  assert.equal(error.code, 'STORE_FORBIDDEN');
  assert.match(error.hint ?? '', /us-east-1 was asked: add \?region=/);
});
