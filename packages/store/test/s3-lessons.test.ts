import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import type { ObjectStore, StoreNotice } from '@presync/store/object-store';
import { createS3Store, type S3StoreOptions } from '@presync/store/s3';
import { collect } from '../../../test/support/collect.ts';
import {
  type Answer,
  failure,
  respond,
  type StandIn,
  startStandIn,
} from '../../../test/support/gcs-stand-in.ts';
import { needs } from '../../../test/support/needs.ts';
import { findS3Server, startS3Server } from '../../../test/support/s3-server.ts';

// What is learnt from refusals that the servers of these tests do not give; the answers are those that other servers are known for.

const signal = AbortSignal.timeout(120_000);
const ETAG = '"0123456789abcdef0123456789abcdef"';
const environment = { ...process.env };

let server: StandIn;
let stores: ObjectStore[] = [];
let notices: StoreNotice[] = [];

before(async () => {
  server = await startStandIn();
});

after(async () => {
  for (const store of stores) await store.close();
  await server.stop();
});

beforeEach(async () => {
  for (const store of stores) await store.close();
  stores = [];
  notices = [];
  server.reset();
  for (const name of Object.keys(process.env)) delete process.env[name];
  Object.assign(process.env, environment, {
    AWS_ACCESS_KEY_ID: 'test',
    AWS_SECRET_ACCESS_KEY: 'test',
    AWS_EC2_METADATA_DISABLED: 'true',
    AWS_CONFIG_FILE: '/none',
    AWS_SHARED_CREDENTIALS_FILE: '/none',
  });
  for (const name of [
    'AWS_REGION',
    'AWS_PROFILE',
    'HTTP_PROXY',
    'HTTPS_PROXY',
    'NO_PROXY',
    'http_proxy',
    'no_proxy',
  ])
    delete process.env[name];
});

async function open(options: Partial<S3StoreOptions> = {}): Promise<ObjectStore> {
  const store = await createS3Store({
    bucket: 'bucket',
    prefix: 'p',
    endpoint: server.endpoint,
    onNotice: (notice) => notices.push(notice),
    ...options,
  });
  stores.push(store);
  return store;
}

function refuse(status: number, code: string, more = '', headers: Record<string, string> = {}): Answer {
  const body = `<?xml version="1.0"?><Error><Code>${code}</Code><Message>as told</Message>${more}</Error>`;
  return respond(status, { 'content-type': 'application/xml', ...headers }, body);
}

function says(status: number, code: string, message: string): Answer {
  return respond(
    status,
    { 'content-type': 'application/xml' },
    `<?xml version="1.0"?><Error><Code>${code}</Code><Message>${message}</Message></Error>`,
  );
}

const stored = respond(200, { etag: ETAG }, '');
const empty = respond(
  200,
  { 'content-type': 'application/xml' },
  '<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>',
);

/** Takes requests that are signed for the region, and has this for others. */
function onlyIn(region: string, other: Answer): Answer {
  return (incoming, outgoing) => {
    const right = incoming.headers.authorization?.includes(`/${region}/s3/`);
    (right ? (incoming.method === 'GET' ? empty : stored) : other)(incoming, outgoing);
  };
}

const put = (store: ObjectStore): Promise<unknown> => store.put('key', Buffer.from('body'), { signal });

for (const [name, other] of [
  ['in the body', refuse(400, 'AuthorizationHeaderMalformed', '<Region>eu-far-9</Region>')],
  [
    'in a header',
    refuse(301, 'PermanentRedirect', '<Endpoint>elsewhere</Endpoint>', { 'x-amz-bucket-region': 'eu-far-9' }),
  ],
  [
    'in its message',
    says(
      400,
      'AuthorizationHeaderMalformed',
      "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-far-9'",
    ),
  ],
] as const) {
  test(`a region that a server names ${name} is taken`, async () => {
    server.answers = [onlyIn('eu-far-9', other)];
    const store = await open();
    await put(store);
    await put(store);
    assert.equal(server.requests.length, 3);
    assert.match(notices[0]?.message ?? '', /region=eu-far-9/);
    assert.equal(notices.length, 1);
  });
}

test('of the regions that a server lists, auto is taken', async () => {
  process.env.AWS_REGION = 'eu-west-1';
  const other = says(
    400,
    'InvalidRegionName',
    "The region name 'eu-west-1' is not valid. Must be one of: wnam, enam, weur, eeur, apac, auto",
  );
  server.answers = [onlyIn('auto', other)];
  await put(await open());
  assert.match(notices[0]?.message ?? '', /region=auto/);
});

test('a region that is none is not taken, nor one again and again', async () => {
  server.answers = [refuse(400, 'AuthorizationHeaderMalformed', '<Region>evil.example/x</Region>')];
  assert.equal((await failure(put(await open()))).code, 'STORE_FAILED');
  assert.equal(server.requests.length, 1);
  assert.deepEqual(notices, []);
  server.reset();
  let round = 0;
  server.answers = [
    (incoming, outgoing) =>
      refuse(400, 'AuthorizationHeaderMalformed', `<Region>region-${round++}</Region>`)(incoming, outgoing),
  ];
  assert.equal((await failure(put(await open()))).code, 'STORE_FAILED');
  assert.ok(server.requests.length <= 6, `${server.requests.length} requests`);
});

test('the answer to a HEAD that does not say why is looked into', async () => {
  const mute: Answer = (incoming, outgoing) =>
    incoming.method === 'HEAD'
      ? onlyIn('eu-far-9', respond(400, {}))(incoming, outgoing)
      : onlyIn('eu-far-9', refuse(400, 'AuthorizationHeaderMalformed', '<Region>eu-far-9</Region>'))(
          incoming,
          outgoing,
        );
  const sized: Answer = (incoming, outgoing) =>
    incoming.method === 'HEAD' && incoming.headers.authorization?.includes('/eu-far-9/')
      ? respond(200, { etag: ETAG, 'content-length': 5 })(incoming, outgoing)
      : mute(incoming, outgoing);
  server.answers = [sized];
  const store = await open();
  assert.equal((await store.stat('key', { signal }))?.size, 5);
});

test('a HEAD whose answer names the region in a header needs no look', async () => {
  for (const status of [301, 400]) {
    server.reset();
    const other = respond(status, { 'x-amz-bucket-region': 'eu-far-9' });
    server.answers = [
      (incoming, outgoing) =>
        (incoming.headers.authorization?.includes('/eu-far-9/')
          ? respond(200, { etag: ETAG, 'content-length': 5 })
          : other)(incoming, outgoing),
    ];
    assert.equal((await (await open()).stat('key', { signal }))?.size, 5);
    assert.deepEqual(
      server.requests.map(({ line }) => line.split(' ')[0]),
      ['HEAD', 'HEAD'],
    );
  }
});

test('a checksum that the bucket wants is sent from then on', async () => {
  const wants: Answer = (incoming, outgoing) =>
    (incoming.method === 'PUT' && incoming.headers['x-amz-checksum-sha256'] === undefined
      ? says(
          400,
          'InvalidRequest',
          'Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters',
        )
      : stored)(incoming, outgoing);
  server.answers = [wants];
  const store = await open();
  await put(store);
  await put(store);
  assert.equal(server.requests.length, 3);
  assert.match(notices[0]?.message ?? '', /SHA-256/);
  const never = await open({ checksum: false });
  assert.equal((await failure(put(never))).code, 'STORE_FAILED');
});

test('a checksum that is wanted of the first part begins the upload anew', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'presync-s3-lessons-'));
  const path = join(dir, 'body');
  const size = 11 * 1024 ** 2;
  await writeFile(path, randomBytes(size));
  let uploads = 0;
  let aborted = 0;
  const xml = (text: string): Answer =>
    respond(200, { 'content-type': 'application/xml' }, `<?xml version="1.0"?>${text}`);
  server.answers = [
    (incoming, outgoing) => {
      const { method, url = '', headers } = incoming;
      let answer = stored;
      if (method === 'POST' && /[?&]uploads/.test(url)) {
        const announced = headers['x-amz-checksum-algorithm'] === 'SHA256';
        uploads++;
        answer = xml(
          `<InitiateMultipartUploadResult><UploadId>${announced ? 'sums' : 'plain'}</UploadId></InitiateMultipartUploadResult>`,
        );
      } else if (method === 'PUT' && url.includes('uploadId=plain')) {
        answer = says(
          400,
          'InvalidRequest',
          'Content-MD5 OR x-amz-checksum- HTTP header is required for Put Part requests with Object Lock parameters',
        );
      } else if (method === 'PUT') {
        answer = headers['x-amz-checksum-sha256'] === undefined ? refuse(400, 'InvalidRequest') : stored;
      } else if (method === 'DELETE') {
        aborted++;
        answer = respond(204, {});
      } else if (method === 'GET') {
        answer = refuse(404, 'NoSuchUpload');
      } else if (method === 'POST') {
        answer = xml(`<CompleteMultipartUploadResult><ETag>${ETAG}</ETag></CompleteMultipartUploadResult>`);
      }
      answer(incoming, outgoing);
    },
  ];
  const store = await open({ multipartThreshold: 0 });
  assert.deepEqual(await store.put('key', { path, size }, { signal }), { version: ETAG });
  assert.deepEqual([uploads, aborted], [2, 1]);
  const completed = server.requests.find(({ line }) => /^POST .*uploadId=sums/.test(line));
  assert.match(completed?.body.toString() ?? '', /<ChecksumSHA256>/);
  await rm(dir, { recursive: true });
});

test('what is not implemented is told apart', async () => {
  const create = (store: ObjectStore): Promise<unknown> =>
    store.put('key', Buffer.from('x'), { condition: { ifAbsent: true }, signal });
  for (const [answer, options, code] of [
    [refuse(501, 'NotImplemented'), {}, 'STORE_NO_CONDITIONAL_WRITES'],
    [
      refuse(501, 'NotImplemented', '<Header>If-None-Match</Header>'),
      { sse: 'AES256' },
      'STORE_NO_CONDITIONAL_WRITES',
    ],
    [refuse(501, 'NotImplemented', '<Header>x-amz-tagging</Header>'), { tags: { a: 'b' } }, 'STORE_FAILED'],
    [
      says(501, 'NotImplemented', 'Server side encryption specified but KMS is not configured'),
      { sse: 'AES256' },
      'STORE_FAILED',
    ],
  ] as [Answer, Partial<S3StoreOptions>, string][]) {
    server.answers = [answer];
    const error = await failure(create(await open(options)));
    assert.equal(error.code, code, error.message);
    if (code === 'STORE_FAILED') assert.match(error.hint ?? '', /take (?:sse|tags) out of the store URL/);
  }
});

test('a 403 says which right is missing', async () => {
  const read = (store: ObjectStore): Promise<unknown> => store.read('key', { maxBytes: 10, signal });
  const stat = (store: ObjectStore): Promise<unknown> => store.stat('key', { signal });
  const listing = (incoming: { url?: string | undefined }): boolean =>
    incoming.url?.includes('list-type=2') === true;
  for (const call of [read, stat]) {
    server.answers = [
      (incoming, outgoing) => (listing(incoming) ? empty : refuse(403, 'AccessDenied'))(incoming, outgoing),
    ];
    const unread = await failure(call(await open()));
    assert.equal(unread.code, 'STORE_FORBIDDEN');
    assert.match(unread.hint ?? '', /grant s3:GetObject: listing is allowed/);
    server.answers = [refuse(403, 'AccessDenied')];
    const neither = await failure(call(await open()));
    assert.equal(neither.code, 'STORE_FORBIDDEN');
    assert.match(neither.hint ?? '', /s3:ListBucket.*listing is refused, too.*requesterPays=1/);
    server.answers = [
      (incoming, outgoing) =>
        (listing(incoming) ? refuse(403, 'InvalidAccessKeyId') : respond(403, {}))(incoming, outgoing),
    ];
    if (call === stat) assert.match((await failure(call(await open()))).message, /InvalidAccessKeyId/);
    server.answers = [
      (incoming, outgoing) =>
        (listing(incoming) ? refuse(503, 'SlowDown') : refuse(403, 'AccessDenied'))(incoming, outgoing),
    ];
    assert.equal((await failure(call(await open()))).code, 'STORE_FORBIDDEN');
  }
  const tagged = await open({ tags: { a: 'b' } });
  server.answers = [refuse(403, 'AccessDenied')];
  assert.match((await failure(put(tagged))).hint ?? '', /s3:PutObjectTagging/);
  server.answers = [says(403, 'AccessDenied', 'not authorized to perform: kms:GenerateDataKey on resource')];
  const sealed = await failure(put(await open({ sse: 'aws:kms' })));
  assert.equal(sealed.code, 'STORE_FORBIDDEN');
  assert.match(sealed.hint ?? '', /kms:Decrypt/);
});

test('who pays is said in every request', async () => {
  server.answers = [
    (incoming, outgoing) =>
      (incoming.method === 'HEAD'
        ? respond(200, { etag: ETAG, 'content-length': 5 })
        : incoming.url?.includes('list-type=2')
          ? empty
          : respond(200, { etag: ETAG }, 'body'))(incoming, outgoing),
  ];
  const store = await open({ requesterPays: true });
  await put(store);
  await store.stat('key', { signal });
  await store.read('key', { maxBytes: 10, signal });
  await store.remove('key', { signal });
  await collect(store.list('', { signal }));
  assert.deepEqual(
    server.requests.map(({ headers }) => headers['x-amz-request-payer']),
    Array(5).fill('requester'),
  );
});

test('encryption is asked for as the options say, and only where an object is made', async () => {
  server.answers = [stored];
  const store = await open({
    sse: 'aws:kms',
    sseKmsKeyId: 'arn:aws:kms:eu-central-1:1:key/1',
    bucketKey: true,
  });
  await put(store);
  const { headers = {} } = server.requests[0] ?? {};
  assert.equal(headers['x-amz-server-side-encryption'], 'aws:kms');
  assert.equal(headers['x-amz-server-side-encryption-aws-kms-key-id'], 'arn:aws:kms:eu-central-1:1:key/1');
  assert.equal(headers['x-amz-server-side-encryption-bucket-key-enabled'], 'true');
});

test('names that a listing has in URL encoding are decoded, also where it only says so', async () => {
  const listing = (...keys: string[]): Answer =>
    respond(
      200,
      { 'content-type': 'application/xml' },
      `<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>${keys
        .map((key) => `<Contents><Key>${key}</Key><Size>1</Size><ETag>${ETAG.slice(1, -1)}</ETag></Contents>`)
        .join('')}</ListBucketResult>`,
    );
  const store = await open({ prefix: 'a b+c' });
  for (const root of ['a+b%2Bc/', 'a%20b%2Bc%2F', 'a b+c/']) {
    server.answers = [listing(`${root}%01odd`, `${root}key`, `${root}zz+z`)];
    const [found, ...more] = await collect(store.list('', { signal }));
    assert.deepEqual(found, { key: 'key', size: 1, version: ETAG });
    assert.deepEqual(more, []);
  }
  assert.match(server.requests[0]?.line ?? '', /encoding-type=url/);
  server.answers = [listing('elsewhere/key')];
  assert.equal((await failure(collect(store.list('', { signal })))).code, 'STORE_FAILED');
});

test('no other refusal sends the bucket to another host', async (t) => {
  const hosts: string[] = [];
  let refusal: Answer = refuse(404, 'NoSuchBucket');
  const proxy = createServer((incoming, outgoing) => {
    hosts.push(new URL(incoming.url ?? '').hostname);
    refusal(incoming, outgoing);
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    proxy.closeAllConnections();
    proxy.close();
  });
  const address = proxy.address();
  assert.ok(address !== null && typeof address === 'object');
  process.env.HTTP_PROXY = `http://127.0.0.1:${address.port}`;
  const store = await open({ endpoint: 'http://s3.example.com' });
  for (const answer of [
    refuse(404, 'NoSuchBucket'),
    refuse(400, 'InvalidRequest'),
    refuse(403, 'AccessDenied'),
    refuse(405, 'MethodNotAllowed'),
    refuse(503, 'SlowDown'),
  ]) {
    refusal = answer;
    await failure(put(store));
  }
  assert.deepEqual([...new Set(hosts)], ['s3.example.com']);
});

const DOMAIN = 's3.presync.test';

for (const refusal of [
  'SecondLevelDomainForbidden',
  'PathStyleDomainForbidden',
  'InvalidPathAccess',
  'VirtualHostDomainRequired',
]) {
  test(
    `a server that answers ${refusal} gets the bucket in the host name`,
    needs('versitygw', findS3Server() !== undefined),
    async (t) => {
      const real = await startS3Server({ domain: DOMAIN });
      t.after(() => real.stop());
      Object.assign(process.env, real.env);
      const upstream = new URL(real.endpoint);
      const hosts: string[] = [];
      // Of a proxy no name has to be known: it is told the host, and hands it on.
      const proxy = createServer((incoming, outgoing) => {
        const url = new URL(incoming.url ?? '');
        hosts.push(url.hostname);
        if (url.hostname === DOMAIN) {
          incoming.resume();
          const text = `<?xml version="1.0"?><Error><Code>${refusal}</Code><Message>no</Message></Error>`;
          outgoing.writeHead(403, { 'content-length': text.length });
          outgoing.end(incoming.method === 'HEAD' ? undefined : text);
          return;
        }
        const sent = request(
          {
            host: upstream.hostname,
            port: upstream.port,
            method: incoming.method,
            path: url.pathname + url.search,
            headers: incoming.headers,
            agent: false,
          },
          (answer) => {
            outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
            answer.pipe(outgoing);
          },
        );
        incoming.pipe(sent);
      });
      await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
      t.after(() => {
        proxy.closeAllConnections();
        proxy.close();
      });
      const address = proxy.address();
      assert.ok(address !== null && typeof address === 'object');
      process.env.HTTP_PROXY = `http://127.0.0.1:${address.port}`;
      for (const first of ['stat', 'put', 'list'] as const) {
        notices = [];
        const store = await open({ endpoint: `http://${DOMAIN}`, bucket: real.bucket, prefix: first });
        if (first === 'stat') assert.equal(await store.stat('key', { signal }), undefined);
        if (first === 'list') assert.deepEqual(await collect(store.list('', { signal })), []);
        await put(store);
        assert.equal((await store.stat('key', { signal }))?.size, 4, first);
        assert.match(notices[0]?.message ?? '', /pathStyle=0/);
        hosts.length = 0;
        await store.read('key', { maxBytes: 10, signal });
        assert.deepEqual(hosts, [`${real.bucket}.${DOMAIN}`]);
      }
      const forced = await open({ endpoint: `http://${DOMAIN}`, bucket: real.bucket, pathStyle: true });
      hosts.length = 0;
      assert.equal((await failure(put(forced))).code, 'STORE_FORBIDDEN');
      assert.deepEqual(hosts, [DOMAIN]);
    },
  );
}
