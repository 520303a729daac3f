import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, test } from 'node:test';
import * as sdk from '@aws-sdk/client-s3';
import { createS3Store, type S3StoreOptions } from '@presync/store/s3';
import { collect } from '../../../test/support/collect.ts';
import { failure } from '../../../test/support/gcs-stand-in.ts';
import { startHttpFront } from '../../../test/support/http-front.ts';
import { findMinio, MINIO_KEY, startMinio } from '../../../test/support/minio-server.ts';
import { needs } from '../../../test/support/needs.ts';
import { onEachServer, PART, signal } from './s3-subject.ts';

// What goes beyond the ObjectStore contract, on every S3 server that can be run here.

onEachServer((subject) => {
  const metadata = (key: string): Promise<sdk.HeadObjectCommandOutput> =>
    subject.client.send(new sdk.HeadObjectCommand({ Bucket: subject.server.bucket, Key: `p/${key}` }));

  test('tags are those of the store, on objects of every size', async () => {
    const tags = { team: 'nodes', 'a name': 'x/y+z:=@' };
    const store = await subject.open({ tags });
    await store.put('tags/small', Buffer.from('small'), { signal });
    await store.put('tags/large', await subject.file(2 * PART), { signal });
    for (const key of ['tags/small', 'tags/large']) {
      const { TagSet = [] } = await subject.client.send(
        new sdk.GetObjectTaggingCommand({ Bucket: subject.server.bucket, Key: `p/${key}` }),
      );
      assert.deepEqual(Object.fromEntries(TagSet.map(({ Key, Value }) => [Key, Value])), tags, key);
    }
  });

  test('the storage class is that of immutable objects only', async () => {
    const seen: string[] = [];
    const front = await subject.through((line, { headers }) => {
      const storageClass = headers['x-amz-storage-class'];
      if (storageClass !== undefined) seen.push(`${line.split('?')[0]} ${String(storageClass)}`);
      return 'pass';
    });
    // The one class besides STANDARD that MinIO has; versitygw takes any.
    const store = await subject.open({ endpoint: front.endpoint, storageClass: 'REDUCED_REDUNDANCY' });
    await store.put('latest', Buffer.from('document'), { signal });
    await store.put('chunk', Buffer.from('chunk'), { immutable: true, signal });
    await store.put('chunks', await subject.file(2 * PART), { immutable: true, signal });
    assert.deepEqual(seen, [
      `PUT /${subject.server.bucket}/p/chunk REDUCED_REDUNDANCY`,
      `POST /${subject.server.bucket}/p/chunks REDUCED_REDUNDANCY`,
    ]);
    if (subject.name === 'minio') {
      assert.equal((await metadata('chunk')).StorageClass, 'REDUCED_REDUNDANCY');
      assert.equal((await metadata('chunks')).StorageClass, 'REDUCED_REDUNDANCY');
      const unknown = await subject.open({ storageClass: 'NO_SUCH_CLASS' });
      const error = await failure(unknown.put('chunk', Buffer.from('x'), { immutable: true, signal }));
      assert.equal(error.code, 'STORE_FAILED');
      assert.match(error.hint ?? '', /storageClass/);
    }
  });

  for (const first of ['stat', 'put', 'list'] as const) {
    test(`the region that the server names to a ${first} is taken, and remembered`, async (t) => {
      const far = await subject.start({ region: 'eu-test-7' });
      t.after(() => far.stop());
      const front = await startHttpFront(far.endpoint, () => 'pass');
      t.after(() => front.stop());
      const { AWS_REGION } = process.env;
      process.env.AWS_REGION = 'us-west-2';
      t.after(() => {
        if (AWS_REGION === undefined) delete process.env.AWS_REGION;
        else process.env.AWS_REGION = AWS_REGION;
      });
      const store = await subject.open({ endpoint: front.endpoint });
      if (first === 'stat') assert.equal(await store.stat('nothing', { signal }), undefined);
      if (first === 'list') assert.deepEqual(await collect(store.list('', { signal })), []);
      await Promise.all(['a', 'b', 'c'].map((key) => store.put(key, Buffer.from(key), { signal })));
      await subject.assertHas(store, 'a', Buffer.from('a'));
      assert.equal(subject.notices.length, 1);
      assert.match(subject.notices[0]?.message ?? '', /region=eu-test-7/);
      const puts = front.requests.filter((line) => line.startsWith('PUT'));
      assert.equal(puts.length, first === 'put' ? 6 : 3);
      const forced = await subject.open({ endpoint: front.endpoint, region: 'us-west-2' });
      const error = await failure(forced.read('a', { maxBytes: 10, signal }));
      assert.deepEqual([error.code, error.retryable], ['STORE_FAILED', false]);
      assert.match(error.hint ?? '', /region=eu-test-7/);
    });
  }

  test('a clock that is wrong is named, with how far it is off', async (t) => {
    for (const [hours, text] of [
      [-2, /clock is 12\d minutes slow/],
      [3, /clock is 1[78]\d minutes fast/],
    ] as const) {
      const store = await subject.open();
      t.mock.timers.enable({ apis: ['Date'], now: Date.now() + hours * 3_600_000 });
      const error = await failure(store.put('clock', Buffer.from('tick'), { signal }));
      assert.deepEqual([error.code, error.retryable], ['STORE_FAILED', true], error.message);
      assert.match(error.message, text);
      assert.match(error.hint ?? '', /set this machine's clock/);
      // The next attempt is signed for the store's time.
      await store.put('clock', Buffer.from('tick'), { signal });
      t.mock.timers.reset();
    }
  });

  test('names that are not presync’s are left out of listings', async () => {
    const odd = ['p/a+b', 'p/a b', 'p/a%2Fb', 'p/ä', 'p/a&b<c', "p/it's", 'p/zz/'];
    if (subject.name === 'minio') odd.push('p/line\u0001feed');
    for (const Key of odd)
      await subject.client.send(
        new sdk.PutObjectCommand({
          Bucket: subject.server.bucket,
          Key,
          Body: Key.endsWith('/') ? Buffer.alloc(0) : 'x',
        }),
      );
    const store = await subject.open();
    await store.put('zz/right', Buffer.from('x'), { signal });
    const keys: string[] = [];
    for await (const { key } of store.list('', { signal })) keys.push(key);
    assert.ok(keys.includes('zz/right'));
    assert.deepEqual(
      keys.filter((key) => !/^[\w./-]+$/.test(key)),
      [],
    );
    const prefixed = await subject.open({ prefix: 'with a+b &ä%' });
    await prefixed.put('key', Buffer.from('x'), { condition: { ifAbsent: true }, signal });
    const listed: string[] = [];
    for await (const { key } of prefixed.list('', { signal })) listed.push(key);
    assert.deepEqual(listed, ['key']);
    await prefixed.remove('key', { signal });
  });

  if (subject.name === 'minio') {
    test('SSE-S3 and SSE-KMS are asked for, on objects of every size', async () => {
      for (const [options, algorithm] of [
        [{ sse: 'AES256' }, 'AES256'],
        [{ sse: 'aws:kms', sseKmsKeyId: MINIO_KEY }, 'aws:kms'],
      ] as [Partial<S3StoreOptions>, string][]) {
        const store = await subject.open(options);
        const prefix = `sealed-${algorithm.replace(':', '-')}`;
        const small = randomBytes(1000);
        const large = await subject.file(2 * PART + 7);
        const { version } = await store.put(`${prefix}/small`, small, {
          condition: { ifAbsent: true },
          signal,
        });
        await store.put(`${prefix}/large`, large, { condition: { ifAbsent: true }, signal });
        for (const [key, bytes] of [
          [`${prefix}/small`, small],
          [`${prefix}/large`, large.bytes],
        ] as const) {
          await subject.assertHas(store, key, bytes);
          const range = { offset: 500, length: 200 };
          const part = await store.read(key, { range, maxBytes: 200, signal });
          assert.ok(bytes.subarray(500, 700).equals(part.bytes));
          const head = await metadata(key);
          assert.equal(head.ServerSideEncryption, algorithm);
          assert.equal(head.ContentLength, bytes.length);
          if (algorithm === 'aws:kms') assert.match(head.SSEKMSKeyId ?? '', new RegExp(`${MINIO_KEY}$`));
        }
        await store.put(`${prefix}/small`, Buffer.from('new'), { condition: { ifVersion: version }, signal });
      }
      const wrong = await subject.open({ sse: 'aws:kms', sseKmsKeyId: 'no-such-key' });
      const error = await failure(
        wrong.put('sealed', Buffer.from('x'), { condition: { ifAbsent: true }, signal }),
      );
      assert.equal(error.code, 'STORE_FAILED', error.message);
      assert.match(error.hint ?? '', /KMS key/);
    });
  }
});

describe('MinIO without keys', needs('minio', findMinio() !== undefined), () => {
  test('encryption that the server cannot do is not taken for want of conditional writes', async () => {
    const server = await startMinio({ kms: false });
    Object.assign(process.env, server.env);
    const store = await createS3Store({
      bucket: server.bucket,
      prefix: '',
      endpoint: server.endpoint,
      sse: 'AES256',
    });
    try {
      const error = await failure(
        store.put('key', Buffer.from('x'), { condition: { ifAbsent: true }, signal }),
      );
      assert.equal(error.code, 'STORE_FAILED', error.message);
      assert.match(error.hint ?? '', /take sse out of the store URL/);
    } finally {
      await store.close();
      await server.stop();
    }
  });
});
