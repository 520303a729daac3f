import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { createS3Store } from '@presync/store/s3';
import { withLimit } from '@presync/store/with-limit';
import { withRetry } from '@presync/store/with-retry';
import { needs } from '../../../test/support/needs.ts';
import { findS3Server, type S3Server, startS3Server } from '../../../test/support/s3-server.ts';
import { startTokenGate } from '../../../test/support/s3-tokens.ts';

// Credentials of roles, which expire in the middle of a run. versitygw gives none, so that a gate in front of it does.

const signal = AbortSignal.timeout(240_000);
const OBJECTS = 150;
const AT_A_TIME = 16;

/** Requests after which credentials expire: more than are under way at once, or no call would ever get through. */
const LIFETIME = 3 * AT_A_TIME;

describe(
  'the S3 store with credentials that expire',
  needs('versitygw', findS3Server() !== undefined),
  () => {
    let server: S3Server;
    const environment = { ...process.env };

    before(async () => {
      server = await startS3Server();
    });
    after(async () => {
      for (const name of Object.keys(process.env)) delete process.env[name];
      Object.assign(process.env, environment);
      await server.stop();
    });

    test('a run of many puts, gets and stats loses nothing', async (t) => {
      const gate = await startTokenGate(server, LIFETIME);
      t.after(() => gate.stop());
      for (const name of Object.keys(process.env).filter((key) => key.startsWith('AWS_')))
        delete process.env[name];
      Object.assign(process.env, gate.env);
      const retries: string[] = [];
      const bare = await createS3Store({ bucket: server.bucket, prefix: 'run', endpoint: gate.endpoint });
      t.after(() => bare.close());
      const store = withLimit(
        withRetry(bare, {
          minDelayMs: 10,
          maxDelayMs: 100,
          onRetry: ({ error }) => retries.push(`${error.code} ${error.retryable}`),
        }),
        { concurrency: AT_A_TIME },
      );
      const bodies = Array.from({ length: OBJECTS }, (_, index) => ({
        key: `object-${index}`,
        bytes: randomBytes(1000 + index),
      }));
      await Promise.all(
        bodies.map(({ key, bytes }) => store.put(key, bytes, { condition: { ifAbsent: true }, signal })),
      );
      await Promise.all(
        bodies.map(async ({ key, bytes }) => {
          const read = await store.read(key, { maxBytes: 2000, signal });
          assert.ok(bytes.equals(read.bytes), key);
        }),
      );
      await Promise.all(
        bodies.map(async ({ key, bytes }) => {
          assert.equal((await store.stat(key, { signal }))?.size, bytes.length);
        }),
      );
      const listed: string[] = [];
      for await (const { key } of store.list('', { signal })) listed.push(key);
      assert.deepEqual(listed, bodies.map(({ key }) => key).toSorted());
      assert.ok(gate.refused() > 0, 'nothing expired');
      assert.deepEqual([...new Set(retries)], ['STORE_FAILED true']);
      assert.equal(retries.length, gate.refused());
      // Once for each time that they expired, not once for each call that was under way.
      const lives = Math.ceil(gate.requests.length / LIFETIME);
      assert.ok(gate.given() <= lives + 3, `${gate.given()} credentials in ${lives} lives`);
    });
  },
);
