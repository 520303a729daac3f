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
  const plain = { region: undefined, endpoint: undefined, pathStyle: undefined, maxConnections: undefined };
  assert.deepEqual(parseStoreUrl('s3://bucket'), { kind: 's3', bucket: 'bucket', prefix: '', ...plain });
  assert.deepEqual(parseStoreUrl('s3://bucket/a/b/'), {
    kind: 's3',
    bucket: 'bucket',
    prefix: 'a/b',
    ...plain,
  });
  assert.deepEqual(
    parseStoreUrl(
      's3://my.bucket/p?region=eu-west-1&endpoint=http://127.0.0.1:9000/&pathStyle=1&maxConnections=64',
    ),
    {
      kind: 's3',
      bucket: 'my.bucket',
      prefix: 'p',
      region: 'eu-west-1',
      endpoint: 'http://127.0.0.1:9000',
      pathStyle: true,
      maxConnections: 64,
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
    's3://bucket?region=a&region=b',
    's3://bucket?region=EU%20west',
    's3://bucket#x',
  ]) {
    refusal(url);
  }
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
  assert.match(refusal('s3://bucket?zzz=1').hint ?? '', /region, endpoint, pathStyle, maxConnections/);
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
