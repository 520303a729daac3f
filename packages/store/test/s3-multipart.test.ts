import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { appendFile, truncate } from 'node:fs/promises';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import * as sdk from '@aws-sdk/client-s3';
import { isPresyncError } from '@presync/runtime/errors';
import { withRetry } from '@presync/store/with-retry';
import { failure } from '../../../test/support/gcs-stand-in.ts';
import type { Fate } from '../../../test/support/http-front.ts';
import { startForgetfulProxy } from '../../../test/support/s3-forgetful.ts';
import { MIB, onEachServer, outcomeOf, PART, refuse, signal } from './s3-subject.ts';

// Files that are put in parts, on every S3 server that can be run here.

onEachServer((subject) => {
  test('a large file goes up in parts, under its condition', async () => {
    const store = await subject.open();
    const first = await subject.file(3 * PART + 5);
    const second = await subject.file(2 * PART);
    const { version } = await store.put('parts', first, { condition: { ifAbsent: true }, signal });
    assert.match(version, /-4"$/);
    await subject.assertHas(store, 'parts', first.bytes);
    const again = store.put('parts', second, { condition: { ifAbsent: true }, signal });
    assert.equal((await failure(again)).code, 'CONDITION_FAILED');
    const replaced = await store.put('parts', second, { condition: { ifVersion: version }, signal });
    await subject.assertHas(store, 'parts', second.bytes);
    const late = store.put('parts', first, { condition: { ifVersion: version }, signal });
    assert.equal((await failure(late)).code, 'CONDITION_FAILED');
    const missing = store.put('none', first, { condition: { ifVersion: version }, signal });
    assert.equal((await failure(missing)).code, 'CONDITION_FAILED');
    assert.equal((await store.stat('parts', { signal }))?.version, replaced.version);
    assert.equal(await store.stat('none', { signal }), undefined);
    assert.deepEqual(subject.notices, []);
    await subject.assertNoUploads();
  });

  test('the condition is that of the completion, not of a look before', async () => {
    const theirs = Buffer.from('theirs');
    const store = await subject.open();
    const other = await subject.open();
    const body = await subject.file(2 * PART);
    const front = await subject.through(async (line): Promise<Fate> => {
      // Another writer comes while the parts are on their way.
      if (/^POST .*uploadId=/.test(line)) await other.put('raced', theirs, { signal });
      return 'pass';
    });
    const slow = await subject.open({ endpoint: front.endpoint, multipart: true });
    assert.equal(
      (await failure(slow.put('raced', body, { condition: { ifAbsent: true }, signal }))).code,
      'CONDITION_FAILED',
    );
    await subject.assertHas(store, 'raced', theirs);
    await subject.assertNoUploads();
  });

  test('of many files for one new key one wins, whole', async () => {
    const store = withRetry(await subject.open());
    const files = await Promise.all(Array.from({ length: 6 }, () => subject.file(PART + MIB)));
    const outcomes = await Promise.all(
      files.map((body) =>
        store.put('race', body, { condition: { ifAbsent: true }, signal }).then(
          () => 'won',
          (error: unknown) => (isPresyncError(error) ? error.code : error),
        ),
      ),
    );
    const winner = outcomes.indexOf('won');
    assert.deepEqual(
      outcomes.filter((_, index) => index !== winner),
      Array(5).fill('CONDITION_FAILED'),
    );
    await subject.assertHas(store, 'race', files[winner]?.bytes ?? Buffer.alloc(0));
    await subject.assertNoUploads();
  });

  test('a put in parts that is stopped leaves nothing', async () => {
    const body = await subject.file(6 * PART);
    for (const [stage, pattern] of [
      ['begins', /^POST .*[?&]uploads/],
      ['sends', /partNumber=2/],
      ['ends', /^POST .*uploadId=/],
    ] as const) {
      const controller = new AbortController();
      const front = await subject.through((line) => {
        if (pattern.test(line)) controller.abort();
        return 'pass';
      });
      const store = await subject.open({ endpoint: front.endpoint });
      const put = store.put('stopped', body, { signal: controller.signal });
      const outcome = await outcomeOf(put);
      if (stage !== 'ends') {
        assert.equal(outcome, 'ABORTED', stage);
        assert.equal(await (await subject.open()).stat('stopped', { signal }), undefined, stage);
      }
      await subject.assertNoUploads();
    }
    assert.deepEqual(subject.notices, []);
  });

  test('a part that arrives after the removal is removed, too', async () => {
    const body = await subject.file(2 * PART);
    const controller = new AbortController();
    const late: Fate = { late: 500, onBody: () => controller.abort() };
    const front = await subject.through((line) => (line.includes('partNumber=2') ? late : 'pass'));
    const store = await subject.open({ endpoint: front.endpoint, multipart: true });
    const put = store.put('late', body, { signal: controller.signal });
    assert.equal(await outcomeOf(put), 'ABORTED');
    // It has come by now.
    await delay(1000);
    assert.deepEqual(subject.notices, []);
    await subject.assertNoUploads();
  });

  test('a put in parts that fails leaves nothing', async () => {
    const body = await subject.file(3 * PART);
    for (const [pattern, fate, code, retryable] of [
      [/partNumber=2/, refuse(403, 'AccessDenied'), 'STORE_FORBIDDEN', false],
      [/partNumber=3/, refuse(400, 'EntityTooSmall'), 'STORE_FAILED', false],
      [/^POST .*uploadId=/, refuse(409, 'ConditionalRequestConflict'), 'STORE_FAILED', true],
      // S3 may begin an answer before it knows how the completion ends.
      [/^POST .*uploadId=/, refuse(200, 'InternalError'), 'STORE_FAILED', true],
      [/^POST .*uploadId=/, refuse(200, 'PreconditionFailed'), 'CONDITION_FAILED', false],
      [/^POST .*uploadId=/, (_, outgoing) => outgoing.writeHead(200).end(), 'STORE_FAILED', true],
      [
        /^POST .*uploadId=/,
        (_, outgoing) => outgoing.writeHead(200).end('<?xml version="1.0"?><Nothing/>\n'),
        'STORE_FAILED',
        true,
      ],
    ] as [RegExp, Fate, string, boolean][]) {
      const front = await subject.through((line) => (pattern.test(line) ? fate : 'pass'));
      const store = await subject.open({ endpoint: front.endpoint, multipart: true });
      const error = await failure(store.put('failed', body, { condition: { ifAbsent: true }, signal }));
      assert.deepEqual([error.code, error.retryable], [code, retryable], error.message);
      assert.equal(await store.stat('failed', { signal }), undefined);
      await subject.assertNoUploads();
    }
    assert.deepEqual(subject.notices, []);
  });

  test('parts that cannot be removed are told of', async () => {
    const body = await subject.file(2 * PART);
    const refused = refuse(403, 'AccessDenied');
    const front = await subject.through((line) => (/partNumber=2|^DELETE/.test(line) ? refused : 'pass'));
    const store = await subject.open({ endpoint: front.endpoint, multipart: true });
    await failure(store.put('leftover', body, { signal }));
    assert.deepEqual(
      subject.notices.map(({ kind }) => kind),
      ['leftover'],
    );
    assert.match(subject.notices[0]?.message ?? '', /parts of leftover .*AbortIncompleteMultipartUpload/);
    const { Uploads = [] } = await subject.client.send(
      new sdk.ListMultipartUploadsCommand({ Bucket: subject.server.bucket }),
    );
    for (const { Key, UploadId } of Uploads)
      await subject.client.send(
        new sdk.AbortMultipartUploadCommand({ Bucket: subject.server.bucket, Key, UploadId }),
      );
  });

  test('a part that fails is sent again by itself', async () => {
    const body = await subject.file(4 * PART);
    let cut = 0;
    const front = await subject.through((line) => {
      if (!/partNumber=/.test(line) || cut >= 6) return 'pass';
      cut++;
      return cut % 2 === 0 ? 'lose the answer' : (incoming) => incoming.socket.resetAndDestroy();
    });
    const store = await subject.open({ endpoint: front.endpoint, multipart: true });
    await store.put('patched', body, { condition: { ifAbsent: true }, signal });
    assert.equal(cut, 6);
    await subject.assertHas(store, 'patched', body.bytes);
    await subject.assertNoUploads();
  });

  test('a completion whose answer is lost is not taken for the work of somebody else', async () => {
    const body = await subject.file(2 * PART);
    for (const condition of [{ ifAbsent: true } as const, undefined]) {
      let lost = 0;
      const front = await subject.through((line) =>
        /^POST .*uploadId=/.test(line) && lost++ === 0 ? 'lose the answer' : 'pass',
      );
      const store = withRetry(await subject.open({ endpoint: front.endpoint, multipart: true }));
      const key = `lost-${condition === undefined ? 'any' : 'absent'}`;
      const { version } = await store.put(key, body, { condition, signal });
      assert.equal((await store.stat(key, { signal }))?.version, version);
      assert.ok(lost >= 1);
      await subject.assertHas(store, key, body.bytes);
      await subject.assertNoUploads();
    }
  });

  test('a create-only put whose answer is lost is not taken for the work of somebody else', async () => {
    let lost = 0;
    const front = await subject.through((line) =>
      line.startsWith('PUT') && lost++ === 0 ? 'lose the answer' : 'pass',
    );
    const store = withRetry(await subject.open({ endpoint: front.endpoint }));
    const mine = Buffer.from('mine');
    const { version } = await store.put('lost', mine, { condition: { ifAbsent: true }, signal });
    // What is there is looked at before it is sent again.
    assert.equal(lost, 1);
    assert.equal((await store.stat('lost', { signal }))?.version, version);
    lost = 0;
    const other = store.put('lost', Buffer.from('them'), { condition: { ifAbsent: true }, signal });
    assert.equal((await failure(other)).code, 'CONDITION_FAILED');
    await subject.assertHas(store, 'lost', mine);
  });

  test('a put that is refused before its body was read is a lost condition', async () => {
    const store = withRetry(await subject.open(), { attempts: 3 });
    const theirs = randomBytes(8 * MIB);
    await store.put('refused', theirs, { signal });
    const mine = randomBytes(8 * MIB);
    for (let round = 0; round < 10; round++) {
      const put = store.put('refused', mine, { condition: { ifAbsent: true }, signal });
      assert.equal((await failure(put)).code, 'CONDITION_FAILED');
    }
    await subject.assertHas(store, 'refused', theirs);
  });

  test('a file that changes during its put is no object', async () => {
    for (const change of [
      (path: string) => appendFile(path, 'more'),
      (path: string) => truncate(path, PART + 5),
    ]) {
      const body = await subject.file(3 * PART);
      let changed: Promise<void> | undefined;
      const front = await subject.through((line) => {
        if (/[?&]uploads/.test(line)) changed ??= change(body.path);
        return 'pass';
      });
      const store = await subject.open({ endpoint: front.endpoint, multipart: true });
      const error = await failure(store.put('changed', body, { signal }));
      assert.equal(error.code, 'IO_FAILED', error.message);
      await changed;
      assert.equal(await store.stat('changed', { signal }), undefined);
      await subject.assertNoUploads();
    }
  });

  test('a body that is damaged on its way is refused, and a part is sent again', async () => {
    const body = await subject.file(3 * PART);
    const small = await subject.file(PART);
    let damaged = 0;
    const front = await subject.through((line) =>
      line.startsWith('PUT') && damaged++ === 0 ? 'damage' : 'pass',
    );
    const store = await subject.open({ endpoint: front.endpoint, multipart: true });
    await store.put('repaired', body, { condition: { ifAbsent: true }, signal });
    assert.equal(damaged, 4);
    await subject.assertHas(store, 'repaired', body.bytes);
    for (const whole of [small, small.bytes]) {
      damaged = 0;
      const error = await failure(store.put('whole', whole, { signal }));
      assert.deepEqual([error.code, error.retryable], ['STORE_FAILED', true], error.message);
      assert.equal(await store.stat('whole', { signal }), undefined);
    }
    await subject.assertNoUploads();
  });

  test('a file of any size takes little memory', async () => {
    const body = await subject.file(200 * MIB);
    body.bytes = Buffer.alloc(0);
    globalThis.gc?.();
    const began = process.memoryUsage().arrayBuffers;
    let most = 0;
    const timer = setInterval(() => {
      most = Math.max(most, process.memoryUsage().arrayBuffers - began);
    }, 5);
    const store = await subject.open({ multipart: true, partSize: 50 * MIB });
    await store.put('large', body, { signal });
    clearInterval(timer);
    // Four parts that were held would be 200 MiB.
    assert.ok(most < 96 * MIB, `${Math.round(most / MIB)} MiB`);
    assert.equal((await store.stat('large', { signal }))?.size, body.size);
    await store.remove('large', { signal });
  });

  test('a server that ignores conditions on completions gets one put', async () => {
    const forgetful = await startForgetfulProxy(subject.server, ['POST']);
    try {
      const store = withRetry(await subject.open({ endpoint: forgetful.endpoint }));
      const body = await subject.file(2 * PART);
      const { version } = await store.put('single', body, { condition: { ifAbsent: true }, signal });
      assert.doesNotMatch(version, /-\d+"$/);
      await subject.assertHas(store, 'single', body.bytes);
      const again = store.put('single', await subject.file(2 * PART), {
        condition: { ifAbsent: true },
        signal,
      });
      assert.equal((await failure(again)).code, 'CONDITION_FAILED');
      await subject.assertHas(store, 'single', body.bytes);
      assert.deepEqual(
        subject.notices.map(({ kind }) => kind),
        ['settings'],
      );
      assert.match(subject.notices[0]?.message ?? '', /conditions do not hold for multipart uploads/);
      const plain = await store.put('plain', body, { signal });
      assert.match(plain.version, /-2"$/);
      await subject.assertNoUploads();
    } finally {
      await forgetful.stop();
    }
  });

  test('checksums that are asked for are sent and kept', async () => {
    const store = await subject.open({ checksum: true });
    const bytes = randomBytes(1000);
    await store.put('sum', bytes, { condition: { ifAbsent: true }, signal });
    const body = await subject.file(2 * PART + 1);
    await store.put('sums', body, { condition: { ifAbsent: true }, signal });
    await subject.assertHas(store, 'sums', body.bytes);
    const { ChecksumSHA256 } = await subject.client.send(
      new sdk.HeadObjectCommand({ Bucket: subject.server.bucket, Key: 'p/sum', ChecksumMode: 'ENABLED' }),
    );
    assert.equal(ChecksumSHA256, createHash('sha256').update(bytes).digest('base64'));
  });
});
