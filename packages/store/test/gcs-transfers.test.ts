import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { truncateSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { createGcsStore } from '@presync/store/gcs';
import type { ObjectStore } from '@presync/store/object-store';
import {
  type Answer,
  fails,
  failure,
  GENERATION,
  json,
  media,
  refuse,
  respond,
  type StandIn,
  startStandIn,
  stored,
} from '../../../test/support/gcs-stand-in.ts';

// What the real server does not show on demand: bodies and connections that break, stall or are not what was asked.

const signal = AbortSignal.timeout(120_000);
const STALL_MS = 500;

let server: StandIn;
let store: ObjectStore;
let scratch = '';

before(async () => {
  delete process.env.STORAGE_EMULATOR_HOST;
  scratch = await mkdtemp(join(tmpdir(), 'presync-gcs-'));
  server = await startStandIn();
});

after(async () => {
  await store.close();
  await server.stop();
  await rm(scratch, { recursive: true });
});

beforeEach(async () => {
  await store?.close();
  server.reset();
  store = await open();
});

function open(stallMs = STALL_MS): Promise<ObjectStore> {
  const { endpoint } = server;
  return createGcsStore({ bucket: 'bucket', prefix: 'p', endpoint, stallMs, maxConnections: 8 });
}

const get = (): Promise<unknown> => store.read('key', { maxBytes: 1000, signal });
const put = (): Promise<unknown> => store.put('key', Buffer.from('body'), { signal });
const create = (): Promise<unknown> =>
  store.put('key', Buffer.from('body'), { condition: { ifAbsent: true }, signal });
const stat = (): Promise<unknown> => store.stat('key', { signal });
const remove = (): Promise<unknown> => store.remove('key', { signal });
const list = (): Promise<unknown> => store.list('', { signal })[Symbol.asyncIterator]().next();

test('a put is one request with conditions, metadata, digest and bytes', async () => {
  const body = randomBytes(700_000);
  const path = join(scratch, 'body');
  await writeFile(path, body);
  const md5Hash = createHash('md5').update(body).digest('base64');
  server.answers = [stored(body.length, { md5Hash })];
  for (const source of [body, new Uint8Array(body), { path, size: body.length }]) {
    server.requests = [];
    const { version } = await store.put('a/b', source, { condition: { ifAbsent: true }, signal });
    assert.equal(version, GENERATION);
    const [sent, ...others] = server.requests;
    assert.ok(sent !== undefined && others.length === 0);
    const url = new URL(sent.line.replace('POST ', ''), server.endpoint);
    assert.equal(url.pathname, '/upload/storage/v1/b/bucket/o');
    assert.equal(url.searchParams.get('uploadType'), 'multipart');
    assert.equal(url.searchParams.get('ifGenerationMatch'), '0');
    assert.equal(sent.headers['content-length'], `${sent.body.length}`);
    assert.equal(sent.headers.authorization, undefined);
    const [, boundary] =
      /^multipart\/related; boundary=([0-9a-f]+)$/.exec(sent.headers['content-type'] ?? '') ?? [];
    const at = sent.body.indexOf(body);
    assert.ok(at > 0);
    assert.equal(sent.body.subarray(at + body.length).toString(), `\r\n--${boundary}--\r\n`);
    const [, metadata = '', bytes] = sent.body.subarray(0, at).toString().split(`--${boundary}\r\n`);
    assert.deepEqual(JSON.parse(metadata.split('\r\n\r\n')[1] ?? ''), {
      name: 'p/a/b',
      contentType: 'application/octet-stream',
      cacheControl: 'no-cache',
      md5Hash,
    });
    assert.equal(bytes, 'Content-Type: application/octet-stream\r\n\r\n');
  }
});

test('an answer to a put that tells of other bytes is not taken for success', async () => {
  for (const answer of [
    stored(5),
    stored(4, { md5Hash: 'iuPXG/eB0vLil6O2Rt2Dqw==' }),
    json({ size: '4' }),
    json({ size: 4, generation: GENERATION }),
    json({ size: '4', generation: 'new' }),
    respond(200, {}, '<html>welcome</html>'),
  ]) {
    server.answers = [answer];
    await fails(put(), 'STORE_FAILED', true);
  }
});

test('a file that shrinks while it is sent is told, and never sent to its end', async () => {
  const path = join(scratch, 'shrinking');
  await writeFile(path, Buffer.alloc(64 * 1024 ** 2));
  server.answers = [stored(64 * 1024 ** 2)];
  server.onHead = () => truncateSync(path, 1024);
  await fails(store.put('key', { path, size: 64 * 1024 ** 2 }, { signal }), 'IO_FAILED');
  assert.equal(server.requests.length, 0, 'the whole request was received');
});

test('a body that ends early is a retryable failure', async () => {
  server.answers = [
    (_, response) => {
      response.writeHead(200, { 'content-length': 100, 'x-goog-generation': GENERATION });
      response.write(Buffer.alloc(50));
      setTimeout(() => response.destroy(), 20);
    },
  ];
  const error = await fails(get(), 'STORE_FAILED', true);
  assert.match(error.message, /50 of the announced 100 bytes/);
});

test('a body that stalls is found out', async () => {
  server.answers = [
    (_, response) => {
      response.writeHead(200, { 'content-length': 100, 'x-goog-generation': GENERATION });
      response.write(Buffer.alloc(50));
    },
  ];
  await fails(get(), 'STORE_UNREACHABLE', true);
});

test('a body that comes slowly, and comes, is not a stall', async () => {
  server.answers = [
    (_, response) => {
      response.writeHead(200, { 'content-length': 8, 'x-goog-generation': GENERATION });
      let sent = 0;
      const timer = setInterval(() => {
        response.write('x');
        if (++sent === 8) clearInterval(timer);
      }, STALL_MS / 4);
    },
  ];
  assert.equal((await store.read('key', { maxBytes: 8, signal })).bytes.length, 8);
});

test('an answer that never begins is found out', async () => {
  server.answers = [() => undefined];
  for (const call of [get, put, stat, remove, list]) await fails(call(), 'STORE_UNREACHABLE', true);
});

test('an upload that nobody takes is found out', async () => {
  server.onHead = (request) => request.socket.pause();
  await fails(store.put('key', Buffer.alloc(64 * 1024 ** 2), { signal }), 'STORE_UNREACHABLE', true);
});

test('an upload that is taken slowly, and taken, is not a stall', async () => {
  const size = 48 * 1024 ** 2;
  store = await open(1500);
  server.answers = [stored(size)];
  server.onHead = (request) =>
    request.on('data', () => {
      request.pause();
      setTimeout(() => request.resume(), 4);
    });
  const began = Date.now();
  await store.put('key', Buffer.alloc(size), { signal });
  assert.ok(Date.now() - began > 2000, 'it was no slow upload');
});

test('a connection that is reset or refused is retryable', async () => {
  server.answers = [(request) => request.socket.resetAndDestroy()];
  for (const call of [get, put, stat]) await fails(call(), 'STORE_UNREACHABLE', true);
  for (const nowhere of ['http://127.0.0.1:1', 'http://no-such-host.localhost:1']) {
    const away = await createGcsStore({ bucket: 'b', prefix: '', endpoint: nowhere, stallMs: 5000 });
    await fails(away.stat('key', { signal }), 'STORE_UNREACHABLE', true);
    await away.close();
  }
});

test('a refusal before the end of an upload is the answer, and ends it', { timeout: 30_000 }, async () => {
  store = await open(60_000);
  let taken: IncomingMessage | undefined;
  server.onHead = (request) => {
    taken = request.pause();
    const body = JSON.stringify({ error: { message: 'no', errors: [{ reason: 'conditionNotMet' }] } });
    request.socket.write(`HTTP/1.1 412 Precondition Failed\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  };
  const large = store.put('key', Buffer.alloc(64 * 1024 ** 2), { condition: { ifAbsent: true }, signal });
  await fails(large, 'CONDITION_FAILED');
  const closed = new Promise((resolve) => taken?.once('close', resolve));
  taken?.resume();
  await closed;
  assert.equal(taken?.complete, false, 'the rest was sent');
});

test('answers that are not what was asked are refused', async () => {
  const body = Buffer.alloc(10, 'x');
  const range = { offset: 10, length: 10 };
  const ranged = (): Promise<unknown> => store.read('key', { maxBytes: 1000, range, signal });
  const head = { 'x-goog-generation': GENERATION };
  const wrong: [() => Promise<unknown>, Answer][] = [
    [ranged, respond(206, { ...head, 'content-range': 'bytes 0-9/100' }, body)],
    [ranged, respond(206, { ...head, 'content-range': 'bytes 10-18/100' }, body.subarray(1))],
    [ranged, respond(206, { ...head, 'content-range': 'bytes 10-19/100' }, body.subarray(1))],
    [ranged, respond(206, head, body)],
    [ranged, media(Buffer.alloc(100))],
    [get, respond(206, { ...head, 'content-range': 'bytes 0-9/100' }, body)],
    [get, respond(200, {}, body)],
    [get, media(body, { 'x-goog-generation': 'none' })],
    [get, media(body, { 'content-encoding': 'gzip' })],
    [get, media(body, { 'x-goog-stored-content-encoding': 'gzip' })],
    [get, media(body, { 'x-goog-stored-content-length': 11 })],
    [get, media(body, { 'x-goog-hash': 'crc32c=AAAAAA==,md5=iuPXG/eB0vLil6O2Rt2Dqw==' })],
    [stat, respond(200, {}, '')],
    [stat, json({ generation: GENERATION })],
    [stat, json({ size: '10' })],
    [list, json({ items: {} })],
    [list, json({ items: [{ name: 'p/a', generation: GENERATION }] })],
    [
      get,
      (_, response) => {
        response.writeHead(200, head);
        response.end(body);
      },
    ],
  ];
  for (const [call, answer] of wrong) {
    server.answers = [answer];
    await fails(call(), 'STORE_FAILED', true);
  }
  server.answers = [respond(206, { ...head, 'content-range': 'bytes 10-19/100' }, body)];
  assert.deepEqual(await ranged(), { bytes: body, size: 100, version: GENERATION });
  assert.equal(server.requests.at(-1)?.headers.range, 'bytes=10-19');
});

test('what is stored in a coding is given as it is stored', async () => {
  const body = Buffer.from('not really gzip');
  const md5 = createHash('md5').update(body).digest('base64');
  server.answers = [
    media(body, {
      'content-encoding': 'gzip',
      'x-goog-stored-content-encoding': 'gzip',
      'x-goog-stored-content-length': body.length,
      'x-goog-hash': `crc32c=AAAAAA==, md5=${md5}`,
    }),
  ];
  const read = await store.read('key', { maxBytes: 100, signal });
  assert.deepEqual(Buffer.from(read.bytes), body);
  assert.equal(server.requests[0]?.headers['accept-encoding'], 'gzip');
});

test('a range that begins past the end asks for the size', async () => {
  server.answers = [refuse(416, 'requestedRangeNotSatisfiable'), stored(10)];
  const read = await store.read('key', { maxBytes: 5, range: { offset: 10, length: 5 }, signal });
  assert.deepEqual(read, { bytes: new Uint8Array(0), size: 10, version: GENERATION });
  server.answers = [refuse(416, 'requestedRangeNotSatisfiable'), stored(11)];
  await fails(
    store.read('key', { maxBytes: 5, range: { offset: 10, length: 5 }, signal }),
    'STORE_FAILED',
    true,
  );
});

test('an object that is too large is not received', async () => {
  store = await open(60_000);
  let closed = false;
  server.answers = [
    (_, response) => {
      response.writeHead(200, { 'content-length': 1_000_000_000, 'x-goog-generation': GENERATION });
      response.write(Buffer.alloc(1000));
      response.on('close', () => {
        closed = true;
      });
    },
  ];
  assert.equal((await failure(get())).code, 'OBJECT_TOO_LARGE');
  for (const until = Date.now() + 20_000; !closed && Date.now() < until; ) await delay(10);
  assert.ok(closed, 'the connection was kept');
});

test('an abort ends a call whose answer or body is waited for', async () => {
  const reason = new Error('enough');
  for (const answer of [
    () => undefined,
    (_: IncomingMessage, response: ServerResponse) => {
      response.writeHead(200, { 'content-length': 100, 'x-goog-generation': GENERATION });
      response.write('x');
    },
  ]) {
    server.answers = [answer];
    store = await open(60_000);
    const calls: ((signal: AbortSignal) => Promise<unknown>)[] = [
      (signal) => store.read('key', { maxBytes: 1000, signal }),
      (signal) => store.put('key', Buffer.alloc(64 * 1024 ** 2), { signal }),
      (signal) => store.stat('key', { signal }),
      (signal) => store.remove('key', { signal }),
      (signal) => store.list('', { signal })[Symbol.asyncIterator]().next(),
    ];
    for (const call of calls) {
      const controller = new AbortController();
      setTimeout(() => controller.abort(reason), 100);
      const error = await failure(call(controller.signal));
      assert.equal(error.code, 'ABORTED');
      assert.equal(error.cause, reason);
    }
    await store.close();
  }
});

test('connections are used again', async () => {
  const size = 3 * 1024 ** 2;
  for (let round = 0; round < 10; round++) {
    server.answers = [
      media('body'),
      stored(4),
      stored(size),
      refuse(412, 'conditionNotMet'),
      respond(204, {}),
    ];
    await get();
    await put();
    await store.put('key', Buffer.alloc(size), { signal });
    await failure(create());
    await remove();
    server.answers = [json({})];
    await list();
  }
  assert.equal(server.connections, 1);
});

test('no more than maxConnections are open', async () => {
  server.answers = [(request, response) => setTimeout(() => media('body')(request, response), 20)];
  await Promise.all(Array.from({ length: 40 }, get));
  assert.ok(server.connections <= 8, `${server.connections} connections`);
});
