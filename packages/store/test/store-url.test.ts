import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isPresyncError, type PresyncError } from '@presync/runtime/errors';
import { openStore } from '@presync/store/open';
import { parseStoreUrl } from '@presync/store/store-url';
import fc from 'fast-check';

function refusal(url: string): PresyncError {
  try {
    parseStoreUrl(url);
  } catch (error) {
    assert.ok(isPresyncError(error, 'STORE_URL_INVALID'), `${url}: ${String(error)}`);
    return error;
  }
  return assert.fail(`${url} was taken`);
}

test('file URLs name a folder', () => {
  assert.deepEqual(parseStoreUrl('file:///srv/snapshots/'), { kind: 'file', dir: '/srv/snapshots' });
  assert.deepEqual(parseStoreUrl('file:///a%20b/%C3%A4'), { kind: 'file', dir: '/a b/ä' });
  assert.deepEqual(parseStoreUrl('file:///a/../b'), { kind: 'file', dir: '/b' });
  for (const url of [
    'file:srv',
    'file://host/srv',
    'file:///',
    'file:///a%2Fb',
    'file:///a?x=1',
    'file:///a#b',
    'file:///a%00',
  ]) {
    refusal(url);
  }
});

test('S3 URLs name a bucket, a prefix and options', () => {
  const writes = {
    checksum: undefined,
    multipart: undefined,
    multipartThreshold: undefined,
    partSize: undefined,
    sse: undefined,
    sseKmsKeyId: undefined,
    bucketKey: undefined,
    storageClass: undefined,
    tags: undefined,
    requesterPays: undefined,
  };
  const plain = {
    ...{ region: undefined, endpoint: undefined, pathStyle: undefined },
    ...{ maxConnections: undefined, stallMs: undefined },
    ...writes,
  };
  assert.deepEqual(parseStoreUrl('s3://bucket'), { kind: 's3', bucket: 'bucket', prefix: '', ...plain });
  assert.deepEqual(parseStoreUrl('s3://bucket/a/b/'), {
    kind: 's3',
    bucket: 'bucket',
    prefix: 'a/b',
    ...plain,
  });
  assert.deepEqual(
    parseStoreUrl(
      's3://my.bucket/p?region=eu-west-1&endpoint=http://127.0.0.1:9000/&pathStyle=1&maxConnections=64&stallSeconds=0.25',
    ),
    {
      kind: 's3',
      bucket: 'my.bucket',
      prefix: 'p',
      region: 'eu-west-1',
      endpoint: 'http://127.0.0.1:9000',
      pathStyle: true,
      maxConnections: 64,
      stallMs: 250,
      ...writes,
    },
  );
  for (const url of [
    's3://',
    's3:///prefix',
    's3://bucket:9000/x',
    's3://b/x',
    's3://bucket/a//b',
    's3://bucket/%2e%2e/x%2f..',
    's3://bucket?pathStyle=yes',
    's3://bucket?endpoint=ftp://host',
    's3://bucket?endpoint=host',
    's3://bucket?maxConnections=0',
    's3://bucket?maxConnections=9999',
    's3://bucket?stallSeconds=0',
    's3://bucket?stallSeconds=601',
    's3://bucket?stallSeconds=1e2',
    's3://bucket?region=a&region=b',
    's3://bucket?region=EU%20west',
    's3://bucket#x',
  ]) {
    refusal(url);
  }
});

test('S3 URLs say how objects are written', () => {
  const url = parseStoreUrl(
    's3://bucket?checksum=0&multipart=1&multipartThreshold=100MB&partSize=8MiB&sse=aws:kms&sseKmsKeyId=arn:aws:kms:eu-central-1:1:key/ab-1&bucketKey=1&storageClass=STANDARD_IA&tags=team=nodes,a%20b=x%2By=z&requesterPays=1',
  );
  assert.deepEqual(url, {
    kind: 's3',
    bucket: 'bucket',
    prefix: '',
    region: undefined,
    endpoint: undefined,
    pathStyle: undefined,
    maxConnections: undefined,
    stallMs: undefined,
    checksum: false,
    multipart: true,
    multipartThreshold: 100_000_000,
    partSize: 8 * 1024 ** 2,
    sse: 'aws:kms',
    sseKmsKeyId: 'arn:aws:kms:eu-central-1:1:key/ab-1',
    bucketKey: true,
    storageClass: 'STANDARD_IA',
    tags: { team: 'nodes', 'a b': 'x+y=z' },
    requesterPays: true,
  });
  for (const [option, said] of [
    ['sse=aes256', /AES256, aws:kms/],
    ['sseKmsKeyId=alias/key', /no encryption with one/],
    ['sse=AES256&sseKmsKeyId=alias/key', /no encryption with one/],
    ['sse=aws:kms&sseKmsKeyId=a%20key', /id, ARN or alias/],
    ['sse=AES256&bucketKey=1', /bucketKey/],
    ['storageClass=GLACIER', /cannot be read at once.*GLACIER_IR/],
    ['storageClass=DEEP_ARCHIVE', /cannot be read at once/],
    ['storageClass=a%20class', /STANDARD_IA/],
    ['tags=', /not a tag/],
    ['tags=name', /not a tag/],
    ['tags=a=b,', /not a tag/],
    ['tags=a=b,a=c', /twice/],
    ['tags=aws:x=y', /reserved/],
    ['tags=a=%3Cb%3E', /not a tag/],
    [`tags=${'x'.repeat(129)}=y`, /not a tag/],
    [`tags=${Array.from({ length: 11 }, (_, index) => `t${index}=x`).join()}`, /at most 10/],
    ['partSize=4MiB', /5MiB to 5120MiB/],
    ['partSize=16', /5MiB/],
    ['partSize=6GiB', /5MiB/],
    ['multipartThreshold=-1MiB', /multipartThreshold/],
    ['multipart=auto', /1 or 0/],
    ['requesterPays=yes', /1 or 0/],
  ] as const) {
    const error = refusal(`s3://bucket?${option}`);
    assert.match(`${error.message} ${error.hint}`, said, option);
  }
});

test('every store on a network takes the options of its road', () => {
  for (const url of [
    's3://bucket',
    'azure://account/container',
    'gs://bucket',
    'https://host/x',
    'peer+http://host:1',
  ]) {
    const found = parseStoreUrl(`${url}?maxConnections=7&stallSeconds=45`);
    assert.partialDeepStrictEqual(found, { maxConnections: 7, stallMs: 45_000 });
  }
  assert.match(refusal('memory:?stallSeconds=1').message, /memory/);
  assert.match(refusal('file:///srv?stallSeconds=1').hint ?? '', /it has none/);
});

test('unknown schemes and options name the known and the nearest ones', () => {
  assert.match(
    refusal('ftp://host/x').hint ?? '',
    /file:\/\/\/dir, s3:\/\/bucket\/prefix, azure:.*gs:.*https:.*peer.* and memory:/,
  );
  assert.match(refusal('s4://bucket').hint ?? '', /did you mean s3:/);
  assert.match(refusal('/srv/store').hint ?? '', /file:\/\/\//);
  assert.match(refusal('s3://bucket?Region=x').hint ?? '', /did you mean region\?/);
  assert.match(refusal('s3://bucket?pathstyle=1').hint ?? '', /did you mean pathStyle\?/);
  assert.match(
    refusal('s3://bucket?zzz=1').hint ?? '',
    /region, endpoint, pathStyle, maxConnections, stallSeconds/,
  );
  refusal('memory:x');
});

test('credentials in a URL are refused and not repeated', () => {
  for (const url of [
    's3://AKIAHUSH:hushhush@bucket/x',
    's3://bucket?secretAccessKey=hushhush',
    's3://bucket?endpoint=https://me:hushhush@host',
    's3 ://bucket?secretAccessKey=hushhush',
    '//AKIAHUSH:hushhush@bucket',
    'memory://me:hushhush@host',
  ]) {
    const error = refusal(url);
    assert.doesNotMatch(`${error.message} ${error.hint}`, /hush/i, url);
  }
  assert.match(refusal('s3://bucket?secretAccessKey=x').hint ?? '', /never from the URL/);
});

test('whatever the text, it is a store URL or STORE_URL_INVALID', () => {
  const text = fc.oneof(
    fc.string(),
    fc.webUrl({ withQueryParameters: true, withFragments: true }),
    fc
      .tuple(fc.constantFrom('s3://', 'file://', 'memory:', 's3:', 'gs://'), fc.string({ unit: 'binary' }))
      .map((parts) => parts.join('')),
  );
  fc.assert(
    fc.property(text, (url) => {
      try {
        parseStoreUrl(url);
      } catch (error) {
        assert.ok(isPresyncError(error, 'STORE_URL_INVALID'), String(error));
        assert.ok(error.hint !== undefined && error.hint !== '');
      }
    }),
    { numRuns: 2000 },
  );
});

test('opening tells the place and touches nothing', async () => {
  const signal = AbortSignal.timeout(60_000);
  assert.equal((await openStore('file:///no/such/place', { signal })).location, 'file:///no/such/place');
  const s3 = await openStore('s3://bucket/p?endpoint=http://127.0.0.1:1', { signal });
  assert.equal(s3.location, 's3://bucket/p?endpoint=http://127.0.0.1:1');
  await s3.close();
  await assert.rejects(openStore('memory:', { signal: AbortSignal.abort() }), { code: 'ABORTED' });
});
