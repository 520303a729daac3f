import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { createGcsStore } from '@presync/store/gcs';
import type { ObjectStore } from '@presync/store/object-store';
import { proveConditionalWrites } from '@presync/store/probe';
import {
  type Answer,
  fails,
  failure,
  GENERATION,
  json,
  refuse,
  respond,
  type StandIn,
  startStandIn,
  stored,
} from '../../../test/support/gcs-stand-in.ts';

// What the real server does not show on demand: refusals of all kinds, and listings that are none.

const signal = AbortSignal.timeout(120_000);

let server: StandIn;
let store: ObjectStore;

before(async () => {
  delete process.env.STORAGE_EMULATOR_HOST;
  server = await startStandIn();
});

after(() => server.stop());

beforeEach(async () => {
  server.reset();
  store = await open();
});

function open(): Promise<ObjectStore> {
  return createGcsStore({ bucket: 'bucket', prefix: 'p', endpoint: server.endpoint });
}

const get = (): Promise<unknown> => store.read('key', { maxBytes: 1000, signal });
const put = (): Promise<unknown> => store.put('key', Buffer.from('body'), { signal });
const create = (): Promise<unknown> =>
  store.put('key', Buffer.from('body'), { condition: { ifAbsent: true }, signal });
const replace = (ifVersion = GENERATION): Promise<unknown> =>
  store.put('key', Buffer.from('body'), { condition: { ifVersion }, signal });
const stat = (): Promise<unknown> => store.stat('key', { signal });
const remove = (): Promise<unknown> => store.remove('key', { signal });
const list = (): Promise<unknown> => store.list('', { signal })[Symbol.asyncIterator]().next();

const NO_BUCKET = 'The specified bucket does not exist.';
const NO_OBJECT = 'No such object: bucket/p/key';
const MD5 =
  'Provided MD5 hash "3QCu8Pz90+Aiek7XuT0NbQ==" doesn\'t match calculated MD5 hash "iuPXG/eB0vLil6O2Rt2Dqw==".';
const POLICY = "Constraint 'constraints/gcp.restrictNonCmekServices' violated";

const REFUSALS: [string, () => Promise<unknown>, Answer, string, boolean][] = [
  ['GET 404 of the bucket', get, refuse(404, 'notFound', NO_BUCKET), 'STORE_NOT_FOUND', false],
  ['GET 404 of the bucket, as text', get, respond(404, {}, NO_BUCKET), 'STORE_NOT_FOUND', false],
  ['GET 404 in HTML', get, respond(404, {}, '<html>not here</html>'), 'STORE_FAILED', true],
  ['GET 404 of a balancer', get, respond(404, {}, 'default backend - 404'), 'STORE_FAILED', true],
  ['GET 403', get, refuse(403, 'forbidden'), 'STORE_FORBIDDEN', false],
  ['GET 403 in HTML', get, respond(403, {}, '<html>no</html>'), 'STORE_FORBIDDEN', false],
  ['GET 403 for the rate', get, refuse(403, 'userRateLimitExceeded'), 'STORE_FAILED', true],
  ['GET 401 where no credentials are sent', get, refuse(401, 'required'), 'STORE_FORBIDDEN', false],
  ['GET 400', get, refuse(400, 'invalid'), 'STORE_FAILED', false],
  [
    'GET 400 for want of who pays',
    get,
    refuse(400, 'required', 'Bucket is a requester pays bucket but no user project provided.'),
    'STORE_FORBIDDEN',
    false,
  ],
  ['GET 412, meant for another', get, refuse(412, 'conditionNotMet'), 'STORE_FAILED', true],
  ['GET 408', get, refuse(408, 'requestTimeout'), 'STORE_FAILED', true],
  ['GET 429', get, refuse(429, 'rateLimitExceeded'), 'STORE_FAILED', true],
  ['GET 500', get, refuse(500, 'internalError'), 'STORE_FAILED', true],
  ['GET 503 in HTML', get, respond(503, {}, '<html>busy</html>'), 'STORE_FAILED', true],
  ['GET 302', get, respond(302, { location: 'http://127.0.0.1:1/' }), 'STORE_FAILED', false],
  ['stat 403', stat, refuse(403, 'forbidden'), 'STORE_FORBIDDEN', false],
  ['stat 400', stat, refuse(400, 'invalid'), 'STORE_FAILED', false],
  ['stat 503', stat, refuse(503, 'backendError'), 'STORE_FAILED', true],
  ['PUT 412, create-only', create, refuse(412, 'conditionNotMet'), 'CONDITION_FAILED', false],
  ['PUT 412, replacing', replace, refuse(412, 'conditionNotMet'), 'CONDITION_FAILED', false],
  [
    'PUT 412 of a policy, create-only',
    create,
    refuse(412, 'conditionNotMet', POLICY),
    'STORE_FORBIDDEN',
    false,
  ],
  ['PUT 412 without a condition', put, refuse(412, 'conditionNotMet', POLICY), 'STORE_FAILED', false],
  ['PUT 409, create-only', create, refuse(409, 'conflict'), 'STORE_FAILED', true],
  ['PUT 404, create-only', create, refuse(404, 'notFound', 'Not Found'), 'STORE_NOT_FOUND', false],
  ['PUT 404 of the bucket, replacing', replace, refuse(404, 'notFound', NO_BUCKET), 'STORE_NOT_FOUND', false],
  [
    'PUT 404 of the object, replacing',
    replace,
    refuse(404, 'notFound', NO_OBJECT),
    'CONDITION_FAILED',
    false,
  ],
  ['PUT 501, create-only', create, refuse(501, 'notImplemented'), 'STORE_NO_CONDITIONAL_WRITES', false],
  ['PUT 400 for the digest', put, refuse(400, 'invalid', MD5), 'STORE_FAILED', true],
  ['PUT 403 for a retention policy', put, refuse(403, 'retentionPolicyNotMet'), 'STORE_FORBIDDEN', false],
  ['PUT 405', put, respond(405, {}), 'STORE_READ_ONLY', false],
  ['DELETE 403', remove, refuse(403, 'forbidden'), 'STORE_FORBIDDEN', false],
  ['LIST 404', list, refuse(404, 'notFound', 'Not Found'), 'STORE_NOT_FOUND', false],
  ['LIST 403', list, refuse(403, 'forbidden'), 'STORE_FORBIDDEN', false],
];

for (const [name, call, answer, code, retryable] of REFUSALS) {
  test(`${name} is ${code}${retryable ? ', retryable' : ''}`, async () => {
    server.answers = [answer];
    const error = await fails(call(), code, retryable);
    assert.equal(server.requests.length, 1, 'the adapter made more than one attempt');
    assert.match(error.message, /gs:\/\/bucket\/p\?endpoint=|key/);
  });
}

test('Retry-After is handed on', async () => {
  for (const status of [429, 503]) {
    server.answers = [refuse(status, 'rateLimitExceeded', 'slow', { 'retry-after': '7' })];
    assert.equal((await fails(put(), 'STORE_FAILED', true)).retryAfterMs, 7000);
  }
});

test('the first 404 is looked into, since that of a missing bucket may be the same', async () => {
  for (const call of [get, stat, remove]) {
    for (const [gone, bucket, code] of [
      [refuse(404, 'notFound', NO_OBJECT), refuse(404, 'notFound', NO_BUCKET), 'STORE_NOT_FOUND'],
      [respond(404, {}, 'Not Found\n'), refuse(404, 'notFound', 'Not Found'), 'STORE_NOT_FOUND'],
      [refuse(404, 'notFound', NO_OBJECT), refuse(503, 'backendError'), 'STORE_FAILED'],
    ] as const) {
      store = await open();
      server.answers = [gone, bucket];
      assert.equal((await failure(call())).code, code);
      assert.equal(server.requests.pop()?.line, 'GET /storage/v1/b/bucket?fields=name');
    }
  }
});

test('an absence is one when the bucket is there, or may not be asked for', async () => {
  for (const bucket of [json({ name: 'bucket' }), refuse(403, 'forbidden'), refuse(401, 'required')]) {
    store = await open();
    server.requests = [];
    server.answers = [refuse(404, 'notFound', NO_OBJECT), bucket, refuse(404, 'notFound', NO_OBJECT)];
    assert.equal(await stat(), undefined);
    assert.equal(await stat(), undefined);
    await remove();
    assert.equal((await failure(get())).code, 'OBJECT_NOT_FOUND');
    assert.equal(server.requests.length, 5, 'the bucket was asked for more than once');
  }
});

test('after any success or lost condition a 404 is not looked into', async () => {
  for (const [call, first] of [
    [create, refuse(412, 'conditionNotMet')],
    [put, stored(4)],
    [list, json({})],
  ] as const) {
    store = await open();
    server.answers = [first];
    await call().catch(() => undefined);
    server.requests = [];
    server.answers = [refuse(404, 'notFound', NO_OBJECT)];
    assert.equal(await stat(), undefined);
    assert.equal(server.requests.length, 1);
  }
});

test('a version is sent as the generation that it is, and one that is none is lost without asking', async () => {
  server.answers = [stored(4)];
  await replace();
  assert.match(server.requests[0]?.line ?? '', new RegExp(`[?&]ifGenerationMatch=${GENERATION}(&|$)`));
  await put();
  assert.doesNotMatch(server.requests[1]?.line ?? '', /ifGenerationMatch/);
  for (const version of [
    '',
    '0',
    '01',
    '-1',
    '1e3',
    '"etag"',
    '9223372036854775808',
    '12345678901234567890',
    '1 ',
  ]) {
    await fails(replace(version), 'CONDITION_FAILED');
  }
  assert.equal(server.requests.length, 2);
});

test('a listing goes from page to page, and one that repeats itself or is out of order is refused', async () => {
  const page = (keys: string[], nextPageToken?: string): Answer =>
    json({
      items: keys.map((key) => ({ name: `p/${key}`, size: '1', generation: GENERATION })),
      ...(nextPageToken === undefined ? {} : { nextPageToken }),
    });
  const all = async (): Promise<string[]> => {
    const keys: string[] = [];
    for await (const { key, size, version } of store.list('', { signal })) {
      assert.deepEqual([size, version], [1, GENERATION]);
      keys.push(key);
    }
    return keys;
  };
  server.answers = [
    page(['a', 'b', 'folder/', 'not a key'], 'next+/='),
    json({ nextPageToken: 'more' }),
    page(['c']),
  ];
  assert.deepEqual(await all(), ['a', 'b', 'c']);
  const queries = server.requests.map(
    ({ line }) => new URL(line.replace('GET ', ''), server.endpoint).searchParams,
  );
  assert.deepEqual(
    queries.map((query) => query.get('pageToken')),
    [null, 'next+/=', 'more'],
  );
  assert.deepEqual(
    queries.map((query) => query.get('prefix')),
    ['p/', 'p/', 'p/'],
  );
  server.answers = [page(['b', 'a'])];
  await fails(all(), 'STORE_FAILED', true);
  server.answers = [page(['a'], 'next'), page(['b'], 'next')];
  await fails(all(), 'STORE_FAILED', true);
  server.answers = [page(['a'], 'next'), page([], 'next')];
  await fails(all(), 'STORE_FAILED', true);
});

test('a server that ignores ifGenerationMatch is not published to', async () => {
  server.answers = [
    (request, response) => {
      const body = server.requests.at(-1)?.body.toString() ?? '';
      const bytes = /octet-stream\r\n\r\n([\s\S]*)\r\n--\w+--\r\n$/.exec(body)?.[1];
      (request.method === 'DELETE' ? respond(204, {}) : stored(bytes?.length ?? 0))(request, response);
    },
  ];
  await fails(proveConditionalWrites(store, { signal }), 'STORE_NO_CONDITIONAL_WRITES');
});

test('credentials are never for plain http: an address that is not of this machine is refused', async () => {
  const at = (endpoint?: string): Promise<ObjectStore> =>
    createGcsStore({ bucket: 'bucket', prefix: '', endpoint });
  for (const far of ['http://storage.example.com', 'http://10.0.0.1:4443', 'http://localhost.example.com'])
    await fails(at(far), 'STORE_URL_INVALID');
  for (const near of [
    'http://localhost:4443',
    'http://127.9.9.9',
    'http://[::1]:4443',
    'https://storage.example.com',
  ]) {
    const opened = await at(near);
    assert.equal(opened.location, `gs://bucket?endpoint=${near}`);
    await opened.close();
  }
  assert.equal((await at()).location, 'gs://bucket');
});

test('STORAGE_EMULATOR_HOST names a server that is asked without credentials', async () => {
  const { endpoint } = server;
  const { host } = new URL(endpoint);
  server.answers = [json({})];
  try {
    for (const [emulator, base] of [
      [host, endpoint],
      [endpoint, endpoint],
      [`${endpoint}/storage/v1/`, endpoint],
    ]) {
      process.env.STORAGE_EMULATOR_HOST = emulator;
      const opened = await createGcsStore({ bucket: 'bucket', prefix: '' });
      assert.equal(opened.location, `gs://bucket?endpoint=${base}`);
      for await (const _ of opened.list('', { signal })) assert.fail();
      assert.match(server.requests.at(-1)?.line ?? '', /^GET \/storage\/v1\/b\/bucket\/o\?/);
      await opened.close();
    }
    process.env.STORAGE_EMULATOR_HOST = 'http://emulator.example.com:4443';
    await createGcsStore({ bucket: 'b', prefix: '', endpoint: 'http://emulator.example.com:4443' });
    await fails(
      createGcsStore({ bucket: 'b', prefix: '', endpoint: 'http://other.example.com' }),
      'STORE_URL_INVALID',
    );
    // What the URL names goes before the environment.
    server.requests = [];
    for await (const _ of store.list('', { signal })) assert.fail();
    assert.equal(server.requests.length, 1);
    process.env.STORAGE_EMULATOR_HOST = 'http://user:secret@localhost';
    const error = await fails(createGcsStore({ bucket: 'b', prefix: '' }), 'STORE_URL_INVALID');
    assert.doesNotMatch(error.message, /secret/);
  } finally {
    delete process.env.STORAGE_EMULATOR_HOST;
  }
});
