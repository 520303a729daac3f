import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import type { ErrorCode } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import { proveConditionalWrites } from '@presync/store/probe';
import {
  type Answer,
  type Call,
  callsOf,
  ETAG,
  failure,
  HTML,
  KEY,
  openAt,
  refuse,
  respond,
  STALL_MS,
  type StandIn,
  setEnvironment,
  startStandIn,
  WELL,
  XML,
} from './azure-stand-in.ts';

const signal = AbortSignal.timeout(240_000);

let server: StandIn;
let store: ObjectStore;
const calls = callsOf(() => store, signal);

before(async () => {
  server = await startStandIn();
});

after(() => server.stop());

beforeEach(async () => {
  await store?.close();
  setEnvironment({ AZURE_STORAGE_KEY: KEY });
  Object.assign(server, { answers: [], requests: [], connections: 0 });
  store = await openAt(`${server.base}/testaccount`);
});

/** Call, status, code, and what it means; `again` when it may pass. */
const REFUSALS: [Call, number, string, ErrorCode, 'again'?][] = [
  ['GET', 404, 'BlobNotFound', 'OBJECT_NOT_FOUND'],
  ['GET', 404, 'ContainerNotFound', 'STORE_NOT_FOUND'],
  ['GET', 403, 'AuthorizationPermissionMismatch', 'STORE_FORBIDDEN'],
  ['GET', 403, 'AuthenticationFailed', 'STORE_FORBIDDEN'],
  ['GET', 401, 'NoAuthenticationInformation', 'STORE_FORBIDDEN'],
  ['GET', 409, 'PublicAccessNotPermitted', 'STORE_FORBIDDEN'],
  ['GET', 409, 'BlobArchived', 'STORE_FAILED'],
  ['GET', 400, 'InvalidHeaderValue', 'STORE_FAILED'],
  ['GET', 400, 'InvalidUri', 'STORE_FAILED'],
  ['GET', 412, 'ConditionNotMet', 'STORE_FAILED', 'again'],
  ['GET', 500, 'InternalError', 'STORE_FAILED', 'again'],
  ['GET', 500, 'OperationTimedOut', 'STORE_FAILED', 'again'],
  ['GET', 503, 'ServerBusy', 'STORE_FAILED', 'again'],
  ['GET', 429, 'TooManyRequests', 'STORE_FAILED', 'again'],
  ['HEAD', 404, 'ContainerNotFound', 'STORE_NOT_FOUND'],
  ['HEAD', 403, 'AuthorizationFailure', 'STORE_FORBIDDEN'],
  ['HEAD', 503, 'ServerBusy', 'STORE_FAILED', 'again'],
  ['CREATE', 409, 'BlobAlreadyExists', 'CONDITION_FAILED'],
  ['CREATE', 412, 'ConditionNotMet', 'CONDITION_FAILED'],
  ['CREATE', 403, 'UnauthorizedBlobOverwrite', 'CONDITION_FAILED'],
  ['CREATE', 412, 'LeaseIdMissing', 'STORE_FAILED', 'again'],
  ['CREATE', 409, 'LeaseAlreadyPresent', 'STORE_FAILED', 'again'],
  ['CREATE', 409, 'ContainerBeingDeleted', 'STORE_NOT_FOUND'],
  ['CREATE', 409, 'AccountBeingCreated', 'STORE_FAILED', 'again'],
  ['CREATE', 501, 'NotImplemented', 'STORE_NO_CONDITIONAL_WRITES'],
  ['REPLACE', 412, 'ConditionNotMet', 'CONDITION_FAILED'],
  ['REPLACE', 404, 'BlobNotFound', 'CONDITION_FAILED'],
  ['REPLACE', 404, 'ContainerNotFound', 'STORE_NOT_FOUND'],
  ['REPLACE', 412, 'LeaseIdMissing', 'STORE_FAILED', 'again'],
  ['REPLACE', 409, 'BlobImmutableDueToPolicy', 'STORE_FAILED'],
  ['REPLACE', 409, 'InvalidBlobType', 'STORE_FAILED'],
  ['PUT', 403, 'UnauthorizedBlobOverwrite', 'STORE_FORBIDDEN'],
  ['PUT', 400, 'Md5Mismatch', 'STORE_FAILED', 'again'],
  ['PUT', 405, 'UnsupportedHttpVerb', 'STORE_READ_ONLY'],
  ['DELETE', 403, 'AuthorizationPermissionMismatch', 'STORE_FORBIDDEN'],
  ['DELETE', 404, 'ContainerNotFound', 'STORE_NOT_FOUND'],
  ['DELETE', 409, 'SnapshotsPresent', 'STORE_FAILED'],
  ['LIST', 404, 'ContainerNotFound', 'STORE_NOT_FOUND'],
  ['LIST', 403, 'AuthorizationFailure', 'STORE_FORBIDDEN'],
];

for (const [call, status, name, code, again] of REFUSALS) {
  test(`${call} ${status} ${name} is ${code}${again === undefined ? '' : ', retryable'}`, () =>
    meets(call, refuse(status, name), code, again));
}

/** What does not come from Azure, or does not say what it is. */
const STRANGE: [Call, Answer, string, ErrorCode, 'again'?][] = [
  ['GET', respond(404, HTML, '<html>\nnot here</html>'), '404 in HTML', 'STORE_FAILED'],
  ['GET', respond(403, HTML, '<html>no</html>'), '403 in HTML', 'STORE_FORBIDDEN'],
  ['GET', respond(503, HTML, '<html>busy<br></html>'), '503 in HTML', 'STORE_FAILED', 'again'],
  ['GET', (request) => request.socket.end('no HTTP\r\n\r\n'), 'garbage', 'STORE_FAILED', 'again'],
  ['HEAD', respond(404, {}), '404 without a code', 'STORE_FAILED'],
  ['HEAD', respond(403, {}), '403 without a code', 'STORE_FORBIDDEN'],
  ['CREATE', respond(412, {}), '412 without a code', 'CONDITION_FAILED'],
  ['CREATE', respond(409, {}), '409 without a code', 'STORE_FAILED', 'again'],
  ['LIST', respond(200, HTML, '<html>welcome</html>'), '200 in HTML', 'STORE_FAILED', 'again'],
  ['LIST', respond(200, XML, '<Enume'), '200 in broken XML', 'STORE_FAILED', 'again'],
];

for (const [call, answer, what, code, again] of STRANGE) {
  test(`${call} ${what} is ${code}${again === undefined ? '' : ', retryable'}`, () =>
    meets(call, answer, code, again));
}

async function meets(call: Call, answer: Answer, code: ErrorCode, again?: 'again'): Promise<void> {
  server.answers = [answer];
  const error = await failure(calls[call]());
  assert.deepEqual([error.code, error.retryable], [code, again !== undefined], error.message);
  assert.equal(server.requests.length, 1, 'the adapter made more than one attempt');
  assert.ok(!error.message.includes('\n'), error.message);
  assert.ok(error.message.includes('azure://testaccount/box/p'), error.message);
}

test('a message names store, action, key, and what the store said', async () => {
  server.answers = [refuse(409, 'SnapshotsPresent')];
  const { message } = await failure(calls.DELETE());
  assert.equal(
    message,
    `azure://testaccount/box/p?endpoint=${server.base}/testaccount refused DELETE key: 409 SnapshotsPresent As told. (request request-77)`,
  );
});

test('a put is not believed to have succeeded by the answer to another one', async () => {
  let ids: (string | string[] | undefined)[] = [];
  const echo =
    (change: (id: string) => string): Answer =>
    (request, response) => {
      const id = String(request.headers['x-ms-client-request-id']);
      ids = [...ids, id];
      respond(201, { etag: ETAG, 'x-ms-client-request-id': change(id) })(request, response);
    };
  server.answers = [echo((id) => id)];
  await calls.PUT();
  server.answers = [echo((id) => `${id.slice(0, -1)}${id.endsWith('0') ? 1 : 0}`)];
  for (const call of [calls.PUT, calls.CREATE, calls.REPLACE]) {
    const error = await failure(call());
    assert.deepEqual([error.code, error.retryable], ['STORE_FAILED', true], error.message);
    assert.match(error.message, /the answer is that to another request/);
  }
  // The sound one is kept for the next call.
  assert.equal(server.connections, 3, 'a connection that mixes up answers was used again');
  assert.equal(new Set(ids).size, 4);
  // A cache may stand before what is read.
  server.answers = [respond(200, { etag: ETAG, 'x-ms-client-request-id': 'of who asked first' }, 'body')];
  await calls.GET();
});

test('Retry-After is handed on', async () => {
  server.answers = [refuse(503, 'ServerBusy', { 'retry-after': '7' })];
  const error = await failure(calls.PUT());
  assert.deepEqual([error.code, error.retryable, error.retryAfterMs], ['STORE_FAILED', true, 7000]);
});

test('a body that ends early is a retryable failure, and is not asked for again', async () => {
  server.answers = [
    (_, response) => {
      response.writeHead(200, { 'content-length': 100, etag: ETAG });
      response.write(Buffer.alloc(50));
      setTimeout(() => response.destroy(), 20);
    },
  ];
  const error = await failure(calls.GET());
  assert.deepEqual([error.code, error.retryable], ['STORE_FAILED', true]);
  assert.match(error.message, /50 of the announced 100 bytes/);
  assert.equal(server.requests.length, 1);
});

test('a body that stalls is found out', async () => {
  server.answers = [
    (_, response) => {
      response.writeHead(200, { 'content-length': 100, etag: ETAG });
      response.write(Buffer.alloc(50));
    },
  ];
  const error = await failure(calls.GET());
  assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', true], error.message);
  assert.match(error.message, /no byte moved for 0\.5 s/);
});

test('a body that comes slowly, and comes, is not a stall', async () => {
  server.answers = [
    (_, response) => {
      response.writeHead(200, { 'content-length': 8, etag: ETAG });
      let sent = 0;
      const timer = setInterval(() => {
        response.write('x');
        if (++sent === 8) clearInterval(timer);
      }, STALL_MS / 4);
    },
  ];
  assert.equal((await store.read('key', { maxBytes: 8, signal })).bytes.length, 8);
});

const SILENCE: Answer = () => undefined;

test('an answer that never begins, or whose text stalls, is found out', async () => {
  const half: Answer = (_, response) => {
    response.writeHead(200, { 'content-length': 100, 'content-type': 'application/xml' });
    response.write('<?xml');
  };
  for (const [call, answer] of [
    ...[calls.GET, calls.PUT, calls.HEAD, calls.DELETE, calls.LIST].map((call) => [call, SILENCE] as const),
    [calls.LIST, half] as const,
  ]) {
    server.answers = [answer];
    const error = await failure(call());
    assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', true], error.message);
  }
});

test('an upload that nobody takes in is found out', async () => {
  const taken: Socket[] = [];
  const deaf = createServer({ pauseOnConnect: true }, (socket) => taken.push(socket));
  await new Promise<void>((resolve) => deaf.listen(0, '127.0.0.1', resolve));
  const address = deaf.address();
  assert.ok(address !== null && typeof address === 'object');
  store = await openAt(`http://127.0.0.1:${address.port}/testaccount`);
  const error = await failure(store.put('key', Buffer.alloc(32 * 1024 ** 2), { signal }));
  assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', true], error.message);
  for (const socket of taken) socket.destroy();
  await new Promise((resolve) => deaf.close(resolve));
});

test('a connection that is reset or refused is retryable', async () => {
  server.answers = [(request) => request.socket.resetAndDestroy()];
  for (const call of [calls.GET, calls.PUT]) {
    const error = await failure(call());
    assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', true], error.message);
  }
  for (const nowhere of ['http://127.0.0.1:1/testaccount', 'http://no-such-host.invalid']) {
    const away = await openAt(nowhere);
    const error = await failure(away.stat('key', { signal }));
    assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', true], nowhere);
    await away.close();
  }
});

test('answers that are not what was asked are refused', async () => {
  const body = Buffer.alloc(10, 'x');
  const range = { offset: 10, length: 10 };
  const ranged = (): Promise<unknown> => store.read('key', { maxBytes: 1000, range, signal });
  const wrong: [() => Promise<unknown>, Answer][] = [
    [ranged, respond(206, { etag: ETAG, 'content-range': 'bytes 0-9/100' }, body)],
    [ranged, respond(206, { etag: ETAG, 'content-range': 'bytes 10-18/100' }, body.subarray(1))],
    [ranged, respond(206, { etag: ETAG, 'content-range': 'bytes 10-19/100' }, body.subarray(1))],
    [ranged, respond(206, { etag: ETAG }, body)],
    [ranged, respond(200, { etag: ETAG }, Buffer.alloc(100))],
    [calls.GET, respond(206, { etag: ETAG, 'content-range': 'bytes 0-9/100' }, body)],
    [calls.GET, respond(200, {}, body)],
    [calls.PUT, respond(201, {})],
    [calls.HEAD, respond(200, {})],
    [
      calls.GET,
      (_, response) => {
        response.writeHead(200, { etag: ETAG });
        response.end(body);
      },
    ],
  ];
  for (const [index, [call, answer]] of wrong.entries()) {
    server.answers = [answer];
    const error = await failure(call());
    assert.deepEqual([error.code, error.retryable], ['STORE_FAILED', true], `${index}: ${error.message}`);
  }
  server.answers = [respond(206, { etag: ETAG, 'content-range': 'bytes 10-19/100' }, body)];
  assert.deepEqual(await ranged(), { bytes: body, size: 100, version: ETAG });
});

test('an object that is too large is not received', async () => {
  let closed = false;
  server.answers = [
    (_, response) => {
      response.writeHead(200, { 'content-length': 1_000_000_000, etag: ETAG });
      response.write(Buffer.alloc(1000));
      response.on('close', () => {
        closed = true;
      });
    },
  ];
  assert.equal((await failure(calls.GET())).code, 'OBJECT_TOO_LARGE');
  for (const until = Date.now() + 20_000; !closed && Date.now() < until; )
    await new Promise((resolve) => setTimeout(resolve, 10));
  assert.ok(closed, 'the connection was kept');
});

test('a folder of a hierarchical namespace is no object', async () => {
  server.answers = [respond(200, { etag: ETAG, 'x-ms-meta-hdi_isfolder': 'true' })];
  assert.equal(await calls.HEAD(), undefined);
  assert.equal((await failure(calls.GET())).code, 'OBJECT_NOT_FOUND');
});

test('an abort ends a call whose answer or body is waited for', async () => {
  const reason = new Error('enough');
  for (const answer of [
    () => undefined,
    (_: IncomingMessage, response: ServerResponse) => {
      response.writeHead(200, { 'content-length': 100, etag: ETAG });
      response.write('x');
    },
  ]) {
    server.answers = [answer];
    const controller = new AbortController();
    setTimeout(() => controller.abort(reason), 100);
    const error = await failure(store.read('key', { maxBytes: 1000, signal: controller.signal }));
    assert.equal(error.code, 'ABORTED');
    assert.equal(error.cause, reason);
  }
});

test('connections are used again', async () => {
  server.answers = [WELL];
  for (let round = 0; round < 10; round++) {
    await calls.GET();
    await calls.PUT();
    await store.put('key', Buffer.alloc(3 * 1024 ** 2), { signal });
  }
  assert.equal(server.connections, 1);
});

test('no more than maxConnections are open', async () => {
  server.answers = [(_, response) => setTimeout(() => respond(200, { etag: ETAG }, 'body')(_, response), 20)];
  await Promise.all(Array.from({ length: 40 }, calls.GET));
  assert.ok(server.connections <= 8, `${server.connections} connections`);
});

test('a proxy of the environment is used', async () => {
  process.env.HTTP_PROXY = server.base;
  store = await openAt('http://testaccount.blob.example.com');
  server.answers = [respond(200, { etag: ETAG }, 'body')];
  await calls.GET();
  assert.deepEqual(server.requests, ['GET http://testaccount.blob.example.com/box/p/key']);
  process.env.NO_PROXY = '127.0.0.1';
  store = await openAt(`${server.base}/testaccount`);
  await calls.GET();
  assert.equal(server.requests[1], 'GET /testaccount/box/p/key');
});

function page(keys: string[], marker = ''): Answer {
  const entries = keys
    .map((key) => {
      const folder = key.endsWith('/');
      const meta = folder ? '<Metadata><hdi_isfolder>true</hdi_isfolder></Metadata>' : '<Metadata />';
      const name = folder ? key.slice(0, -1) : key;
      return `<Blob><Name>p/${name}</Name><Properties><Last-Modified>Mon, 01 Jan 2024 00:00:00 GMT</Last-Modified><Etag>${ETAG.slice(1, -1)}</Etag><Content-Length>1</Content-Length></Properties>${meta}</Blob>`;
    })
    .join('');
  return respond(
    200,
    { 'content-type': 'application/xml' },
    `<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="${server.base}/" ContainerName="box"><Prefix>p/</Prefix><Blobs>${entries}</Blobs><NextMarker>${marker}</NextMarker></EnumerationResults>`,
  );
}

test('a listing goes on over its pages, and is refused when it repeats itself or is out of order', async () => {
  const all = async (): Promise<string[]> => {
    const keys: string[] = [];
    for await (const { key, version } of store.list('', { signal: AbortSignal.timeout(10_000) })) {
      keys.push(key);
      assert.equal(version, ETAG);
    }
    return keys;
  };
  server.answers = [page(['a', 'b', 'folder/', 'not a key'], 'next!2'), page([], 'next!3'), page(['c'])];
  assert.deepEqual(await all(), ['a', 'b', 'c']);
  assert.match(server.requests[1] ?? '', /marker=next(!|%21)2/);
  assert.match(server.requests[2] ?? '', /marker=next(!|%21)3/);
  server.answers = [page(['b', 'a'])];
  assert.equal((await failure(all())).code, 'STORE_FAILED');
  server.answers = [page([], 'next')];
  server.requests = [];
  assert.equal((await failure(all())).code, 'STORE_FAILED');
  assert.equal(server.requests.length, 2);
  server.answers = [page(['a/', 'a/b', 'a-b'])];
  const error = await failure(all());
  assert.deepEqual([error.code, error.retryable], ['STORE_FAILED', false]);
  assert.match(error.hint ?? '', /hierarchical namespace/);
});

test('a server that ignores If-None-Match is not published to', async () => {
  server.answers = [
    (request, response) =>
      respond({ DELETE: 202, PUT: 201 }[request.method ?? ''] ?? 200, { etag: ETAG })(request, response),
  ];
  assert.equal(
    (await failure(proveConditionalWrites(store, { signal }))).code,
    'STORE_NO_CONDITIONAL_WRITES',
  );
});

test('a block that is refused ends the put, and the condition is on the last call only', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'presync-azure-'));
  const path = join(dir, 'body');
  const size = 20 * 1024 ** 2;
  await writeFile(path, Buffer.alloc(size, 7));
  const file = (key: string): Promise<unknown> =>
    store.put(key, { path, size }, { condition: { ifAbsent: true }, signal });
  try {
    for (const wrong of [size + 1, size - 1, 1]) {
      assert.equal((await failure(store.put('key', { path, size: wrong }, { signal }))).code, 'IO_FAILED');
    }
    assert.equal(server.requests.length, 0, 'bytes of a file that is not what it says were sent');
    server.answers = [refuse(503, 'ServerBusy')];
    // A key of its own: its other blocks may still be on their way when the put has ended.
    assert.equal((await failure(file('refused'))).code, 'STORE_FAILED');
    assert.ok(server.requests.every((request) => request.includes('comp=block&')));
    const headers: unknown[][] = [];
    const taken: Answer = (request, response) => {
      const { pathname, searchParams } = new URL(request.url ?? '', server.base);
      const kind = searchParams.get('comp') ?? '';
      if (pathname.endsWith('/key'))
        headers.push([kind, request.headers['if-none-match'], request.headers['content-md5']]);
      respond(201, kind === 'blocklist' ? { etag: ETAG } : {})(request, response);
    };
    server.answers = [taken];
    assert.deepEqual(await file('key'), { version: ETAG });
    assert.deepEqual(
      headers.map(([kind, condition, md5]) => [kind, condition, kind === 'block' && md5 !== undefined]),
      [...Array.from({ length: 3 }, () => ['block', undefined, true]), ['blocklist', '*', false]],
    );
    const committed: [Answer, string, boolean][] = [
      [refuse(409, 'BlobAlreadyExists'), 'CONDITION_FAILED', false],
      [refuse(400, 'InvalidBlockList'), 'STORE_FAILED', true],
      [refuse(412, 'LeaseIdMissing'), 'STORE_FAILED', true],
    ];
    for (const [answer, code, retryable] of committed) {
      server.answers = [
        (request, response) => (/comp=blocklist/.test(request.url ?? '') ? answer : taken)(request, response),
      ];
      const error = await failure(file('key'));
      assert.deepEqual([error.code, error.retryable], [code, retryable]);
    }
  } finally {
    await rm(dir, { recursive: true });
  }
});
