import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { after, before, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isPresyncError, type PresyncError } from '@presync/runtime/errors';
import { createDownloads, type Downloads, isNotResumable } from '@presync/store/download';
import { collectBytes } from '../../../test/support/collect.ts';

// What web servers do in the middle of a large file.

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

const signal = AbortSignal.timeout(120_000);
const STALL_MS = 300;
const CONTENT = randomBytes(400_000);
const DATE = 'Mon, 01 Jan 2024 00:00:00 GMT';

let server: Server;
let base = '';
let downloads: Downloads;
let answers: Answer[] = [];
let seen: IncomingMessage[] = [];

before(async () => {
  server = createServer((request, response) => {
    seen.push(request);
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    answer?.(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  base = `http://127.0.0.1:${address.port}`;
});

after(async () => {
  downloads.close();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

beforeEach(() => {
  downloads?.close();
  answers = [];
  seen = [];
  downloads = createDownloads({ stallMs: STALL_MS, attempts: 4, minDelayMs: 1 });
});

interface Serving {
  etag?: string | undefined;
  lastModified?: string | undefined;
  content?: Buffer;
  /** Bytes after which the connection is cut. */
  cut?: number | undefined;
  /** Falls silent in place of cutting. */
  silent?: boolean | undefined;
  ranges?: boolean | undefined;
  /** Content-Range in place of the right one. */
  contentRange?: string | undefined;
  /** No Content-Length. */
  chunked?: boolean | undefined;
}

/** A web server as it should be, but for what is said. */
function serve(how: Serving = {}): Answer {
  const { content = CONTENT, ranges = true, etag = '"v1"', cut } = how;
  return (request, response) => {
    const range = /^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1];
    const condition = request.headers['if-range'];
    const fits = condition === undefined || condition === etag || condition === how.lastModified;
    const from = ranges && range !== undefined && fits ? Number(range) : undefined;
    const body = content.subarray(from ?? 0);
    response.writeHead(from === undefined ? 200 : 206, {
      ...(etag === '' ? {} : { etag }),
      ...(how.lastModified === undefined ? {} : { 'last-modified': how.lastModified }),
      ...(how.chunked === true ? {} : { 'content-length': body.length }),
      ...(from === undefined
        ? {}
        : { 'content-range': how.contentRange ?? `bytes ${from}-${content.length - 1}/${content.length}` }),
    });
    if (cut === undefined) {
      response.end(body);
      return;
    }
    response.write(body.subarray(0, cut), () => {
      if (how.silent !== true) response.destroy();
    });
    if (cut === 0) response.flushHeaders();
  };
}

async function get(url = `${base}/dir/archive.tar`): Promise<Buffer> {
  const download = await downloads.open(url, { signal });
  try {
    return await collectBytes(download.bytes());
  } finally {
    download.close();
  }
}

async function refused(promise: Promise<unknown>, message: RegExp): Promise<PresyncError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(isPresyncError(error), String(error));
    assert.match(error.message, message);
    assert.ok(error.hint !== undefined);
    return error;
  }
  return assert.fail('it was not refused');
}

test('a file is got with what the server says of it', async () => {
  answers = [serve({ lastModified: DATE })];
  const download = await downloads.open(`${base}/dir/a.tar?X-Amz-Signature=hush#x`, { signal });
  assert.equal(download.size, CONTENT.length);
  assert.equal(download.version, '"v1"');
  assert.equal(download.location, `${base}/dir/a.tar`);
  assert.ok((await collectBytes(download.bytes())).equals(CONTENT));
  assert.equal(seen[0]?.url, '/dir/a.tar?X-Amz-Signature=hush');
});

test('a connection that breaks or stalls is made again for the rest', async () => {
  for (const silent of [false, true]) {
    for (const validators of [
      {},
      { etag: '', lastModified: DATE },
      { etag: 'W/"weak"', lastModified: DATE },
    ]) {
      seen = [];
      const how = { ...validators, silent };
      answers = [
        serve({ ...how, cut: 100_000 }),
        serve({ ...how, cut: 50_000 }),
        serve({ ...how, cut: 1 }),
        serve(how),
      ];
      assert.ok((await get()).equals(CONTENT));
      assert.deepEqual(
        seen.map(({ headers }) => headers.range),
        [undefined, 'bytes=100000-', 'bytes=150000-', 'bytes=150001-'],
      );
      const condition = 'lastModified' in validators ? DATE : '"v1"';
      assert.equal(seen[1]?.headers['if-range'], condition);
    }
  }
});

test('one that breaks often goes on as long as it gets further, and no longer', async () => {
  answers = Array.from({ length: 40 }, () => serve({ cut: 10_000 }));
  assert.ok((await get()).equals(CONTENT));
  answers = [serve({ cut: 100 }), serve({ cut: 0 })];
  seen = [];
  await refused(get(), /127\.0\.0\.1/);
  assert.equal(seen.length, 5);
});

test('errors of the server in between are waited out', async () => {
  const busy: Answer = (_request, response) => void response.writeHead(503).end();
  answers = [busy, serve({ cut: 1000 }), busy, busy, serve()];
  assert.ok((await get()).equals(CONTENT));
  answers = [serve({ cut: 1000 }), (_request, response) => void response.writeHead(404).end()];
  assert.equal((await refused(get(), /archive\.tar/)).code, 'OBJECT_NOT_FOUND');
});

test('a server without ranges cannot go on', async () => {
  answers = [serve({ cut: 1000, ranges: false }), serve({ ranges: false })];
  const error = await refused(get(), /after 1000 bytes, and the server gives no ranges/);
  assert.ok(isNotResumable(error));
  answers = [serve({ cut: 1000, etag: '' }), serve({ etag: '' })];
  assert.ok(isNotResumable(await refused(get(), /no ETag, no Last-Modified/)));
});

test('a file that is another one now is no rest', async () => {
  const other = randomBytes(CONTENT.length);
  for (const next of [
    serve({ etag: '"v2"', content: other }),
    serve({ etag: '"v2"', content: other, ranges: false }),
    serve({ content: Buffer.concat([CONTENT, other]) }),
    // A server that does not mind If-Range.
    ((request, response) => {
      delete request.headers['if-range'];
      serve({ etag: '"v2"', content: other })(request, response);
    }) satisfies Answer,
    ((_request, response) => void response.writeHead(416).end()) satisfies Answer,
  ]) {
    answers = [serve({ cut: 1000 }), next];
    const error = await refused(get(), /changed while it was read/);
    assert.equal(error.code, 'STORE_FAILED');
    assert.equal(error.retryable, false);
  }
  // The same, before a byte of it had come.
  answers = [serve({ cut: 0 }), serve({ etag: '"v2"', content: other })];
  await refused(get(), /changed/);
  answers = [
    serve({ cut: 1000, etag: '', lastModified: DATE }),
    serve({ etag: '', lastModified: 'Tue, 02 Jan 2024 00:00:00 GMT' }),
  ];
  await refused(get(), /changed/);
});

test('a part that is not the rest is not taken', async () => {
  const size = CONTENT.length;
  for (const contentRange of [
    `bytes 0-${size - 1}/${size}`,
    `bytes 1001-${size - 1}/${size}`,
    `bytes 1000-${size - 2}/${size}`,
    `bytes 1000-${size - 1}/*`,
    'nonsense',
  ]) {
    answers = [serve({ cut: 1000 }), serve({ contentRange })];
    assert.equal((await refused(get(), /where all from 1000 on was asked/)).code, 'STORE_FAILED');
    // Once only: a cache that has a bad day.
    answers = [serve({ cut: 1000 }), serve({ contentRange }), serve()];
    assert.ok((await get()).equals(CONTENT));
  }
  answers = [
    (_request, response) =>
      void response.writeHead(206, { etag: '"v1"', 'content-range': `bytes 0-9/${size}` }).end('0123456789'),
  ];
  await refused(get(), /not asked for/);
});

test('a body of unknown length is taken to its marked end', async () => {
  answers = [serve({ chunked: true })];
  assert.ok((await get()).equals(CONTENT));
  answers = [serve({ chunked: true, cut: 1000 }), serve({ chunked: true })];
  assert.ok((await get()).equals(CONTENT));
});

test('who takes the bytes slowly makes no stall', async () => {
  answers = [serve()];
  const download = await downloads.open(`${base}/a`, { signal });
  let length = 0;
  let waited = false;
  for await (const piece of download.bytes()) {
    if (!waited) await sleep(3 * STALL_MS);
    waited = true;
    length += piece.length;
  }
  assert.equal(length, CONTENT.length);
  assert.equal(seen.length, 1);
});

test('a body in a coding is taken only where that was said', async () => {
  answers = [
    (_request, response) =>
      void response
        .writeHead(200, { etag: '"v1"', 'content-encoding': 'x-gzip', 'content-length': 3 })
        .end('abc'),
  ];
  await refused(get(), /x-gzip/);
  const download = await downloads.open(`${base}/a`, { anyCoding: true, signal });
  assert.equal((await collectBytes(download.bytes())).toString(), 'abc');
});

test('credentials are sent to their origin, also with the rest', async () => {
  const mine = createDownloads({
    access: { http: { authorization: (origin) => (origin === base ? 'Bearer hush' : undefined) } },
    minDelayMs: 1,
  });
  answers = [serve({ cut: 1000 }), serve()];
  const download = await mine.open(`${base}/a`, { signal });
  assert.ok((await collectBytes(download.bytes())).equals(CONTENT));
  assert.deepEqual(
    seen.map(({ headers }) => headers.authorization),
    ['Bearer hush', 'Bearer hush'],
  );
  mine.close();
});

test('an abort ends it at once', async () => {
  answers = [serve({ cut: 1000, silent: true })];
  const stop = new AbortController();
  const download = await downloads.open(`${base}/a`, { signal: stop.signal });
  setTimeout(() => stop.abort(), 50);
  await assert.rejects(collectBytes(download.bytes()), (error) => isPresyncError(error, 'ABORTED'));
});

test('small texts and sizes', async () => {
  answers = [(_request, response) => void response.end('20240101-000000\n')];
  assert.equal(await downloads.text(`${base}/v`, { maxBytes: 100, signal }), '20240101-000000\n');
  await refused(downloads.text(`${base}/v`, { maxBytes: 5, signal }), /at most 5/);
  answers = [(_request, response) => void response.end(Buffer.from([0xff, 0xfe]))];
  await refused(downloads.text(`${base}/v`, { maxBytes: 5, signal }), /no text/);
  answers = [(_request, response) => void response.writeHead(404).end()];
  assert.equal(await downloads.text(`${base}/v`, { maxBytes: 5, signal }), undefined);
  answers = [(_request, response) => void response.writeHead(403).end()];
  assert.equal(
    (await refused(downloads.text(`${base}/v`, { maxBytes: 5, signal }), /403/)).code,
    'STORE_FORBIDDEN',
  );
  answers = [serve()];
  assert.equal(await downloads.sizeOf(`${base}/a`, { signal }), CONTENT.length);
  answers = [(_request, response) => void response.writeHead(405).end()];
  assert.equal(await downloads.sizeOf(`${base}/a`, { signal }), undefined);
});

test('downloads keep to a pace together', async () => {
  answers = [serve()];
  const slow = createDownloads({ access: { bandwidth: CONTENT.length }, stallMs: STALL_MS });
  const began = performance.now();
  const both = await Promise.all(
    ['a', 'b'].map(async (name) => collectBytes((await slow.open(`${base}/${name}`, { signal })).bytes())),
  );
  assert.ok(both.every((bytes) => bytes.equals(CONTENT)));
  // Two seconds' worth, less the credit of an idle line and the last piece.
  assert.ok(performance.now() - began > 1000);
  slow.close();
});
