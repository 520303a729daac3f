import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { ContainerClient, ContainerSASPermissions, StorageSharedKeyCredential } from '@azure/storage-blob';
import { isPresyncError } from '@presync/runtime/errors';
import { createAzureStore } from '@presync/store/azure';
import type { ObjectStore } from '@presync/store/object-store';
import { type AzureServer, findAzureServer, startAzureServer } from '../../../test/support/azure-server.ts';
import { needs } from '../../../test/support/needs.ts';
import { failure, setEnvironment, textOf } from './azure-stand-in.ts';

const signal = AbortSignal.timeout(240_000);
const MIB = 1024 ** 2;

describe('the Azure store on azurite', needs('azurite', findAzureServer() !== undefined), () => {
  let server: AzureServer;
  let container: ContainerClient;
  let store: ObjectStore;
  let dir = '';

  before(async () => {
    server = await startAzureServer();
    const { endpoint, account, key } = server;
    container = new ContainerClient(
      `${endpoint}/${server.container}`,
      new StorageSharedKeyCredential(account, key),
    );
    dir = await mkdtemp(join(tmpdir(), 'presync-azure-test-'));
  });

  after(async () => {
    await server.stop();
    await rm(dir, { recursive: true });
  });

  beforeEach(async () => {
    setEnvironment(server.env);
    store = await open();
  });

  const open = (endpoint = server.endpoint, name = server.container): Promise<ObjectStore> =>
    createAzureStore({ account: server.account, container: name, prefix: 'p', endpoint });

  async function file(size: number): Promise<{ path: string; size: number; bytes: Buffer }> {
    const path = join(dir, `body-${randomBytes(4).toString('hex')}`);
    const bytes = randomBytes(size);
    await writeFile(path, bytes);
    return { path, size, bytes };
  }

  async function has(key: string, bytes: Buffer): Promise<void> {
    const read = await store.read(key, { maxBytes: bytes.length, signal });
    assert.ok(bytes.equals(read.bytes), `${key} is not what was put`);
  }

  async function listed(prefix: string): Promise<string[]> {
    const keys: string[] = [];
    for await (const { key } of store.list(prefix, { signal })) keys.push(key);
    return keys;
  }

  test('a large file goes up in blocks, under its condition', async () => {
    const first = await file(33 * MIB + 5);
    const second = await file(16 * MIB);
    const { version } = await store.put('blocks', first, { condition: { ifAbsent: true }, signal });
    await has('blocks', first.bytes);
    const blocks = await container.getBlockBlobClient('p/blocks').getBlockList('committed');
    assert.equal(blocks.committedBlocks?.length, 5);
    const again = store.put('blocks', second, { condition: { ifAbsent: true }, signal });
    assert.equal((await failure(again)).code, 'CONDITION_FAILED');
    await has('blocks', first.bytes);
    const replaced = await store.put('blocks', second, { condition: { ifVersion: version }, signal });
    await has('blocks', second.bytes);
    const late = store.put('blocks', first, { condition: { ifVersion: version }, signal });
    assert.equal((await failure(late)).code, 'CONDITION_FAILED');
    const missing = store.put('none', first, { condition: { ifVersion: version }, signal });
    assert.equal((await failure(missing)).code, 'CONDITION_FAILED');
    assert.equal((await store.stat('blocks', { signal }))?.version, replaced.version);
    assert.equal(await store.stat('none', { signal }), undefined);
  });

  test('of many files for one new key one wins, whole', async () => {
    const files = await Promise.all(Array.from({ length: 6 }, () => file(12 * MIB)));
    const outcomes = await Promise.all(
      files.map(async (body) => {
        for (;;) {
          try {
            return await store.put('race', body, { condition: { ifAbsent: true }, signal });
          } catch (error) {
            assert.ok(isPresyncError(error));
            if (!error.retryable) return error.code;
          }
        }
      }),
    );
    const winner = outcomes.findIndex((outcome) => typeof outcome !== 'string');
    assert.deepEqual(
      outcomes.filter((_, index) => index !== winner),
      Array(5).fill('CONDITION_FAILED'),
    );
    await has('race', files[winner]?.bytes ?? Buffer.alloc(0));
  });

  test('a put of blocks that is stopped leaves no object', async () => {
    const body = await file(64 * MIB);
    const controller = new AbortController();
    const through = await proxy((url) => {
      if (url.includes('comp=block&') && ++seen === 3) controller.abort();
    });
    let seen = 0;
    store = await open(through.endpoint);
    const error = await failure(store.put('stopped', body, { signal: controller.signal }));
    assert.equal(error.code, 'ABORTED');
    store = await open();
    assert.equal(await store.stat('stopped', { signal }), undefined);
    assert.deepEqual(await listed('stopped'), []);
    await through.stop();
  });

  test('a file that grows during its put is no object', async () => {
    for (const size of [3 * MIB, 20 * MIB]) {
      const body = await file(size);
      const through = await proxy(() => undefined, {
        before: async (url) => {
          if (url.includes('comp=block&')) await appendFile(body.path, 'more');
        },
      });
      store = await open(through.endpoint);
      if (size === 3 * MIB) await appendFile(body.path, 'more');
      const error = await failure(store.put('grown', body, { signal }));
      assert.equal(error.code, 'IO_FAILED');
      assert.equal(await store.stat('grown', { signal }), undefined);
      await through.stop();
    }
  });

  test('a body that is damaged on its way is refused, and may be put again', async () => {
    const body = await file(20 * MIB);
    const through = await proxy(() => undefined, { damage: true });
    store = await open(through.endpoint);
    for (const put of [
      () => store.put('damaged', body.bytes, { signal }),
      () => store.put('damaged', body, { signal }),
    ]) {
      const error = await failure(put());
      assert.deepEqual([error.code, error.retryable], ['STORE_FAILED', true], error.message);
      assert.equal(await store.stat('damaged', { signal }), undefined);
    }
    await through.stop();
  });

  test('a file of any size takes little memory', async () => {
    const body = await file(256 * MIB);
    body.bytes = Buffer.alloc(0);
    globalThis.gc?.();
    const start = process.memoryUsage().arrayBuffers;
    let most = 0;
    const timer = setInterval(() => {
      most = Math.max(most, process.memoryUsage().arrayBuffers - start);
    }, 5);
    await store.put('large', body, { signal });
    clearInterval(timer);
    assert.ok(most < 96 * MIB, `${Math.round(most / MIB)} MiB`);
    assert.equal((await store.stat('large', { signal }))?.size, body.size);
  });

  test('a container that is not there is told by every call', async () => {
    store = await open(server.endpoint, 'nowhere');
    for (const call of [
      () => store.stat('key', { signal }),
      () => store.read('key', { maxBytes: 10, signal }),
      () => store.put('key', Buffer.from('body'), { signal }),
      () => store.put('key', Buffer.from('body'), { condition: { ifAbsent: true }, signal }),
      () => store.put('key', Buffer.from('body'), { condition: { ifVersion: '"0x1"' }, signal }),
      () => store.remove('key', { signal }),
      () => store.list('', { signal })[Symbol.asyncIterator]().next(),
    ]) {
      assert.equal((await failure(call())).code, 'STORE_NOT_FOUND');
    }
  });

  test('a lease is no lost condition', async () => {
    const { version } = await store.put('leased', Buffer.from('body'), { signal });
    const lease = container.getBlobClient('p/leased').getBlobLeaseClient();
    await lease.acquireLease(15);
    for (const condition of [undefined, { ifVersion: version }]) {
      const error = await failure(store.put('leased', Buffer.from('other'), { condition, signal }));
      assert.deepEqual([error.code, error.retryable], ['STORE_FAILED', true], error.message);
    }
    await lease.releaseLease();
  });

  test('a connection string and a SAS token give what they may give', async () => {
    const { endpoint, account, key } = server;
    setEnvironment({
      AZURE_STORAGE_CONNECTION_STRING: `DefaultEndpointsProtocol=http;AccountName=${account};AccountKey=${key};BlobEndpoint=${endpoint};`,
    });
    store = await createAzureStore({ account, container: server.container, prefix: 'p' });
    await store.put('given', Buffer.from('body'), { signal });
    const sas = async (permissions: string, seconds: number): Promise<ObjectStore> => {
      const url = await container.generateSasUrl({
        permissions: ContainerSASPermissions.parse(permissions),
        startsOn: new Date(Date.now() - 3_600_000),
        expiresOn: new Date(Date.now() + seconds * 1000),
      });
      setEnvironment({ AZURE_STORAGE_SAS_TOKEN: new URL(url).search });
      return open();
    };
    store = await sas('rl', 3600);
    await has('given', Buffer.from('body'));
    assert.deepEqual(await listed('given'), ['given']);
    const refused = await failure(store.put('given', Buffer.from('other'), { signal }));
    assert.equal(refused.code, 'STORE_FORBIDDEN');
    assert.match(refused.hint ?? '', /permission c and w/);
    store = await sas('rl', -60);
    const expired = await failure(store.stat('given', { signal }));
    assert.equal(expired.code, 'STORE_FORBIDDEN');
    const signature = new URLSearchParams(process.env.AZURE_STORAGE_SAS_TOKEN).get('sig') ?? 'none';
    for (const error of [refused, expired]) {
      for (const secret of [signature, encodeURIComponent(signature)])
        assert.ok(!textOf(error).includes(secret));
    }
  });

  test('a wrong key is forbidden', async () => {
    setEnvironment({ AZURE_STORAGE_KEY: randomBytes(64).toString('base64') });
    store = await open();
    for (const call of [
      () => store.stat('key', { signal }),
      () => store.put('key', Buffer.from('body'), { signal }),
    ]) {
      assert.equal((await failure(call())).code, 'STORE_FORBIDDEN');
    }
  });

  /** Hands everything on to azurite; `damage` changes the last byte of every body. */
  async function proxy(
    seen: (url: string) => void,
    { before, damage = false }: { before?: (url: string) => Promise<void>; damage?: boolean } = {},
  ): Promise<{ endpoint: string; stop(): Promise<void> }> {
    const upstream = new URL(server.endpoint);
    const listener = createServer((incoming, outgoing) => {
      const { method = 'GET', url = '/', headers } = incoming;
      seen(url);
      const parts: Buffer[] = [];
      incoming.on('data', (bytes: Buffer) => parts.push(bytes));
      incoming.on('end', async () => {
        await before?.(url);
        const body = Buffer.concat(parts);
        const last = body.at(-1);
        if (damage && last !== undefined) body[body.length - 1] = last ^ 1;
        const sent = request(
          { host: upstream.hostname, port: upstream.port, method, path: url, headers, agent: false },
          (answer) => {
            outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
            answer.pipe(outgoing);
          },
        );
        sent.on('error', () => outgoing.destroy());
        sent.end(body);
      });
    });
    await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
    const address = listener.address();
    assert.ok(address !== null && typeof address === 'object');
    return {
      endpoint: `http://127.0.0.1:${address.port}${upstream.pathname}`,
      stop: async () => {
        listener.closeAllConnections();
        await new Promise((resolve) => listener.close(resolve));
      },
    };
  }
});
