import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import * as http from 'node:http';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { PresyncError } from '@presync/runtime/errors';
import { createSilentLogger } from '@presync/runtime/log';
import { createMemoryStore } from '@presync/store/memory';
import type { ObjectInfo } from '@presync/store/object-store';
import { type MadeObjects, withMadeObjects } from '@presync/store/with-made-objects';
import { openOrCreateRepository } from '@presync/transfer/repository';
import { serve } from '../src/serve.ts';

const MIB = 1024 * 1024;

interface Scene {
  url: string;
  objects: Map<string, Buffer>;
  /** How often objects were made, and how many are held now. */
  counts: { made: number; held: number };
  /** Makes an object fail. */
  fail(error: Error | undefined): void;
}

/** A server of made objects, whose memory holds something else as soon as it was given back. */
async function scene(t: TestContext, maxAnswers = 64): Promise<Scene> {
  const stop = new AbortController();
  const documents = createMemoryStore();
  await openOrCreateRepository(documents, { signal: stop.signal });
  const objects = new Map<string, Buffer>();
  const counts = { made: 0, held: 0 };
  let failure: Error | undefined;
  const find = (key: string): ObjectInfo | undefined => {
    const bytes = objects.get(key);
    return bytes && { key, size: bytes.length, version: 'made' };
  };
  const made: MadeObjects = {
    owns: (key) => key.startsWith('chunks/'),
    find,
    async make(key) {
      if (failure !== undefined) throw failure;
      counts.made += 1;
      counts.held += 1;
      const bytes = Buffer.from(objects.get(key) ?? '');
      let held = true;
      return {
        bytes,
        release: () => {
          if (held) counts.held -= 1;
          held = false;
          bytes.fill(0);
        },
      };
    },
    async *list() {},
  };
  const { promise, resolve } = Promise.withResolvers<string>();
  const serving = serve({
    store: withMadeObjects(documents, made, { location: 'made:' }),
    listen: { host: '127.0.0.1', port: 0 },
    maxAnswers,
    log: createSilentLogger(),
    onListening: resolve,
    signal: stop.signal,
  });
  t.after(async () => {
    stop.abort();
    await serving;
  });
  const url = (await Promise.race([promise, serving.then(() => '')])).replace('peer+', '');
  return {
    url,
    objects,
    counts,
    fail: (error) => {
      failure = error;
    },
  };
}

/** An answer whose body nobody has read yet. */
async function ask(url: string, headers: Record<string, string> = {}): Promise<http.IncomingMessage> {
  const request = http.get(url, { headers, agent: false });
  const [answer] = await once(request, 'response');
  assert.ok(answer instanceof http.IncomingMessage);
  return answer;
}

async function untilNoneHeld({ counts }: Scene): Promise<void> {
  for (const until = performance.now() + 10_000; counts.held > 0; await sleep(10))
    assert.ok(performance.now() < until, `${counts.held} objects are still held`);
}

test('an object is held until a slow client has all of it, and then no longer', async (t) => {
  const made = await scene(t);
  const bytes = randomBytes(24 * MIB);
  made.objects.set('chunks/aa/x', bytes);
  const answer = await ask(`${made.url}/chunks/aa/x`);
  // More than the sockets' buffers take is still to come.
  await sleep(300);
  assert.equal(made.counts.held, 1);
  const pieces: Buffer[] = [];
  for await (const piece of answer) pieces.push(piece);
  assert.equal(Buffer.compare(Buffer.concat(pieces), bytes), 0, 'the client got other bytes');
  await untilNoneHeld(made);
  assert.equal(made.counts.made, 1, 'it was made more than once');
});

test('a client that goes in the middle leaves nothing held', async (t) => {
  const made = await scene(t);
  made.objects.set('chunks/aa/x', randomBytes(24 * MIB));
  for (let n = 0; n < 5; n++) {
    const answer = await ask(`${made.url}/chunks/aa/x`);
    await once(answer, 'readable');
    answer.destroy();
  }
  await untilNoneHeld(made);
});

test('only an answer with a body makes the object', async (t) => {
  const made = await scene(t);
  const bytes = randomBytes(1000);
  made.objects.set('chunks/aa/x', bytes);
  const at = `${made.url}/chunks/aa/x`;
  for (const [init, status] of [
    [{ method: 'HEAD' }, 200],
    [{ headers: { 'if-none-match': '"made"' } }, 304],
    [{ headers: { range: 'bytes=1000-' } }, 416],
  ] as const) {
    const answer = await fetch(at, init);
    assert.equal(answer.status, status);
    assert.equal(answer.headers.get('etag'), '"made"');
    assert.equal((await answer.arrayBuffer()).byteLength, 0);
  }
  assert.equal((await fetch(`${made.url}/chunks/aa/y`)).status, 404);
  assert.equal(made.counts.made, 0);
  const part = await fetch(at, { headers: { range: 'bytes=10-19' } });
  assert.equal(part.status, 206);
  assert.equal(part.headers.get('content-range'), 'bytes 10-19/1000');
  assert.deepEqual(Buffer.from(await part.arrayBuffer()), bytes.subarray(10, 20));
  assert.equal((await fetch(`${made.url}/presync.json`)).status, 200);
  assert.equal(made.counts.made, 1);
  await untilNoneHeld(made);
});

test('an object that cannot be made is an error without a header of the object', async (t) => {
  const made = await scene(t);
  made.objects.set('chunks/aa/x', randomBytes(1000));
  for (const [error, status, retryAfter] of [
    [new PresyncError('NODE_CHANGED', 'the view changed'), 500, null],
    [new Error('a defect'), 500, null],
    [new PresyncError('STORE_FAILED', 'busy', { retryable: true, retryAfterMs: 1500 }), 503, '2'],
  ] as const) {
    made.fail(error);
    const answer = await fetch(`${made.url}/chunks/aa/x`);
    assert.equal(answer.status, status);
    assert.equal(answer.headers.get('retry-after'), retryAfter);
    assert.equal(answer.headers.get('cache-control'), 'no-store');
    for (const header of ['etag', 'accept-ranges', 'content-range'])
      assert.equal(answer.headers.get(header), null, header);
    assert.deepEqual(await answer.json(), { error: error.message });
  }
  made.fail(undefined);
  assert.equal((await fetch(`${made.url}/chunks/aa/x`)).status, 200);
});

test('clients past the limit of answers are told to come again', async (t) => {
  const made = await scene(t, 2);
  made.objects.set('chunks/aa/x', randomBytes(24 * MIB));
  const slow = [await ask(`${made.url}/chunks/aa/x`), await ask(`${made.url}/chunks/aa/x`)];
  const refused = await fetch(`${made.url}/presync.json`);
  assert.equal(refused.status, 503);
  assert.equal(refused.headers.get('retry-after'), '1');
  for (const answer of slow) answer.destroy();
  await untilNoneHeld(made);
  assert.equal((await fetch(`${made.url}/presync.json`)).status, 200);
});
