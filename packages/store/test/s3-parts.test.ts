import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import type { ObjectStore, StoreNotice } from '@presync/store/object-store';
import { createS3Store } from '@presync/store/s3';
import {
  type Answer,
  failure,
  respond,
  type StandIn,
  startStandIn,
} from '../../../test/support/gcs-stand-in.ts';
import { partSize } from '../src/lib/s3-multipart.ts';

// What cannot be seen on a real server: parts that arrive after they were removed, as they may on AWS, and objects of terabytes.

const signal = AbortSignal.timeout(120_000);
const MIB = 1024 ** 2;
const XML = { 'content-type': 'application/xml' };

let server: StandIn;
let store: ObjectStore;
let notices: StoreNotice[] = [];
let dir = '';
let file = { path: '', size: 0 };

before(async () => {
  Object.assign(process.env, {
    AWS_ACCESS_KEY_ID: 'test',
    AWS_SECRET_ACCESS_KEY: 'test',
    AWS_EC2_METADATA_DISABLED: 'true',
  });
  server = await startStandIn();
  dir = await mkdtemp(join(tmpdir(), 'presync-s3-parts-'));
  file = { path: join(dir, 'body'), size: 6 * MIB };
  await writeFile(file.path, Buffer.alloc(file.size));
});

after(async () => {
  await store.close();
  await server.stop();
  await rm(dir, { recursive: true });
});

beforeEach(async () => {
  await store?.close();
  server.reset();
  notices = [];
  store = await createS3Store({
    bucket: 'bucket',
    prefix: 'p',
    endpoint: server.endpoint,
    multipartThreshold: 0,
    partSize: 5 * MIB,
    onNotice: (notice) => notices.push(notice),
  });
});

test('the parts of an object are few enough, of one size, and no smaller than was asked', () => {
  const TIB = 1024 ** 4;
  for (const [size, asked, expected] of [
    [6 * MIB, 5 * MIB, 5 * MIB],
    [10_000 * 16 * MIB, 16 * MIB, 16 * MIB],
    [10_000 * 16 * MIB + 1, 16 * MIB, 17 * MIB],
    [TIB, 16 * MIB, 105 * MIB],
    [5 * TIB, 16 * MIB, 525 * MIB],
  ] as const) {
    const length = partSize(size, asked);
    assert.equal(length, expected);
    assert.ok(Math.ceil(size / length) <= 10_000);
  }
});

test('what is larger than any object, or than a put without parts, is not begun', async () => {
  const huge = { path: file.path, size: 6 * 1024 ** 4 };
  server.answers = [gone];
  assert.equal((await failure(store.put('key', huge, { signal }))).code, 'OBJECT_TOO_LARGE');
  const whole = await createS3Store({
    bucket: 'bucket',
    prefix: 'p',
    endpoint: server.endpoint,
    multipart: false,
  });
  const error = await failure(whole.put('key', { ...file, size: 6 * 1024 ** 3 }, { signal }));
  assert.equal(error.code, 'OBJECT_TOO_LARGE');
  await whole.close();
  assert.deepEqual(server.requests, []);
});

const xml = (text: string): Answer => respond(200, XML, `<?xml version="1.0"?>${text}`);

/** What the server has for each kind of request. */
function serve(answers: { begin?: Answer; part: Answer; remove: Answer; list: () => Answer }): void {
  const begin =
    answers.begin ??
    xml('<InitiateMultipartUploadResult><UploadId>upload</UploadId></InitiateMultipartUploadResult>');
  server.answers = [
    (incoming, outgoing) => {
      const { method = '' } = incoming;
      const answer =
        method === 'GET'
          ? answers.list()
          : { POST: begin, PUT: answers.part, DELETE: answers.remove }[method];
      answer?.(incoming, outgoing);
    },
  ];
}

const none = xml('<ListPartsResult></ListPartsResult>');
const some = xml('<ListPartsResult><Part><PartNumber>1</PartNumber><Size>1</Size></Part></ListPartsResult>');
const gone = respond(204, {});
const removals = (): number => server.requests.filter(({ line }) => line.startsWith('DELETE')).length;

test('parts that arrive after the removal are removed, too', async () => {
  const controller = new AbortController();
  const lists = [none, some, none, none];
  serve({ part: () => controller.abort(), remove: gone, list: () => lists.shift() ?? none });
  const error = await failure(store.put('key', file, { signal: controller.signal }));
  assert.equal(error.code, 'ABORTED');
  assert.equal(removals(), 4);
  assert.deepEqual(notices, []);
});

test('where every request had its answer, one look is enough', async () => {
  serve({
    part: respond(403, XML, '<Error><Code>AccessDenied</Code></Error>'),
    remove: gone,
    list: () => none,
  });
  assert.equal((await failure(store.put('key', file, { signal }))).code, 'STORE_FORBIDDEN');
  assert.equal(removals(), 1);
  assert.deepEqual(notices, []);
});

test('parts that come again and again are told of', async () => {
  serve({
    part: respond(403, XML, '<Error><Code>AccessDenied</Code></Error>'),
    remove: gone,
    list: () => some,
  });
  assert.equal((await failure(store.put('key', file, { signal }))).code, 'STORE_FORBIDDEN');
  assert.deepEqual(
    notices.map(({ kind }) => kind),
    ['leftover'],
  );
});

test('an upload whose begin was under way when the put was stopped is removed', async () => {
  const controller = new AbortController();
  let begun: ServerResponse | undefined;
  serve({
    begin: (_, outgoing) => {
      begun = outgoing;
      controller.abort();
      setTimeout(() => {
        const text =
          '<?xml version="1.0"?><InitiateMultipartUploadResult><UploadId>upload</UploadId></InitiateMultipartUploadResult>';
        outgoing.writeHead(200, { ...XML, 'content-length': text.length }).end(text);
      }, 300);
    },
    part: gone,
    remove: gone,
    list: () => none,
  });
  const error = await failure(store.put('key', file, { signal: controller.signal }));
  assert.equal(error.code, 'ABORTED');
  assert.equal(removals(), 1);
  assert.ok(begun?.writableFinished);
});

test('the begin of an upload that never comes does not hold up a put that is stopped', async () => {
  const controller = new AbortController();
  serve({ begin: () => controller.abort(), part: gone, remove: gone, list: () => none });
  const began = performance.now();
  const error = await failure(store.put('key', file, { signal: controller.signal }));
  assert.equal(error.code, 'ABORTED');
  assert.ok(performance.now() - began < 10_000);
});
