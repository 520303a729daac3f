/** That the fault proxy does what the campaigns take it to do. */
import assert from 'node:assert/strict';
import { Agent, createServer, type IncomingMessage, request } from 'node:http';
import { request as secureRequest } from 'node:https';
import { connect } from 'node:net';
import { after, before, describe, it, type TestContext } from 'node:test';
import { FAULT_KINDS, type FaultKind } from '../support/fault-kinds.ts';
import { type FaultProxy, type FaultProxyOptions, startFaultProxy } from '../support/fault-proxy.ts';
import { selfSigned } from '../support/self-signed.ts';

const SIZE = 8000;

/** What came of a request. */
interface Outcome {
  status?: number | undefined;
  headers: IncomingMessage['headers'];
  body: Buffer;
  /** Code of the error that ended it. */
  error?: string | undefined;
  /** Nothing had moved for a while. */
  silent?: boolean | undefined;
}

let upstream: number;
/** Method and path of what reached the server. */
let reached: string[] = [];
let stopUpstream: () => Promise<void>;

before(async () => {
  const server = createServer((incoming, outgoing) => {
    incoming.resume().on('end', () => {
      reached.push(`${incoming.method} ${incoming.url}`);
      const body = Buffer.alloc(SIZE, incoming.url);
      const etag = `"tag-of-${incoming.url}-7"`;
      const range = /^bytes=(\d+)-(\d+)$/.exec(incoming.headers.range ?? '');
      if (range === null) {
        outgoing.writeHead(200, { etag, 'content-length': SIZE }).end(body);
        return;
      }
      const [start, end] = [Number(range[1]), Math.min(SIZE - 1, Number(range[2]))];
      const part = body.subarray(start, end + 1);
      const head = {
        etag,
        'content-length': part.length,
        'content-range': `bytes ${start}-${end}/${SIZE}`,
      };
      outgoing.writeHead(206, head).end(part);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  upstream = address.port;
  stopUpstream = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
});

after(() => stopUpstream());

async function through(
  t: TestContext,
  kind: FaultKind | undefined,
  more: Partial<FaultProxyOptions> = {},
): Promise<FaultProxy> {
  reached = [];
  const proxy = await startFaultProxy({
    upstream: { port: upstream },
    dialect: 's3',
    seed: 1,
    rate: 1,
    kinds: kind === undefined ? [] : [kind],
    ...more,
  });
  t.after(() => proxy.stop());
  t.after(() => assert.deepEqual(proxy.broken, []));
  return proxy;
}

interface Asking {
  method?: string;
  range?: string;
  body?: Buffer;
  path?: string;
  agent?: Agent;
}

function ask(
  port: number,
  { method = 'GET', range, body, path = '/one', agent }: Asking = {},
): Promise<Outcome> {
  return new Promise((resolve) => {
    const outcome: Outcome = { headers: {}, body: Buffer.alloc(0) };
    const sent = request({
      ...{ host: '127.0.0.1', port, method, path, timeout: 300 },
      ...(agent === undefined ? { agent: false } : { agent }),
      headers: {
        ...(range === undefined ? {} : { range }),
        ...(body === undefined ? {} : { 'content-length': body.length }),
      },
    });
    sent.on('timeout', () => {
      outcome.silent = true;
      sent.destroy();
      resolve(outcome);
    });
    sent.on('error', (error) => {
      outcome.error ??= 'code' in error ? String(error.code) : error.message;
      resolve(outcome);
    });
    sent.on('response', (answer) => {
      outcome.status = answer.statusCode;
      outcome.headers = answer.headers;
      answer.on('data', (piece: Buffer) => {
        outcome.body = Buffer.concat([outcome.body, piece]);
      });
      answer.on('error', (error) => {
        outcome.error ??= 'code' in error ? String(error.code) : error.message;
      });
      answer.on('close', () => resolve(outcome));
    });
    sent.end(body);
  });
}

const WHOLE = `bytes=0-${SIZE - 1}`;

/** What a client sees of each kind, and whether the server did what it was asked. */
const SEEN: Record<
  Exclude<FaultKind, 'duplicate' | 'another-answer' | 'swapped'>,
  { asking?: Asking; reached: boolean; holds: (outcome: Outcome) => boolean }
> = {
  'reset-before': {
    reached: false,
    holds: ({ error, status }) => error === 'ECONNRESET' && status === undefined,
  },
  'reset-in-request': {
    asking: { method: 'PUT', body: Buffer.alloc(100_000) },
    reached: false,
    holds: ({ error, status }) => (error === 'ECONNRESET' || error === 'EPIPE') && status === undefined,
  },
  'stall-before': { reached: false, holds: ({ silent, status }) => silent === true && status === undefined },
  'too-many': {
    reached: false,
    holds: ({ status, headers }) => status === 429 && !('retry-after' in headers),
  },
  'too-many-wait': {
    reached: false,
    holds: ({ status, headers }) => status === 429 && headers['retry-after'] === '1',
  },
  unavailable: { reached: false, holds: ({ status, body }) => status === 503 && body.includes('SlowDown') },
  'unavailable-wait': {
    reached: false,
    holds: ({ status, headers }) => status === 503 && headers['retry-after'] === '1',
  },
  'expired-token': {
    reached: false,
    holds: ({ status, body }) => status === 400 && body.includes('<Code>ExpiredToken</Code>'),
  },
  'internal-error': { reached: true, holds: ({ status }) => status === 500 },
  'lost-answer': {
    reached: true,
    holds: ({ error, status }) => error === 'ECONNRESET' && status === undefined,
  },
  'stall-after': { reached: true, holds: ({ silent, status }) => silent === true && status === undefined },
  'reset-in-answer': {
    reached: true,
    holds: ({ error, status, body }) => error === 'ECONNRESET' && status === 200 && body.length < SIZE,
  },
  'stall-in-answer': {
    reached: true,
    holds: ({ silent, status, body }) => silent === true && status === 200 && body.length === SIZE / 2,
  },
  'short-closed': {
    reached: true,
    holds: ({ error, status, body, headers }) =>
      error !== undefined &&
      status === 200 &&
      body.length === SIZE / 2 &&
      headers['content-length'] === `${SIZE}`,
  },
  'short-whole': {
    reached: true,
    holds: ({ error, status, body, headers }) =>
      error === undefined &&
      status === 200 &&
      body.length === SIZE / 2 &&
      headers['content-length'] === `${SIZE / 2}`,
  },
  slow: {
    reached: true,
    holds: ({ error, body, silent }) => error === undefined && !silent && body.length === SIZE,
  },
  'wrong-etag': {
    reached: true,
    holds: ({ headers, body }) => headers.etag === '"tag-of-/one-8"' && body.length === SIZE,
  },
  'wrong-range': {
    asking: { range: 'bytes=10-19' },
    reached: true,
    holds: ({ status, headers, body }) =>
      status === 206 && headers['content-range'] === `bytes 11-19/${SIZE}` && body.length === 9,
  },
  'whole-for-range': {
    asking: { range: WHOLE },
    reached: true,
    holds: ({ status, headers, body }) =>
      status === 200 && headers['content-range'] === undefined && body.length === SIZE,
  },
};

describe('the fault proxy', () => {
  for (const [name, { asking = {}, reached: does, holds }] of Object.entries(SEEN)) {
    const kind = FAULT_KINDS.find((known) => known === name);
    it(`${name} is what its name says`, async (t) => {
      const proxy = await through(t, kind);
      const outcome = await ask(proxy.port, asking);
      assert.ok(holds(outcome), JSON.stringify({ ...outcome, body: outcome.body.length }));
      assert.equal(reached.length, does ? 1 : 0);
      assert.deepEqual([...proxy.injected], [[name, 1]]);
    });
  }

  it('knows a test for each kind', () => {
    const tested = [...Object.keys(SEEN), 'duplicate', 'another-answer', 'swapped'];
    assert.deepEqual(tested.toSorted(), FAULT_KINDS.toSorted());
  });

  it('gives an answer twice', async (t) => {
    const proxy = await through(t, 'duplicate');
    const socket = connect(proxy.port, '127.0.0.1');
    t.after(() => socket.destroy());
    let text = '';
    socket.setEncoding('latin1').on('data', (piece: string) => {
      text += piece;
    });
    socket.write('GET /one HTTP/1.1\r\nhost: x\r\n\r\n');
    for (const until = Date.now() + 5000; Date.now() < until && text.length < 2 * SIZE; )
      await new Promise((resolve) => setTimeout(resolve, 10));
    assert.equal(text.match(/HTTP\/1\.1 200 OK\r\n/g)?.length, 2);
    assert.equal(text.match(/\/one/g)?.length, 2 * (SIZE / 4) + 2);
  });

  it('gives the answer to an earlier request', async (t) => {
    const proxy = await through(t, 'another-answer', { rate: 0 });
    await ask(proxy.port, { path: '/two' });
    await ask(proxy.port, { path: '/two', method: 'PUT' });
    proxy.rate = 1;
    const outcome = await ask(proxy.port);
    assert.deepEqual([outcome.status, outcome.headers.etag], [200, '"tag-of-/two-7"']);
    assert.deepEqual(outcome.body, Buffer.alloc(SIZE, '/two'));
  });

  it('exchanges two answers', async (t) => {
    const proxy = await through(t, 'swapped');
    const [one, two] = await Promise.all([ask(proxy.port), ask(proxy.port, { path: '/two' })]);
    assert.deepEqual([one.headers.etag, two.headers.etag], ['"tag-of-/two-7"', '"tag-of-/one-7"']);
    const alone = await ask(proxy.port);
    assert.equal(alone.error, 'ECONNRESET', 'an answer with nothing to be exchanged with is lost');
  });

  it('leaves alone what the rate leaves out, and comes out near it', async (t) => {
    const proxy = await through(t, 'unavailable', { rate: 0.2 });
    const agent = new Agent({ keepAlive: true });
    t.after(() => agent.destroy());
    let failed = 0;
    for (let index = 0; index < 500; index++)
      if ((await ask(proxy.port, { path: `/${index}`, agent })).status === 503) failed += 1;
    assert.equal(proxy.faults, failed);
    assert.ok(failed > 60 && failed < 140, `${failed} of 500`);
    proxy.rate = 0;
    assert.equal((await ask(proxy.port, { path: '/1' })).status, 200);
  });

  it('does the same to the same requests, whatever the order', async (t) => {
    const paths = Array.from({ length: 100 }, (_, index) => `/${index}`);
    const failing = async (order: string[]): Promise<string[]> => {
      const proxy = await through(t, 'unavailable', { rate: 0.3, seed: 7 });
      const outcomes = await Promise.all(
        order.map(async (path) => [path, await ask(proxy.port, { path })] as const),
      );
      return outcomes.flatMap(([path, { status }]) => (status === 503 ? [path] : [])).toSorted();
    };
    assert.deepEqual(await failing(paths), await failing(paths.toReversed()));
  });

  it('evens kinds out', async (t) => {
    const proxy = await through(t, undefined, { kinds: ['too-many', 'unavailable', 'internal-error'] });
    for (let index = 0; index < 30; index++) await ask(proxy.port, { path: `/${index}` });
    assert.deepEqual([...proxy.injected.values()], [10, 10, 10]);
  });

  it('speaks TLS, and resets connections all the same', async (t) => {
    const tls = selfSigned();
    const proxy = await through(t, 'reset-before', { tls });
    const error = await new Promise<string>((resolve) => {
      const sent = secureRequest({ host: 'localhost', port: proxy.port, ca: tls.cert, agent: false });
      sent.on('error', (cause) => resolve('code' in cause ? String(cause.code) : cause.message));
      sent.end();
    });
    assert.equal(error, 'ECONNRESET');
    proxy.rate = 0;
    const status = await new Promise<number | undefined>((resolve, reject) => {
      const sent = secureRequest({ host: 'localhost', port: proxy.port, ca: tls.cert, agent: false });
      sent.on('response', (answer) => resolve(answer.resume().statusCode));
      sent.on('error', reject);
      sent.end();
    });
    assert.equal(status, 200);
  });
});
