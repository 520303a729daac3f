/** What is sent to a collector, received by a real HTTP server. */
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { test } from 'node:test';
import { createTracer, type Trace } from '../src/tracing.ts';
import { NEVER } from './support.ts';

interface SentSpan {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
  attributes: unknown[];
  status?: { code: number; message?: string };
}

const TRACE: Trace = {
  ...{ name: 'snapshot', began: 1_772_323_200_123, seconds: 2.5, failure: undefined },
  attributes: { text: 'a', whole: 3, part: 0.5, yes: true, none: null, absent: undefined },
  children: [
    { name: 'snapshot.gate', began: 1_772_323_200_123, seconds: 0.5 },
    { name: 'snapshot.upload', began: 1_772_323_200_623, seconds: 2 },
  ],
};

async function collector(t: { after(fn: () => void): void }, status = 200) {
  const seen: { path: string | undefined; type: string | undefined; body: string }[] = [];
  const server = createServer((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (chunk: string) => {
      body += chunk;
    });
    request.on('end', () => {
      seen.push({ path: request.url, type: request.headers['content-type'], body });
      response.writeHead(status).end('{}');
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => void server.close());
  const address = server.address();
  assert.ok(typeof address === 'object' && address !== null);
  return { seen, url: `http://127.0.0.1:${address.port}` };
}

test('a run is one trace, its parts are spans below it', async (t) => {
  const { seen, url } = await collector(t);
  const tracer = createTracer({
    url,
    service: 'presync',
    version: '1',
    onProblem: (why) => assert.fail(why),
  });
  await tracer.send(TRACE, { signal: NEVER });
  assert.equal(seen[0]?.path, '/v1/traces');
  assert.equal(seen[0]?.type, 'application/json');
  const { resourceSpans } = JSON.parse(seen[0]?.body ?? '');
  assert.deepEqual(resourceSpans[0].resource.attributes[0], {
    key: 'service.name',
    value: { stringValue: 'presync' },
  });
  const [root, gate, upload]: SentSpan[] = resourceSpans[0].scopeSpans[0].spans;
  assert.match(root?.traceId ?? '', /^[0-9a-f]{32}$/);
  assert.match(root?.spanId ?? '', /^[0-9a-f]{16}$/);
  assert.equal(root?.startTimeUnixNano, '1772323200123000000');
  assert.equal(root?.endTimeUnixNano, '1772323202623000000');
  assert.deepEqual(root?.status, { code: 1 });
  assert.deepEqual(root?.attributes, [
    { key: 'text', value: { stringValue: 'a' } },
    { key: 'whole', value: { intValue: '3' } },
    { key: 'part', value: { doubleValue: 0.5 } },
    { key: 'yes', value: { boolValue: true } },
  ]);
  for (const child of [gate, upload]) {
    assert.equal(child?.traceId, root?.traceId);
    assert.equal(child?.parentSpanId, root?.spanId);
  }
  assert.equal(upload?.name, 'snapshot.upload');
  assert.notEqual(gate?.spanId, upload?.spanId);
});

test('a failure says why, and a path in the URL is kept', async (t) => {
  const { seen, url } = await collector(t);
  for (const path of ['/otlp', '/otlp/', '/otlp/v1/traces']) {
    const tracer = createTracer({
      url: url + path,
      service: 'x',
      version: '1',
      onProblem: (why) => assert.fail(why),
    });
    await tracer.send({ ...TRACE, failure: 'the store is away' }, { signal: NEVER });
  }
  assert.deepEqual(
    seen.map(({ path }) => path),
    Array(3).fill('/otlp/v1/traces'),
  );
  const spans: SentSpan[] = JSON.parse(seen[0]?.body ?? '').resourceSpans[0].scopeSpans[0].spans;
  assert.deepEqual(spans[0]?.status, { code: 2, message: 'the store is away' });
});

test('a collector that refuses or is away is told of, and nothing else happens', async (t) => {
  const problems: string[] = [];
  const onProblem = (why: string): void => void problems.push(why);
  const { url } = await collector(t, 503);
  await createTracer({ url, service: 'x', version: '1', onProblem }).send(TRACE, { signal: NEVER });
  await createTracer({ url: 'http://127.0.0.1:1', service: 'x', version: '1', onProblem }).send(TRACE, {
    signal: NEVER,
  });
  assert.equal(problems.length, 2);
  assert.match(problems[0] ?? '', /503/);
});
