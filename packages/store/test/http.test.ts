import assert from 'node:assert/strict';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { after, before, beforeEach, test } from 'node:test';
import { isPresyncError, type PresyncError } from '@presync/runtime/errors';
import { createHttpStore } from '@presync/store/http';
import type { ObjectStore } from '@presync/store/object-store';

// What web servers and caches do that the readers' conformance suite does not see on a good one.

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

const signal = AbortSignal.timeout(120_000);
const STALL_MS = 400;
const CONTENT = Buffer.from('0123456789');

let server: Server;
let base = '';
let store: ObjectStore;
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
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

beforeEach(async () => {
  await store?.close();
  answers = [];
  seen = [];
  store = await createHttpStore({ base: `${base}/repo`, stallMs: STALL_MS });
});

const read = (range?: { offset: number; length: number }): Promise<{ bytes: Uint8Array; size: number }> =>
  store.read('chunks/aa/object', { maxBytes: 1000, range, signal });

const send =
  (status: number, headers: Record<string, string | number>, body: Buffer | string = ''): Answer =>
  (_request, response) => {
    response.writeHead(status, headers).end(body);
  };

const whole = send(200, { etag: '"v1"', 'content-length': CONTENT.length }, CONTENT);

async function refused(promise: Promise<unknown>): Promise<PresyncError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(isPresyncError(error), String(error));
    return error;
  }
  return assert.fail('it was not refused');
}

test('a server without ranges gives its parts all the same', async () => {
  answers = [whole];
  const part = await read({ offset: 3, length: 4 });
  assert.equal(Buffer.from(part.bytes).toString(), '3456');
  assert.equal(part.size, 10);
  assert.equal((await read({ offset: 8, length: 9 })).bytes.length, 2);
  assert.equal((await read({ offset: 20, length: 5 })).bytes.length, 0);
});

test('a body without a length is taken to its end, and no further than is allowed', async () => {
  const chunked: Answer = (_request, response) => {
    response.writeHead(200, { etag: '"v1"' });
    response.write('01234');
    response.end('56789');
  };
  answers = [chunked];
  assert.equal(Buffer.from((await read()).bytes).toString(), '0123456789');
  const error = await refused(store.read('object', { maxBytes: 9, signal }));
  assert.equal(error.code, 'OBJECT_TOO_LARGE');
});

test('a part that a cache gives for the whole, or another part, is caught', async () => {
  for (const headers of [
    { 'content-range': 'bytes 0-4/10', 'content-length': 5 },
    { 'content-range': 'bytes 2-6/10', 'content-length': 5 },
    { 'content-length': 5 },
  ]) {
    answers = [send(206, { etag: '"v1"', ...headers }, '01234')];
    for (const range of [undefined, { offset: 4, length: 5 }]) {
      const error = await refused(read(range));
      assert.equal(error.code, 'STORE_FAILED', error.message);
      assert.ok(error.retryable);
    }
  }
});

test('a body that is cut short, or too long, or in another coding, is no object', async () => {
  const cut: Answer = (_request, response) => {
    response.writeHead(200, { etag: '"v1"', 'content-length': 10 }).write('0123');
    setTimeout(() => response.destroy(), 20);
  };
  const coded = send(200, { etag: '"v1"', 'content-encoding': 'gzip', 'content-length': 10 }, CONTENT);
  const unnamed = send(200, { 'content-length': 10 }, CONTENT);
  for (const answer of [cut, coded, unnamed]) {
    answers = [answer];
    const error = await refused(read());
    assert.equal(error.code, 'STORE_FAILED', error.message);
    assert.ok(error.retryable);
  }
});

test('a server that falls silent is given up', async () => {
  const silent: Answer = () => {};
  const half: Answer = (_request, response) => {
    response.writeHead(200, { etag: '"v1"', 'content-length': 10 }).write('0123');
  };
  for (const answer of [silent, half]) {
    answers = [answer];
    const began = performance.now();
    const error = await refused(read());
    assert.equal(error.code, 'STORE_UNREACHABLE', error.message);
    assert.ok(error.retryable);
    assert.ok(performance.now() - began < 10 * STALL_MS);
  }
});

test('each status has its meaning', async () => {
  for (const [status, code, retryable] of [
    [404, 'OBJECT_NOT_FOUND', false],
    [410, 'OBJECT_NOT_FOUND', false],
    [401, 'STORE_FORBIDDEN', false],
    [403, 'STORE_FORBIDDEN', false],
    [400, 'STORE_FAILED', false],
    [429, 'STORE_FAILED', true],
    [500, 'STORE_FAILED', true],
    [503, 'STORE_FAILED', true],
  ] as const) {
    answers = [send(status, { 'retry-after': '7' })];
    const error = await refused(read());
    assert.equal(error.code, code, `${status}`);
    assert.equal(error.retryable, retryable, `${status}`);
    if (retryable) assert.equal(error.retryAfterMs, 7000);
    assert.ok(error.hint !== undefined);
  }
  answers = [send(404, {})];
  assert.equal(await store.stat('absent', { signal }), undefined);
  answers = [send(403, {})];
  assert.equal((await refused(store.stat('absent', { signal }))).code, 'STORE_FORBIDDEN');
});

test('a server without HEAD is asked for a byte', async () => {
  answers = [
    send(405, {}),
    send(206, { etag: '"v1"', 'content-range': 'bytes 0-0/10', 'content-length': 1 }, '0'),
  ];
  assert.deepEqual(await store.stat('object', { signal }), { key: 'object', size: 10, version: '"v1"' });
});

test('without an ETag the version is made of date and size', async () => {
  answers = [send(200, { 'last-modified': 'Mon, 01 Jan 2024 00:00:00 GMT', 'content-length': 10 }, CONTENT)];
  const { version } = await store.read('object', { maxBytes: 10, signal });
  assert.equal(version, 'Mon, 01 Jan 2024 00:00:00 GMT 10');
});

test('redirects are followed to their end, but not for ever and not anywhere', async () => {
  answers = [send(302, { location: '/elsewhere/object' }), whole];
  assert.equal((await read()).bytes.length, 10);
  assert.deepEqual(
    seen.map(({ url }) => url),
    ['/repo/chunks/aa/object', '/elsewhere/object'],
  );
  for (const location of ['/again', 'ftp://127.0.0.1/x', 'http://me:hush@127.0.0.1/x']) {
    answers = [send(302, { location })];
    const error = await refused(read());
    assert.equal(error.code, 'STORE_FAILED');
    assert.doesNotMatch(error.message, /hush/);
  }
});

test('credentials go to their origin and to nobody else', async (t) => {
  const other = createServer((request, response) => {
    seen.push(request);
    whole(request, response);
  });
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  t.after(() => other.close());
  const address = other.address();
  assert.ok(address !== null && typeof address === 'object');
  const mine = await createHttpStore({
    base,
    access: { authorization: (origin) => (origin === base ? 'Bearer hush' : undefined) },
  });
  answers = [send(307, { location: `http://127.0.0.1:${address.port}/x` })];
  await mine.read('object', { maxBytes: 10, signal });
  assert.deepEqual(
    seen.map(({ headers }) => headers.authorization),
    ['Bearer hush', undefined],
  );
  await mine.close();
});

test('a proxy from the environment is used', async (t) => {
  const before = { HTTP_PROXY: process.env.HTTP_PROXY, NO_PROXY: process.env.NO_PROXY };
  t.after(() => {
    for (const [name, value] of Object.entries(before)) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  });
  Object.assign(process.env, { HTTP_PROXY: base, NO_PROXY: '' });
  const far = await createHttpStore({ base: 'http://cdn.invalid/repo' });
  answers = [whole];
  await far.read('object', { maxBytes: 10, signal });
  assert.equal(seen[0]?.url, 'http://cdn.invalid/repo/object');
  await far.close();
});

test('a server that cannot be reached says so', async () => {
  const nowhere = await createHttpStore({ base: 'http://127.0.0.1:1/repo' });
  const error = await refused(nowhere.read('object', { maxBytes: 10, signal }));
  assert.equal(error.code, 'STORE_UNREACHABLE');
  assert.ok(error.retryable);
  await nowhere.close();
});

test('a listing that is none, or out of order, is refused', async () => {
  const peer = await createHttpStore({ base, peer: true });
  const line = (key: string): string => `${JSON.stringify({ key, size: 1, version: 'v' })}\n`;
  for (const page of [
    'no json\n',
    '{"key":"../x","size":1,"version":"v"}\n',
    line('b') + line('a'),
    line('other/x'),
  ]) {
    answers = [send(200, {}, page)];
    const error = await refused(
      (async () => {
        for await (const info of peer.list('', { signal })) {
          assert.ok(info.key !== '');
          if (page === line('other/x')) break;
        }
        if (page === line('other/x')) for await (const _ of peer.list('mine/', { signal })) break;
      })(),
    );
    assert.equal(error.code, 'STORE_FAILED');
  }
  await peer.close();
});
