import assert from 'node:assert/strict';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { after, before, beforeEach, test } from 'node:test';
import { isPresyncError, type PresyncError } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import { proveConditionalWrites } from '@presync/store/probe';
import { createS3Store } from '@presync/store/s3';

// The real server does not show these faults on demand, so one written for the purpose does.

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

const signal = AbortSignal.timeout(240_000);
const STALL_MS = 500;
const ETAG = '"0123456789abcdef0123456789abcdef"';

let server: Server;
let endpoint = '';
let store: ObjectStore;
let answers: Answer[] = [];
let requests: string[] = [];
let connections = 0;

before(async () => {
  Object.assign(process.env, {
    AWS_ACCESS_KEY_ID: 'test',
    AWS_SECRET_ACCESS_KEY: 'test',
    AWS_EC2_METADATA_DISABLED: 'true',
  });
  server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url}`);
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    // Most faults come after the request was taken in.
    request.resume().on('end', () => answer?.(request, response));
  });
  server.on('connection', () => connections++);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  endpoint = `http://127.0.0.1:${address.port}`;
});

after(async () => {
  await store.close();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

beforeEach(async () => {
  answers = [];
  requests = [];
  connections = 0;
  store = await open();
});

function open(): Promise<ObjectStore> {
  return createS3Store({
    bucket: 'bucket',
    prefix: 'p',
    endpoint,
    region: 'us-east-1',
    pathStyle: true,
    stallMs: STALL_MS,
    maxConnections: 8,
  });
}

function respond(
  status: number,
  headers: Record<string, string | number>,
  body: string | Buffer = '',
): Answer {
  return (_, response) => {
    response.writeHead(status, { 'content-length': Buffer.byteLength(body), ...headers });
    response.end(body);
  };
}

function refuse(status: number, code: string, headers: Record<string, string> = {}): Answer {
  const body = `<?xml version="1.0"?><Error><Code>${code}</Code><Message>as told</Message></Error>`;
  return respond(status, { 'content-type': 'application/xml', ...headers }, body);
}

async function failure(call: Promise<unknown>): Promise<PresyncError> {
  try {
    await call;
  } catch (error) {
    assert.ok(isPresyncError(error), String(error));
    assert.ok(error.hint !== undefined || error.code === 'ABORTED', `${error.code} has no hint`);
    return error;
  }
  return assert.fail('the call succeeded');
}

const get = (): Promise<unknown> => store.read('key', { maxBytes: 1000, signal });
const put = (): Promise<unknown> => store.put('key', Buffer.from('body'), { signal });
const create = (): Promise<unknown> =>
  store.put('key', Buffer.from('body'), { condition: { ifAbsent: true }, signal });
const replace = (): Promise<unknown> =>
  store.put('key', Buffer.from('body'), { condition: { ifVersion: ETAG }, signal });
const head = (): Promise<unknown> => store.stat('key', { signal });
const remove = (): Promise<unknown> => store.remove('key', { signal });
const list = (): Promise<unknown> => store.list('', { signal })[Symbol.asyncIterator]().next();

const REFUSALS: [string, () => Promise<unknown>, Answer, string, boolean][] = [
  ['GET 404 NoSuchKey', get, refuse(404, 'NoSuchKey'), 'OBJECT_NOT_FOUND', false],
  ['GET 404 NoSuchBucket', get, refuse(404, 'NoSuchBucket'), 'STORE_NOT_FOUND', false],
  [
    'GET 404 of something that is not S3',
    get,
    respond(404, {}, '<html>not here</html>'),
    'STORE_FAILED',
    false,
  ],
  ['GET 403 AccessDenied', get, refuse(403, 'AccessDenied'), 'STORE_FORBIDDEN', false],
  ['GET 403 InvalidAccessKeyId', get, refuse(403, 'InvalidAccessKeyId'), 'STORE_FORBIDDEN', false],
  ['GET 403 SignatureDoesNotMatch', get, refuse(403, 'SignatureDoesNotMatch'), 'STORE_FORBIDDEN', false],
  ['GET 403 RequestTimeTooSkewed', get, refuse(403, 'RequestTimeTooSkewed'), 'STORE_FAILED', true],
  ['GET 403 InvalidObjectState', get, refuse(403, 'InvalidObjectState'), 'STORE_FAILED', false],
  ['GET 400 ExpiredToken', get, refuse(400, 'ExpiredToken'), 'STORE_FAILED', true],
  ['GET 400 of another kind', get, refuse(400, 'InvalidRequest'), 'STORE_FAILED', false],
  ['GET 400 wrong region', get, refuse(400, 'AuthorizationHeaderMalformed'), 'STORE_FAILED', false],
  ['GET 500', get, refuse(500, 'InternalError'), 'STORE_FAILED', true],
  [
    'GET 503 in HTML',
    get,
    respond(503, { 'content-type': 'text/html' }, '<html><body>busy<br></body>'),
    'STORE_FAILED',
    true,
  ],
  ['GET 429', get, refuse(429, 'TooManyRequests'), 'STORE_FAILED', true],
  ['GET 412, meant for another', get, refuse(412, 'PreconditionFailed'), 'STORE_FAILED', true],
  ['HEAD 403', head, respond(403, {}), 'STORE_FORBIDDEN', false],
  ['HEAD 400', head, respond(400, {}), 'STORE_FAILED', true],
  ['HEAD 503', head, respond(503, {}), 'STORE_FAILED', true],
  ['PUT 412, create-only', create, refuse(412, 'PreconditionFailed'), 'CONDITION_FAILED', false],
  ['PUT 412, replacing', replace, refuse(412, 'PreconditionFailed'), 'CONDITION_FAILED', false],
  ['PUT 404, replacing', replace, refuse(404, 'NoSuchKey'), 'CONDITION_FAILED', false],
  ['PUT 404 NoSuchBucket, replacing', replace, refuse(404, 'NoSuchBucket'), 'STORE_NOT_FOUND', false],
  ['PUT 409, create-only', create, refuse(409, 'ConditionalRequestConflict'), 'STORE_FAILED', true],
  ['PUT 501, create-only', create, refuse(501, 'NotImplemented'), 'STORE_NO_CONDITIONAL_WRITES', false],
  ['PUT 400 RequestTimeout', put, refuse(400, 'RequestTimeout'), 'STORE_FAILED', true],
  ['PUT 405', put, refuse(405, 'MethodNotAllowed'), 'STORE_READ_ONLY', false],
  ['DELETE 403', remove, refuse(403, 'AccessDenied'), 'STORE_FORBIDDEN', false],
  ['LIST 404 NoSuchBucket', list, refuse(404, 'NoSuchBucket'), 'STORE_NOT_FOUND', false],
];

for (const [name, call, answer, code, retryable] of REFUSALS) {
  test(`${name} is ${code}${retryable ? ', retryable' : ''}`, async () => {
    answers = [answer];
    const error = await failure(call());
    assert.deepEqual([error.code, error.retryable], [code, retryable], error.message);
    // A read that is forbidden is looked into by a listing.
    const attempts = name.startsWith('LIST')
      ? requests
      : requests.filter((line) => !line.includes('list-type=2'));
    assert.equal(attempts.length, 1, 'the adapter made more than one attempt');
  });
}

test('Retry-After is handed on', async () => {
  answers = [refuse(503, 'SlowDown', { 'retry-after': '7' })];
  const error = await failure(put());
  assert.deepEqual([error.code, error.retryable, error.retryAfterMs], ['STORE_FAILED', true, 7000]);
});

test('the 404 of a HEAD is looked into once', async () => {
  answers = [respond(404, {}), refuse(404, 'NoSuchBucket')];
  assert.equal((await failure(head())).code, 'STORE_NOT_FOUND');
  answers = [respond(404, {}), refuse(403, 'AccessDenied')];
  assert.equal((await failure(head())).code, 'STORE_FORBIDDEN');
  answers = [respond(404, {}), refuse(404, 'NoSuchKey'), respond(404, {})];
  requests = [];
  assert.equal(await head(), undefined);
  assert.equal(await head(), undefined);
  assert.equal(requests.length, 3);
});

test('a body that ends early is a retryable failure', async () => {
  answers = [
    (_, response) => {
      response.writeHead(200, { 'content-length': 100, etag: ETAG });
      response.write(Buffer.alloc(50));
      setTimeout(() => response.destroy(), 20);
    },
  ];
  const error = await failure(get());
  assert.deepEqual([error.code, error.retryable], ['STORE_FAILED', true]);
  assert.match(error.message, /50 of the announced 100 bytes/);
});

test('an answer whose words broke off, stalled or make no sense is asked for again', async () => {
  const broken = (status: number, end: (response: ServerResponse) => void): Answer => {
    const begun = '<?xml version="1.0"?><Error><Code>NoSuchKey</Co';
    return (_, response) => {
      response.writeHead(status, { 'content-type': 'application/xml', 'content-length': 200 });
      response.write(begun, () => end(response));
    };
  };
  const cut = (response: ServerResponse): unknown => setTimeout(() => response.destroy(), 20);
  for (const [call, answer] of [
    [get, broken(404, cut)],
    [get, broken(403, cut)],
    [create, broken(409, cut)],
    [replace, broken(404, cut)],
    [list, broken(200, cut)],
    [get, broken(404, () => undefined)],
    [get, respond(404, {}, '<?xml version="1.0"?><Error><Code>NoSuchKey</Code>')],
    [
      list,
      respond(200, { 'content-type': 'application/xml' }, '<?xml version="1.0"?><ListBucketResult><IsTr'),
    ],
  ] as const) {
    answers = [answer];
    const error = await failure(call());
    assert.ok(error.retryable, error.message);
    assert.match(error.code, /^STORE_(?:FAILED|UNREACHABLE)$/);
    assert.doesNotMatch(error.message, /\n|Deserialization|hidden field/);
  }
  answers = [broken(412, cut)];
  assert.equal((await failure(create())).code, 'CONDITION_FAILED', 'that status says all');
});

test('a body that stalls is found out', async () => {
  answers = [
    (_, response) => {
      response.writeHead(200, { 'content-length': 100, etag: ETAG });
      response.write(Buffer.alloc(50));
    },
  ];
  const error = await failure(get());
  assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', true]);
});

test('a body that comes slowly, and comes, is not a stall', async () => {
  answers = [
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

test('an answer that never begins is found out', async () => {
  answers = [() => undefined];
  for (const call of [get, put, head, remove, list]) {
    const error = await failure(call());
    assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', true]);
  }
});

test('a connection that is reset or refused is retryable', async () => {
  answers = [(request) => request.socket.resetAndDestroy()];
  for (const call of [get, put]) {
    const error = await failure(call());
    assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', true]);
  }
  for (const nowhere of ['http://127.0.0.1:1', 'http://no-such-host.invalid']) {
    const away = await createS3Store({
      bucket: 'b',
      prefix: '',
      endpoint: nowhere,
      pathStyle: true,
      stallMs: 5000,
    });
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
    [get, respond(206, { etag: ETAG, 'content-range': 'bytes 0-9/100' }, body)],
    [get, respond(200, {}, body)],
    [put, respond(200, {})],
    [
      get,
      (_, response) => {
        response.writeHead(200, { etag: ETAG });
        response.end(body);
      },
    ],
  ];
  for (const [call, answer] of wrong) {
    answers = [answer];
    assert.equal((await failure(call())).code, 'STORE_FAILED');
  }
  answers = [respond(206, { etag: ETAG, 'content-range': 'bytes 10-19/100' }, body)];
  assert.deepEqual(await ranged(), { bytes: body, size: 100, version: ETAG });
});

test('an object that is too large is not received', async () => {
  let closed = false;
  answers = [
    (_, response) => {
      response.writeHead(200, { 'content-length': 1_000_000_000, etag: ETAG });
      response.write(Buffer.alloc(1000));
      response.on('close', () => {
        closed = true;
      });
    },
  ];
  assert.equal((await failure(get())).code, 'OBJECT_TOO_LARGE');
  for (const until = Date.now() + 20_000; !closed && Date.now() < until; )
    await new Promise((resolve) => setTimeout(resolve, 10));
  assert.ok(closed, 'the connection was kept');
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
    answers = [answer];
    const controller = new AbortController();
    setTimeout(() => controller.abort(reason), 100);
    const error = await failure(store.read('key', { maxBytes: 1000, signal: controller.signal }));
    assert.equal(error.code, 'ABORTED');
    assert.equal(error.cause, reason);
  }
});

test('connections are used again', async () => {
  answers = [respond(200, { etag: ETAG }, 'body')];
  for (let round = 0; round < 10; round++) {
    await get();
    await put();
    await store.put('key', Buffer.alloc(3 * 1024 ** 2), { signal });
  }
  assert.equal(connections, 1);
});

test('no more than maxConnections are open', async () => {
  answers = [(_, response) => setTimeout(() => respond(200, { etag: ETAG }, 'body')(_, response), 20)];
  await Promise.all(Array.from({ length: 40 }, get));
  assert.ok(connections <= 8, `${connections} connections`);
});

test('a listing that repeats itself or is out of order is refused', async () => {
  const page = (keys: string[], token?: string): Answer => {
    const entries = keys
      .map((key) => `<Contents><Key>p/${key}</Key><Size>1</Size><ETag>${ETAG}</ETag></Contents>`)
      .join('');
    const more = token === undefined ? '' : `<NextContinuationToken>${token}</NextContinuationToken>`;
    return respond(
      200,
      { 'content-type': 'application/xml' },
      `<?xml version="1.0"?><ListBucketResult><IsTruncated>${token !== undefined}</IsTruncated>${more}${entries}</ListBucketResult>`,
    );
  };
  const all = async (): Promise<string[]> => {
    const keys: string[] = [];
    for await (const { key } of store.list('', { signal })) keys.push(key);
    return keys;
  };
  answers = [page(['a', 'b', 'folder/', 'not a key'], 'next'), page(['c'])];
  assert.deepEqual(await all(), ['a', 'b', 'c']);
  assert.match(requests[1] ?? '', /continuation-token=next/);
  answers = [page(['b', 'a'])];
  assert.equal((await failure(all())).code, 'STORE_FAILED');
  answers = [page(['a'], 'next'), page(['b'], 'next')];
  assert.equal((await failure(all())).code, 'STORE_FAILED');
  for (const token of ['next', '']) {
    answers = [page(['a'], 'next'), page([], token), page([], token), page(['b'])];
    assert.match((await failure(all())).message, /does not say where the next begins/);
  }
});

test('a server that ignores If-None-Match is not published to', async () => {
  answers = [
    (request, response) =>
      respond(request.method === 'DELETE' ? 204 : 200, { etag: ETAG })(request, response),
  ];
  assert.equal(
    (await failure(proveConditionalWrites(store, { signal }))).code,
    'STORE_NO_CONDITIONAL_WRITES',
  );
});

test('without credentials the store is forbidden', async () => {
  const kept = { ...process.env };
  for (const name of Object.keys(process.env).filter((name) => name.startsWith('AWS_')))
    delete process.env[name];
  Object.assign(process.env, {
    AWS_EC2_METADATA_DISABLED: 'true',
    AWS_CONFIG_FILE: '/none',
    AWS_SHARED_CREDENTIALS_FILE: '/none',
  });
  try {
    store = await open();
    assert.equal((await failure(get())).code, 'STORE_FORBIDDEN');
  } finally {
    delete process.env.AWS_CONFIG_FILE;
    delete process.env.AWS_SHARED_CREDENTIALS_FILE;
    Object.assign(process.env, kept);
  }
});
