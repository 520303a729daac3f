import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Storage } from '@google-cloud/storage';
import { createGcsStore } from '@presync/store/gcs';
import type { ObjectStore } from '@presync/store/object-store';
import { findGcsServer, type GcsServer, startGcsServer } from '../../../test/support/gcs-server.ts';
import { fails } from '../../../test/support/gcs-stand-in.ts';
import { needs } from '../../../test/support/needs.ts';

// What a real server makes of the requests, beyond the conformance suite.

describe('on fake-gcs-server', needs('fake-gcs-server', findGcsServer() !== undefined), () => {
  const signal = AbortSignal.timeout(120_000);
  let server: GcsServer;
  let store: ObjectStore;
  let scratch = '';

  before(async () => {
    delete process.env.STORAGE_EMULATOR_HOST;
    scratch = await mkdtemp(join(tmpdir(), 'presync-gcs-'));
    server = await startGcsServer();
    store = await open();
  });

  after(async () => {
    await store?.close();
    await server?.stop();
    await rm(scratch, { recursive: true });
  });

  function open(options: { bucket?: string; endpoint?: string } = {}): Promise<ObjectStore> {
    const { bucket = server.bucket, endpoint = server.endpoint } = options;
    return createGcsStore({ bucket, prefix: 'p', endpoint });
  }

  test('a missing bucket is told by every call', async () => {
    const body = Buffer.from('body');
    const calls: ((store: ObjectStore) => Promise<unknown>)[] = [
      (store) => store.stat('key', { signal }),
      (store) => store.read('key', { maxBytes: 1, signal }),
      (store) => store.read('key', { maxBytes: 1, range: { offset: 0, length: 1 }, signal }),
      (store) => store.read('key', { maxBytes: 1, range: { offset: 0, length: 0 }, signal }),
      (store) => store.put('key', body, { signal }),
      (store) => store.put('key', body, { condition: { ifAbsent: true }, signal }),
      (store) => store.put('key', body, { condition: { ifVersion: '1' }, signal }),
      (store) => store.remove('key', { signal }),
      (store) => store.list('', { signal })[Symbol.asyncIterator]().next(),
    ];
    for (const call of calls) {
      const away = await open({ bucket: 'no-such-bucket' });
      await fails(call(away), 'STORE_NOT_FOUND');
      await away.close();
    }
  });

  test('a body that is damaged on the way is refused on arrival, and nothing is stored', async () => {
    const path = join(scratch, 'body');
    const body = randomBytes(100_000);
    await writeFile(path, body);
    const { port } = new URL(server.endpoint);
    // Turns over one bit of each upload.
    const damaging = createServer((incoming, outgoing) => {
      const forwarded = request(
        { host: '127.0.0.1', port, method: incoming.method, path: incoming.url, headers: incoming.headers },
        (answer) => answer.pipe(outgoing.writeHead(answer.statusCode ?? 500, answer.headers)),
      );
      let at = 0;
      incoming.on('data', (piece: Buffer) => {
        if (at <= 50_000 && 50_000 < at + piece.length) piece[50_000 - at] = (piece[50_000 - at] ?? 0) ^ 1;
        at += piece.length;
        forwarded.write(piece);
      });
      incoming.on('end', () => forwarded.end());
    });
    await new Promise<void>((resolve) => damaging.listen(0, '127.0.0.1', resolve));
    const address = damaging.address();
    assert.ok(address !== null && typeof address === 'object');
    const through = await open({ endpoint: `http://127.0.0.1:${address.port}` });
    for (const source of [body, { path, size: body.length }]) {
      const condition = { ifAbsent: true } as const;
      const error = await fails(through.put('damaged', source, { condition, signal }), 'STORE_FAILED', true);
      assert.match(error.message, /MD5/);
      assert.equal(await store.stat('damaged', { signal }), undefined);
    }
    await through.close();
    damaging.closeAllConnections();
    await new Promise((resolve) => damaging.close(resolve));
  });

  test("Google's own client reads what was put, with its checks", async () => {
    const body = randomBytes(3000);
    const { version } = await store.put('a/b', body, { signal });
    const bucket = new Storage({ apiEndpoint: server.endpoint }).bucket(server.bucket);
    const file = bucket.file('p/a/b');
    const [downloaded] = await file.download({ validation: 'md5' });
    assert.deepEqual(downloaded, body);
    const [metadata] = await file.getMetadata();
    assert.equal(String(metadata.generation), version);
    assert.equal(metadata.cacheControl, 'no-cache');
    assert.equal(metadata.contentEncoding ?? '', '');
  });

  test('other prefixes are out of sight', async () => {
    const other = await createGcsStore({
      bucket: server.bucket,
      prefix: 'ä b/ü+%',
      endpoint: server.endpoint,
    });
    await other.put('x/y', Buffer.from('1'), { condition: { ifAbsent: true }, signal });
    const keys: string[] = [];
    for await (const { key } of other.list('', { signal })) keys.push(key);
    assert.deepEqual(keys, ['x/y']);
    assert.equal(await store.stat('x/y', { signal }), undefined);
    assert.equal(Buffer.from((await other.read('x/y', { maxBytes: 1, signal })).bytes).toString(), '1');
    await other.remove('x/y', { signal });
    assert.equal(await other.stat('x/y', { signal }), undefined);
    await other.close();
  });
});
