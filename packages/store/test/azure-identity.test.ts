import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { setDefaultCACertificates } from 'node:tls';
import type { ObjectStore } from '@presync/store/object-store';
import { withRetry } from '@presync/store/with-retry';
import { selfSigned } from '../../../test/support/self-signed.ts';
import {
  type Answer,
  callsOf,
  failure,
  openAt,
  refuse,
  respond,
  STALL_MS,
  type StandIn,
  setEnvironment,
  startStandIn,
  textOf,
  WELL,
} from './azure-stand-in.ts';

// Tokens of a managed identity. The SDK sends tokens over TLS only, so that the store has a certificate here.

const signal = AbortSignal.timeout(240_000);
const TENANT = '72f988bf-86f1-41af-91ab-2d7cd011db47';
const HEADER = 'secret-of-the-identity-endpoint';

describe('the Azure store with an identity', () => {
  let server: StandIn;
  let issuer: StandIn;
  let store: ObjectStore;
  /** The one that the store takes. */
  let good = '';
  /** The one that the issuer gives. */
  let given = '';
  const calls = callsOf(() => store, signal);

  before(async () => {
    const pair = selfSigned();
    server = await startStandIn(pair);
    issuer = await startStandIn();
    setEnvironment({ AZURE_STORAGE_KEY: 'YSBrZXkgdGhhdCBpcyBvZiBubyBvbmU=' });
    store = await openAt(`${server.base}/testaccount`);
    const error = await failure(calls.GET());
    assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', false]);
    assert.match(error.hint ?? '', /certificate/);
    await store.close();
    setDefaultCACertificates([pair.cert]);
  });

  after(async () => {
    await server.stop();
    await issuer.stop();
  });

  beforeEach(async () => {
    setEnvironment({
      AZURE_TOKEN_CREDENTIALS: 'ManagedIdentityCredential',
      IDENTITY_ENDPOINT: `${issuer.base}/token`,
      IDENTITY_HEADER: HEADER,
    });
    good = given = 'eyJ0b2tlbiI6MX0.one.first';
    Object.assign(server, { answers: [guarded()], requests: [] });
    Object.assign(issuer, { answers: [issue], requests: [] });
    store = await openAt(`${server.base}/testaccount`);
  });

  /** Of less than five minutes, so that the SDK keeps none of its own. */
  const issue: Answer = (request, response) => {
    const body = {
      access_token: given,
      expires_on: `${Math.floor(Date.now() / 1000) + 240}`,
      resource: 'https://storage.azure.com',
      token_type: 'Bearer',
    };
    respond(200, { 'content-type': 'application/json' }, JSON.stringify(body))(request, response);
  };

  const stale = (detail: string, headers: Record<string, string> = {}): Answer =>
    refuse(401, 'InvalidAuthenticationInfo', { detail, ...headers });

  function guarded(refusal = stale('Lifetime validation failed. The token is expired.')): Answer {
    return (request, response) => {
      (request.headers.authorization === `Bearer ${good}` ? WELL : refusal)(request, response);
    };
  }

  test('one token serves many calls', async () => {
    await Promise.all(Array.from({ length: 20 }, calls.GET));
    for (let round = 0; round < 5; round++) await calls.PUT();
    assert.equal(issuer.requests.length, 1);
    assert.equal(server.requests.length, 25);
  });

  test('a token that the store takes no longer is renewed: the call is retryable, the next one succeeds', async () => {
    await calls.GET();
    good = given = 'eyJ0b2tlbiI6Mn0.two.second';
    const error = await failure(calls.GET());
    assert.deepEqual([error.code, error.retryable], ['STORE_FAILED', true]);
    await calls.GET();
    assert.equal(issuer.requests.length, 2);
  });

  test('nothing is lost when tokens are replaced in the middle of a run', async () => {
    const retried = withRetry(store, { minDelayMs: 1, maxDelayMs: 50 });
    let serial = 0;
    for (let round = 0; round < 5; round++) {
      good = given = `eyJ0b2tlbiI6M30.round.${serial++}`;
      await Promise.all(
        Array.from({ length: 16 }, (_, index) =>
          retried.put(`key-${round}-${index}`, Buffer.from('body'), { signal }),
        ),
      );
    }
    assert.ok(issuer.requests.length <= 10, `${issuer.requests.length} tokens for 5`);
  });

  test('a store in another tenant is told by its challenge', async () => {
    const challenge = `Bearer authorization_uri=https://login.microsoftonline.com/${TENANT}/oauth2/authorize resource_id=https://storage.azure.com`;
    given = 'eyJ0b2tlbiI6NH0.other.tenant';
    good = 'eyJ0b2tlbiI6NX0.this.tenant';
    const refusal = stale('', { 'www-authenticate': challenge });
    server.answers = [
      (request, response) => {
        guarded(refusal)(request, response);
        given = good;
      },
    ];
    await calls.GET();
    await calls.GET();
    assert.equal(server.requests.length, 3);
    assert.equal(issuer.requests.length, 2);
  });

  test('a token of a foreign issuer is refused at once', async () => {
    server.answers = [stale('Issuer validation failed. Issuer did not match.')];
    const error = await failure(calls.GET());
    assert.deepEqual([error.code, error.retryable], ['STORE_FORBIDDEN', false]);
    assert.match(error.hint ?? '', /tenant/);
  });

  test('a missing role is named', async () => {
    server.answers = [refuse(403, 'AuthorizationPermissionMismatch')];
    assert.match((await failure(calls.PUT())).hint ?? '', /Storage Blob Data Contributor/);
    assert.match((await failure(calls.GET())).hint ?? '', /Storage Blob Data Reader/);
  });

  test('an issuer in trouble is retryable, one that refuses is not', async () => {
    const json = { 'content-type': 'application/json' };
    for (const [status, code, retryable] of [
      [503, 'STORE_UNREACHABLE', true],
      [429, 'STORE_UNREACHABLE', true],
      [410, 'STORE_UNREACHABLE', true],
      [400, 'STORE_FORBIDDEN', false],
    ] as const) {
      issuer.answers = [respond(status, json, JSON.stringify({ error: 'as_told', message: 'no' }))];
      issuer.requests = [];
      const error = await failure(calls.GET());
      assert.deepEqual([error.code, error.retryable], [code, retryable], error.message);
      assert.ok(error.message.includes('GET key'), error.message);
      assert.equal(issuer.requests.length, 1, 'the SDK made attempts of its own');
    }
    issuer.answers = [(request) => request.socket.destroy()];
    const error = await failure(calls.GET());
    assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', true], error.message);
    assert.equal(server.requests.length, 0);
  });

  test('an issuer that does not answer is given up, and an abort does not wait for it', {
    timeout: 20_000,
  }, async () => {
    issuer.answers = [() => undefined];
    const controller = new AbortController();
    const started = Date.now();
    setTimeout(() => controller.abort(), 50);
    const aborted = await failure(store.stat('key', { signal: controller.signal }));
    assert.equal(aborted.code, 'ABORTED');
    assert.ok(Date.now() - started < STALL_MS);
    const error = await failure(calls.GET());
    assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', true], error.message);
    assert.match(error.message, /no answer within 1 s/);
  });

  test('without any credentials the store is forbidden', async () => {
    setEnvironment({ AZURE_TOKEN_CREDENTIALS: 'EnvironmentCredential' });
    store = await openAt(`${server.base}/testaccount`);
    const error = await failure(calls.GET());
    assert.deepEqual([error.code, error.retryable], ['STORE_FORBIDDEN', false], error.message);
    assert.match(error.hint ?? '', /managed identity/);
  });

  test('tokens and secrets are in no text of an error', async () => {
    const echo: Answer = (request, response) =>
      respond(418, {}, `${request.headers.authorization} ${HEADER}`)(request, response);
    server.answers = [echo];
    const texts = [textOf(await failure(calls.GET()))];
    store = await openAt(`${server.base}/testaccount`);
    issuer.answers = [
      (request, response) =>
        respond(400, {}, `${JSON.stringify(request.headers)} ${HEADER} ${given}`)(request, response),
    ];
    texts.push(textOf(await failure(calls.GET())));
    for (const text of texts) {
      for (const secret of [given, HEADER]) assert.ok(!text.includes(secret), `${secret} in ${text}`);
    }
  });
});
