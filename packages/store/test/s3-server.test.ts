/** What the S3 adapter does on a real server beyond the conformance suite. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import { openStore } from '@presync/store/open';
import { needs } from '../../../test/support/needs.ts';
import { findS3Server, type S3Server, startS3Server } from '../../../test/support/s3-server.ts';

describe('the S3 store on versitygw', needs('versitygw', findS3Server() !== undefined), () => {
  let server: S3Server | undefined;
  let store: ObjectStore | undefined;
  before(async () => {
    server = await startS3Server();
    Object.assign(process.env, server.env);
    store = await openStore(server.url, { signal: AbortSignal.timeout(60_000) });
  });
  after(async () => {
    await store?.close();
    await server?.stop();
  });

  test('a body that is not what its digest says is refused on arrival', async ({ signal }) => {
    assert.ok(store !== undefined);
    const body = Buffer.from('the right body');
    const sha256 = createHash('sha256').update(body).digest('hex');
    const wrong = store.put('digest/wrong', Buffer.from('another body'), { sha256, signal });
    await assert.rejects(wrong, (error) => isPresyncError(error, 'STORE_FAILED') && error.retryable);
    assert.equal(await store.stat('digest/wrong', { signal }), undefined);
    await store.put('digest/right', body, { sha256, condition: { ifAbsent: true }, signal });
    const { bytes } = await store.read('digest/right', { maxBytes: 100, signal });
    assert.deepEqual(Buffer.from(bytes), body);
  });
});
