import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { test } from 'node:test';
import { judgeClockSkew, measureClockSkew } from '@presync/store/server-time';

const signal = AbortSignal.timeout(60_000);

/** A server whose answers have these headers. */
async function withServer<T>(
  headers: () => Record<string, string>,
  work: (origin: string) => Promise<T>,
): Promise<T> {
  const server = createServer((_, answer) => {
    answer.sendDate = false;
    answer.writeHead(403, headers()).end();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  try {
    return await work(`http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

function dateIn(ms: number): string {
  return new Date(Date.now() + ms).toUTCString();
}

for (const [off, verdict] of [
  [0, 'ok'],
  [50_000, 'ok'],
  [90_000, 'warning'],
  [-90_000, 'warning'],
  [20 * 60_000, 'error'],
  [-20 * 60_000, 'error'],
] as const) {
  test(`a clock that is ${off / 1000} s off`, async () => {
    await withServer(
      () => ({ date: dateIn(off) }),
      async (origin) => {
        for (const url of [origin, `s3://bucket?endpoint=${origin}`, `gs://bucket?endpoint=${origin}`]) {
          const found = await measureClockSkew(url, { signal });
          assert.equal(found?.verdict, verdict);
          assert.ok(Math.abs(found.skewMs - off) <= found.uncertaintyMs + 1, JSON.stringify(found));
          assert.ok(found.uncertaintyMs <= 5000);
        }
      },
    );
  });
}

test('a date that is renewed each second may be a second old', async () => {
  await withServer(
    () => ({ date: dateIn(-1000) }),
    async (origin) => {
      const found = await measureClockSkew(origin, { signal });
      assert.ok(found !== undefined && Math.abs(found.skewMs) <= found.uncertaintyMs, JSON.stringify(found));
    },
  );
});

test('an answer out of a cache is as old as it says', async () => {
  await withServer(
    () => ({ date: dateIn(-3_600_000), age: '3600' }),
    async (origin) => assert.equal((await measureClockSkew(origin, { signal }))?.verdict, 'ok'),
  );
});

test('who tells no time, or does not answer, has none', async () => {
  await withServer(
    () => ({}),
    async (origin) => assert.equal(await measureClockSkew(origin, { signal }), undefined),
  );
  assert.equal(await measureClockSkew('http://127.0.0.1:9', { signal }), undefined);
  assert.equal(await measureClockSkew('file:///dir', { signal }), undefined);
  assert.equal(await measureClockSkew('memory:', { signal }), undefined);
});

test('it can be aborted', async () => {
  const silent = createServer(() => undefined);
  silent.listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const address = silent.address();
  const stop = new AbortController();
  try {
    const measured = measureClockSkew(
      `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`,
      {
        signal: stop.signal,
      },
    );
    stop.abort();
    await assert.rejects(measured, { code: 'ABORTED' });
  } finally {
    silent.closeAllConnections();
    silent.close();
  }
});

test('the limits are a minute and five', () => {
  assert.equal(judgeClockSkew(60_000, 0).verdict, 'ok');
  assert.equal(judgeClockSkew(-60_001, 0).verdict, 'warning');
  assert.equal(judgeClockSkew(300_000, 0).verdict, 'warning');
  assert.equal(judgeClockSkew(300_001, 0).verdict, 'error');
});
