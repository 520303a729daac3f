import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { inspect } from 'node:util';
import { createGcsStore } from '@presync/store/gcs';
import type { ObjectStore } from '@presync/store/object-store';
import { withRetry } from '@presync/store/with-retry';
import { startConnectProxy } from '../../../test/support/connect-proxy.ts';
import {
  type Answer,
  fails,
  failure,
  json,
  media,
  refuse,
  respond,
  type StandIn,
  startStandIn,
  stored,
} from '../../../test/support/gcs-stand-in.ts';
import { type SelfSigned, selfSigned } from '../../../test/support/self-signed.ts';

// Credentials go over https only, so the store of these tests is a TLS server; tokens are given by a metadata server or
// token endpoint of their own, as on an instance or with workload identity federation.

const signal = AbortSignal.timeout(120_000);
const STALL_MS = 3000;
const TOKEN = 'ya29.the-first-token-of-this-test-0123456789';
const SECOND = 'the-second-token-which-is-of-another-form-0123456789';
const SKEWED =
  'Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.';
const SUBJECT = 'the-subject-token-that-a-provider-gave';

/** What the process had, to be put back. */
const environment = { ...process.env };

let bucket: StandIn;
let tokens: StandIn;
let untrusted: StandIn;
let scratch = '';
let identity: SelfSigned;
let stores: ObjectStore[] = [];

before(async () => {
  identity = selfSigned(['localhost', 'oauth2.googleapis.com']);
  setDefaultCACertificates([...getCACertificates('default'), identity.cert]);
  [bucket, tokens, untrusted] = await Promise.all([
    startStandIn(identity),
    startStandIn(),
    startStandIn(selfSigned()),
  ]);
  scratch = await mkdtemp(join(tmpdir(), 'presync-gcs-'));
});

after(async () => {
  await Promise.all(stores.map((store) => store.close()));
  await Promise.all([bucket.stop(), tokens.stop(), untrusted.stop()]);
  await rm(scratch, { recursive: true });
});

beforeEach(async () => {
  await Promise.all(stores.map((store) => store.close()));
  stores = [];
  for (const standIn of [bucket, tokens, untrusted]) standIn.reset();
  for (const name of Object.keys(process.env)) delete process.env[name];
  // No credentials but those of the stand-ins: none of gcloud, and none of a machine that is an instance.
  Object.assign(process.env, environment, {
    HOME: scratch,
    CLOUDSDK_CONFIG: scratch,
    GCE_METADATA_HOST: new URL(tokens.endpoint).host,
    METADATA_SERVER_DETECTION: 'assume-present',
  });
  for (const name of [
    'GOOGLE_APPLICATION_CREDENTIALS',
    'STORAGE_EMULATOR_HOST',
    'GOOGLE_CLOUD_QUOTA_PROJECT',
  ])
    delete process.env[name];
});

async function open(endpoint = bucket.endpoint, stallMs = STALL_MS): Promise<ObjectStore> {
  const store = await createGcsStore({ bucket: 'bucket', prefix: 'p', endpoint, stallMs });
  stores.push(store);
  return store;
}

const read = (store: ObjectStore): Promise<unknown> => store.read('key', { maxBytes: 100, signal });

/** As a metadata server gives a token. */
function token(access_token: string, expires_in = 3600): Answer {
  return json({ access_token, expires_in, token_type: 'Bearer' }, { 'metadata-flavor': 'Google' });
}

/** Refuses every token but that one. */
function onlyFor(right: string): Answer {
  return (request, response) => {
    const answer =
      request.headers.authorization === `Bearer ${right}`
        ? media('body')
        : refuse(401, 'authError', 'Invalid Credentials');
    answer(request, response);
  };
}

async function federation(tokenUrl: string): Promise<void> {
  await writeFile(join(scratch, 'subject'), SUBJECT);
  const path = join(scratch, 'federation.json');
  const file = {
    type: 'external_account',
    audience:
      '//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/provider',
    subject_token_type: 'urn:ietf:params:oauth:token-type:jwt',
    token_url: tokenUrl,
    credential_source: { file: join(scratch, 'subject') },
  };
  await writeFile(path, JSON.stringify(file));
  process.env.GOOGLE_APPLICATION_CREDENTIALS = path;
}

test('the token of the metadata server is sent, and asked for once', async () => {
  tokens.answers = [token(TOKEN)];
  bucket.answers = [onlyFor(TOKEN)];
  const store = await open();
  await read(store);
  await Promise.all(Array.from({ length: 20 }, () => read(store)));
  assert.equal(tokens.requests.length, 1);
  assert.match(
    tokens.requests[0]?.line ?? '',
    /^GET \/computeMetadata\/v1\/instance\/service-accounts\/default\/token/,
  );
});

test('a token that expires is replaced before it does', async () => {
  tokens.answers = [token(TOKEN, 1), token(SECOND)];
  bucket.answers = [media('body')];
  const store = await open();
  await read(store);
  await read(store);
  assert.deepEqual(
    bucket.requests.map(({ headers }) => headers.authorization),
    [`Bearer ${TOKEN}`, `Bearer ${SECOND}`],
  );
});

test('a token that is refused in the middle of a run is replaced, once, and nothing is lost', async () => {
  tokens.answers = [token(TOKEN), token(SECOND)];
  bucket.answers = [onlyFor(TOKEN)];
  const store = await open();
  await read(store);
  bucket.answers = [onlyFor(SECOND)];
  const error = await fails(read(store), 'STORE_FAILED', true);
  assert.match(error.message, /401/);
  await read(store);
  assert.equal(tokens.requests.length, 2);

  // All at once, and with the retries that every program has.
  tokens.answers = [token(TOKEN)];
  bucket.answers = [onlyFor(TOKEN)];
  const retried = withRetry(store, { minDelayMs: 1, maxDelayMs: 5 });
  await Promise.all(Array.from({ length: 20 }, () => read(retried)));
  assert.equal(tokens.requests.length, 3, 'more than one call replaced the token');

  tokens.answers = [token(SECOND)];
  bucket.answers = [
    (request, response) => {
      const right = request.headers.authorization === `Bearer ${SECOND}`;
      (right ? stored(4) : refuse(401, 'authError'))(request, response);
    },
  ];
  await retried.put('key', Buffer.from('body'), { condition: { ifAbsent: true }, signal });
});

test('workload identity federation exchanges its token', async () => {
  await federation(`${tokens.endpoint}/v1/token`);
  tokens.answers = [
    json({
      access_token: TOKEN,
      expires_in: 3600,
      token_type: 'Bearer',
      issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
    }),
  ];
  bucket.answers = [onlyFor(TOKEN)];
  await read(await open());
  assert.match(tokens.requests[0]?.body.toString() ?? '', new RegExp(SUBJECT));
});

test('a key file and the credentials of gcloud get a token from Google, with one request', async (t) => {
  const google = await startStandIn(identity);
  t.after(() => google.stop());
  const proxy = await startConnectProxy(() => Number(new URL(google.endpoint).port));
  t.after(() => proxy.stop());
  process.env.HTTPS_PROXY = `http://${proxy.host}`;
  process.env.NO_PROXY = '127.0.0.1';
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const key = {
    type: 'service_account',
    client_email: 'presync@project.iam.gserviceaccount.com',
    private_key: privateKey.export({ type: 'pkcs8', format: 'pem' }),
  };
  const user = {
    type: 'authorized_user',
    client_id: 'client',
    client_secret: 'the-client-secret',
    refresh_token: 'the-refresh-token',
  };
  for (const credentials of [key, user]) {
    await writeFile(join(scratch, 'credentials.json'), JSON.stringify(credentials));
    process.env.GOOGLE_APPLICATION_CREDENTIALS = join(scratch, 'credentials.json');
    google.reset();
    google.answers = [json({ access_token: TOKEN, expires_in: 3600, token_type: 'Bearer' })];
    bucket.answers = [onlyFor(TOKEN)];
    await read(await open());
    for (const [answer, code, retryable] of [
      [
        respond(400, {}, JSON.stringify({ error: 'invalid_grant', error_description: SKEWED })),
        'STORE_FAILED',
        true,
      ],
      [
        respond(400, {}, JSON.stringify({ error: 'invalid_grant', error_description: 'account gone' })),
        'STORE_FORBIDDEN',
        false,
      ],
      [respond(503, {}, 'busy'), 'STORE_FAILED', true],
    ] as const) {
      google.reset();
      google.answers = [answer];
      const error = await fails(read(await open()), code, retryable);
      assert.doesNotMatch(
        inspect(error, { depth: 20, showHidden: true }),
        /PRIVATE|the-client|the-refresh|assertion=/,
      );
      assert.equal(google.requests.length, 1, 'the SDK asked again by itself');
      assert.match(error.message, /invalid_grant|busy/);
    }
  }
  assert.ok(proxy.asked.every(({ target }) => target === 'oauth2.googleapis.com:443'));
});

test('what token endpoints answer is told for what it is', async () => {
  await federation(`${tokens.endpoint}/v1/token`);
  for (const [answer, code, retryable, hint] of [
    [
      respond(400, {}, JSON.stringify({ error: 'invalid_grant', error_description: SKEWED })),
      'STORE_FAILED',
      true,
      /clock/,
    ],
    [
      respond(400, {}, JSON.stringify({ error: 'invalid_grant', error_description: 'no such pool' })),
      'STORE_FORBIDDEN',
      false,
      /GOOGLE_APPLICATION_CREDENTIALS/,
    ],
    [respond(503, {}, JSON.stringify({ error: 'unavailable' })), 'STORE_FAILED', true, /later/],
    [respond(503, {}, '<html>busy</html>'), 'STORE_FAILED', true, /later/],
    [respond(429, {}, '{}'), 'STORE_FAILED', true, /later/],
  ] as const) {
    tokens.reset();
    tokens.answers = [answer];
    const error = await fails(read(await open()), code, retryable);
    assert.match(error.hint ?? '', hint);
    assert.match(error.message, /gs:\/\/bucket\/p.*GET key/);
  }
  assert.equal(bucket.requests.length, 0);
});

test('a token endpoint that cannot be reached, or does not answer, may be another time', async () => {
  await federation('http://127.0.0.1:1/v1/token');
  await fails(read(await open()), 'STORE_UNREACHABLE', true);
  await federation(`${tokens.endpoint}/v1/token`);
  const store = await open(bucket.endpoint, 500);
  await fails(read(store), 'STORE_UNREACHABLE', true);
  tokens.answers = [json({ access_token: TOKEN, expires_in: 3600, token_type: 'Bearer' })];
  bucket.answers = [onlyFor(TOKEN)];
  await read(store);
});

test('an abort ends a call that waits for credentials', async () => {
  await federation(`${tokens.endpoint}/v1/token`);
  const store = await open(bucket.endpoint, 60_000);
  const calls: ((signal: AbortSignal) => Promise<unknown>)[] = [
    (signal) => store.read('key', { maxBytes: 1, signal }),
    (signal) => store.put('key', Buffer.alloc(1), { signal }),
    (signal) => store.stat('key', { signal }),
    (signal) => store.remove('key', { signal }),
    (signal) => store.list('', { signal })[Symbol.asyncIterator]().next(),
  ];
  for (const call of calls) {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 50);
    assert.equal((await failure(call(controller.signal))).code, 'ABORTED');
  }
});

test('without credentials the store is forbidden', async () => {
  process.env.METADATA_SERVER_DETECTION = 'none';
  const store = await open();
  await fails(read(store), 'STORE_FORBIDDEN');
  process.env.GOOGLE_APPLICATION_CREDENTIALS = join(scratch, 'none.json');
  assert.match((await fails(read(store), 'STORE_FORBIDDEN')).message, /none\.json/);
  // Found out as soon as it is there, without another store.
  await federation(`${tokens.endpoint}/v1/token`);
  tokens.answers = [json({ access_token: TOKEN, expires_in: 3600, token_type: 'Bearer' })];
  bucket.answers = [onlyFor(TOKEN)];
  await read(store);
});

test('an instance without a service account is forbidden', async () => {
  tokens.answers = [respond(404, { 'metadata-flavor': 'Google' }, 'Not Found')];
  await fails(read(await open()), 'STORE_FORBIDDEN');
});

test('an emulator is asked without the credentials that there are', async (t) => {
  tokens.answers = [token(TOKEN)];
  const emulator = await startStandIn();
  t.after(() => emulator.stop());
  emulator.answers = [media('body')];
  await read(await open(emulator.endpoint));
  assert.equal(emulator.requests[0]?.headers.authorization, undefined);
  assert.equal(tokens.requests.length, 0);
});

test('the project that pays is named', async () => {
  process.env.GOOGLE_CLOUD_QUOTA_PROJECT = 'paying-project';
  tokens.answers = [token(TOKEN)];
  bucket.answers = [media('body')];
  await read(await open());
  assert.equal(bucket.requests[0]?.headers['x-goog-user-project'], 'paying-project');
});

test('a server whose certificate is not trusted is no passing trouble, and gets no token', async () => {
  tokens.answers = [token(TOKEN)];
  untrusted.answers = [media('body')];
  const error = await fails(read(await open(untrusted.endpoint)), 'STORE_UNREACHABLE');
  assert.match(error.hint ?? '', /certificate/);
  assert.equal(untrusted.requests.length, 0);
  await federation(`${untrusted.endpoint}/v1/token`);
  await fails(read(await open()), 'STORE_UNREACHABLE');
  assert.equal(untrusted.requests.length, 0);
});

test('no secret is in an error, its causes or the location', async () => {
  const secrets = [TOKEN, SECOND, SUBJECT, 'hunter2', 'PRIVATE', 'the-client-secret'];
  const clean = (error: unknown): void => {
    const text = inspect(error, { depth: 20, showHidden: true, getters: true, maxStringLength: null });
    for (const secret of secrets) assert.ok(!text.includes(secret), `${secret} is in ${text}`);
  };
  for (const secret of [TOKEN, SECOND]) {
    tokens.answers = [token(secret)];
    const store = await open();
    for (const status of [400, 401, 403, 404, 412, 503]) {
      bucket.answers = [refuse(status, 'invalid', `you sent ${secret} to me, Bearer ${secret}`)];
      const error = await failure(read(store));
      clean(error);
      if (status !== 404) assert.match(error.message, /you sent/);
    }
    bucket.answers = [(request) => request.socket.destroy()];
    clean(await failure(read(store)));
  }

  await federation(`${tokens.endpoint}/v1/token`);
  for (const body of [
    JSON.stringify({ error: 'invalid_grant', error_description: `subject_token=${SUBJECT}` }),
    `<p>subject_token=${SUBJECT}`,
  ]) {
    tokens.answers = [respond(400, {}, body)];
    clean(await failure(read(await open())));
  }

  const broken = join(scratch, 'broken.json');
  process.env.GOOGLE_APPLICATION_CREDENTIALS = broken;
  for (const content of [
    'PRIVATE',
    '{"private_key": PRIVATE}',
    JSON.stringify({ type: 'service_account', client_email: 'a@b', private_key: 'PRIVATE' }),
    JSON.stringify({
      type: 'service_account',
      client_email: 'a@b',
      private_key: '-----BEGIN PRIVATE KEY-----\nPRIVATE\n-----END PRIVATE KEY-----',
    }),
    JSON.stringify({ type: 'unheard-of', client_secret: 'the-client-secret' }),
  ]) {
    await writeFile(broken, content);
    const error = await fails(read(await open()), 'STORE_FORBIDDEN');
    clean(error);
  }
});

test('the proxy of the environment is used, and its password is not told', async (t) => {
  const proxy = await startConnectProxy(({ port }) => Number(port));
  t.after(() => proxy.stop());
  process.env.HTTPS_PROXY = `http://user:hunter2@${proxy.host}`;
  process.env.NO_PROXY = '127.0.0.1';
  tokens.answers = [token(TOKEN)];
  bucket.answers = [onlyFor(TOKEN)];
  const { port } = new URL(bucket.endpoint);
  await read(await open(`https://localhost:${port}`));
  const authorization = `Basic ${Buffer.from('user:hunter2').toString('base64')}`;
  assert.deepEqual(proxy.asked, [{ target: `localhost:${port}`, authorization }]);
  await read(await open());
  assert.equal(proxy.asked.length, 1, 'NO_PROXY is not honoured');
  proxy.refusing = true;
  const error = await failure(read(await open(`https://localhost:${port}`)));
  assert.equal(error.retryable, true);
  assert.doesNotMatch(inspect(error, { depth: 20 }), /hunter2/);
});
