import assert from 'node:assert/strict';
import { registerHooks } from 'node:module';
import { after, before, beforeEach, test } from 'node:test';
import { type ErrorCode, isPresyncError } from '@presync/runtime/errors';
import { createAzureStore } from '@presync/store/azure';
import type { ObjectStore } from '@presync/store/object-store';
import {
  type Answer,
  callsOf,
  failure,
  HTML,
  KEY,
  openAt,
  refuse,
  respond,
  SAS,
  SIGNATURE,
  type StandIn,
  setEnvironment,
  startStandIn,
  textOf,
  WELL,
  XML,
} from './azure-stand-in.ts';

// By what right the store is used, where it is, and what must not be told of it.

const signal = AbortSignal.timeout(240_000);

let server: StandIn;
let store: ObjectStore;
const calls = callsOf(() => store, signal);

before(async () => {
  server = await startStandIn();
});

after(() => server.stop());

beforeEach(() => {
  setEnvironment({});
  Object.assign(server, { answers: [WELL], requests: [] });
});

const open = (): Promise<ObjectStore> => openAt(`${server.base}/testaccount`);

const connection = (account: string, more: string): Record<string, string> => ({
  AZURE_STORAGE_CONNECTION_STRING: `AccountName=${account};AccountKey=${KEY};${more}`,
});
const sasConnection = `BlobEndpoint=https://other.blob.core.windows.net/;SharedAccessSignature=${SAS.slice(1)}`;

const WRONG: [string, Record<string, string>, RegExp][] = [
  [
    'a connection string of another account',
    connection('other', 'DefaultEndpointsProtocol=https;EndpointSuffix=core.windows.net'),
    /for the storage account other, the store URL for testaccount/,
  ],
  [
    'a SAS connection string of another account',
    { AZURE_STORAGE_CONNECTION_STRING: sasConnection },
    /for the storage account other/,
  ],
  [
    'a connection string without a right',
    { AZURE_STORAGE_CONNECTION_STRING: 'UseDevelopmentStorage=true' },
    /neither AccountKey nor SharedAccessSignature/,
  ],
  [
    'a connection string without sense',
    connection('testaccount', 'BlobEndpoint=nowhere'),
    /BlobEndpoint that is no URL/,
  ],
  ['a key that is none', { AZURE_STORAGE_KEY: 'secret, not base64' }, /AZURE_STORAGE_KEY has no account key/],
  [
    'a SAS token that is none',
    { AZURE_STORAGE_SAS_TOKEN: 'sp=secret' },
    /AZURE_STORAGE_SAS_TOKEN has no SAS/,
  ],
  ['a chain that is none', { AZURE_TOKEN_CREDENTIALS: 'nonsense' }, /AZURE_TOKEN_CREDENTIALS/],
  ['a proxy that is none', { AZURE_STORAGE_KEY: KEY, HTTPS_PROXY: 'secret' }, /a proxy in the environment/],
  [
    'a proxy that is none, with a password',
    { AZURE_STORAGE_KEY: KEY, HTTPS_PROXY: 'http://user:secret@:port' },
    /a proxy in the environment/,
  ],
];

for (const [name, env, message] of WRONG) {
  test(`${name} is CONFIG_INVALID`, async () => {
    setEnvironment(env);
    const error = await failure(openAt(undefined));
    assert.equal(error.code, 'CONFIG_INVALID' satisfies ErrorCode);
    assert.match(error.message, message);
    for (const secret of [KEY, SIGNATURE, 'secret']) assert.ok(!textOf(error).includes(secret));
  });
}

test('the chain of credentials is loaded when it is needed, and only then', async () => {
  const loaded: string[] = [];
  const hooks = registerHooks({
    resolve(specifier, context, next) {
      loaded.push(specifier);
      return next(specifier, context);
    },
  });
  for (const [env, needed] of [
    [{ AZURE_STORAGE_KEY: KEY }, false],
    [{ AZURE_STORAGE_SAS_TOKEN: SAS }, false],
    [connection('testaccount', ''), false],
    [{ AZURE_TOKEN_CREDENTIALS: 'prod' }, true],
  ] as const) {
    setEnvironment(env);
    store = await open();
    assert.equal(loaded.includes('@azure/identity'), needed);
    await store.close();
  }
  hooks.deregister();
});

test('a proxy that refuses is told, without its password', async () => {
  setEnvironment({
    AZURE_STORAGE_KEY: KEY,
    HTTPS_PROXY: server.base.replace('//', '//user:proxy-password@'),
  });
  store = await openAt(undefined);
  const error = await failure(calls.GET());
  assert.deepEqual([error.code, error.retryable], ['STORE_UNREACHABLE', true], error.message);
  assert.match(error.hint ?? '', /HTTPS_PROXY/);
  assert.ok(!textOf(error).includes('proxy-password'));
  await store.close();
});

test('an endpoint of another account is STORE_URL_INVALID', async () => {
  setEnvironment({ AZURE_STORAGE_KEY: KEY });
  const error = await failure(openAt('https://other.blob.core.windows.net'));
  assert.equal(error.code, 'STORE_URL_INVALID');
  assert.match(error.message, /storage account other/);
});

test('a connection string comes before a key, and that before a SAS token', async () => {
  const seen: (string | undefined)[] = [];
  server.answers = [
    (request, response) => {
      seen.push(request.headers.authorization?.split(':')[0], /[?&]sig=/.exec(request.url ?? '')?.[0]);
      WELL(request, response);
    },
  ];
  const broken = 'no key';
  for (const env of [
    { ...connection('testaccount', ''), AZURE_STORAGE_KEY: broken, AZURE_STORAGE_SAS_TOKEN: broken },
    { AZURE_STORAGE_KEY: KEY, AZURE_STORAGE_SAS_TOKEN: broken },
    { AZURE_STORAGE_SAS_TOKEN: SAS },
    { AZURE_STORAGE_SAS_TOKEN: SAS.slice(1), AZURE_STORAGE_KEY: ' ' },
    { AZURE_STORAGE_CONNECTION_STRING: sasConnection.replace('other', 'testaccount') },
  ]) {
    setEnvironment(env);
    store = await open();
    await calls.GET();
    await store.close();
  }
  const shared = ['SharedKey testaccount', undefined];
  const signed = [undefined, '&sig='];
  assert.deepEqual(seen, [shared, shared, signed, signed, signed].flat());
});

test('an endpoint with a path is taken as it is; an address without one gets the account', async () => {
  const nowhere = 'BlobEndpoint=http://127.0.0.1:1/testaccount';
  for (const [env, endpoint, path] of [
    [{}, `${server.base}/testaccount`, '/testaccount'],
    [{}, server.base, '/testaccount'],
    [{}, `${server.base}/some/where`, '/some/where'],
    [connection('testaccount', `BlobEndpoint=${server.base}/testaccount/`), undefined, '/testaccount'],
    [connection('testaccount', nowhere), `${server.base}/here`, '/here'],
  ] as const) {
    setEnvironment({ AZURE_STORAGE_KEY: KEY, ...env });
    server.requests = [];
    store = await openAt(endpoint);
    await calls.GET();
    assert.deepEqual(server.requests, [`GET ${path}/box/p/key`]);
    await store.close();
  }
});

test("a host of the account's own has no account in the path", async () => {
  for (const [endpoint, url] of [
    ['http://testaccount.blob.core.chinacloudapi.cn', 'http://testaccount.blob.core.chinacloudapi.cn'],
    ['http://testaccount-secondary.blob.example', 'http://testaccount-secondary.blob.example'],
    ['http://snapshots.example.com/', 'http://snapshots.example.com'],
    ['http://azurite:8080', 'http://azurite:8080/testaccount'],
    ['http://host.docker.internal:10000', 'http://host.docker.internal:10000/testaccount'],
    [undefined, 'http://testaccount.blob.core.usgovcloudapi.net'],
  ]) {
    setEnvironment({
      ...connection('testaccount', 'DefaultEndpointsProtocol=http;EndpointSuffix=core.usgovcloudapi.net'),
      HTTP_PROXY: server.base,
    });
    server.requests = [];
    store = await openAt(endpoint);
    await calls.GET();
    assert.deepEqual(server.requests, [`GET ${url}/box/p/key`]);
    await store.close();
  }
});

const HOUR_AGO = { date: new Date(Date.now() - 3_600_000).toUTCString() };

test('a clock that is wrong is named as such, and may be set right', async () => {
  setEnvironment({ AZURE_STORAGE_KEY: KEY });
  store = await open();
  const detail = "Request date header too old: 'Fri, 22 May 2015 01:32:11 GMT'";
  const told: [Record<string, string>, RegExp][] = [
    [HOUR_AGO, /clock .*it is 60 minutes fast/],
    [{ detail }, /clock/],
  ];
  for (const [headers, hint] of told) {
    server.answers = [refuse(403, 'AuthenticationFailed', headers)];
    const error = await failure(calls.GET());
    assert.deepEqual([error.code, error.retryable], ['STORE_FAILED', true]);
    assert.match(error.hint ?? '', hint);
  }
});

test('a SAS token that is not good at this time is told with its times, and is not tried again', async () => {
  const times =
    'Start [Tue, 01 Jan 2030 00:00:00 GMT] - Expiry [Wed, 02 Jan 2030] - Current [Mon, 01 Jan 2029]';
  setEnvironment({ AZURE_STORAGE_SAS_TOKEN: SAS });
  store = await open();
  const detail = `Signature not valid in the specified time frame: ${times}`;
  server.answers = [refuse(403, 'AuthenticationFailed', { ...HOUR_AGO, detail })];
  const error = await failure(calls.GET());
  assert.deepEqual([error.code, error.retryable], ['STORE_FORBIDDEN', false]);
  assert.ok(error.hint?.includes(times), error.hint ?? '');
});

test('what is secret is in no text of an error', async () => {
  for (const [env, right] of [
    [{ AZURE_STORAGE_KEY: KEY }, KEY],
    [{ AZURE_STORAGE_SAS_TOKEN: SAS }, SAS],
  ] as const) {
    setEnvironment(env);
    store = await open();
    const secrets = [
      KEY,
      SIGNATURE,
      encodeURIComponent(`${SIGNATURE}=`),
      'SharedKey testaccount:',
      'proxy-password',
    ];
    const hidden = (text: string): void => {
      for (const secret of secrets) assert.ok(!text.includes(secret), `${secret} in ${text}`);
    };
    hidden(store.location);
    let failed = 0;
    for (const answer of telltales(right)) {
      server.answers = [answer];
      for (const outcome of await Promise.allSettled(Object.values(calls).map((call) => call()))) {
        if (outcome.status === 'fulfilled') continue;
        failed++;
        assert.ok(isPresyncError(outcome.reason));
        hidden(textOf(outcome.reason));
      }
    }
    assert.ok(failed > 30, `only ${failed} calls failed`);
    await store.close();
  }
});

/** Answers that repeat what they were asked, and by what right. */
function telltales(right: string): Answer[] {
  const escaped = (text: string | undefined): string => (text ?? '').replaceAll('&', '&amp;');
  return [
    (request, response) => {
      const said = `${request.url} ${request.headers.authorization} sig=${SIGNATURE}%3D ${right} http://user:proxy-password@proxy`;
      respond(418, HTML, `<html>${said}</html>`)(request, response);
    },
    (request, response) => {
      const { authorization } = request.headers;
      const detail = `Signature ${authorization} did not match. Signed was GET ${escaped(request.url)} by ${escaped(right)}`;
      refuse(403, 'AuthenticationFailed', { detail })(request, response);
    },
    (request, response) => respond(200, XML, `<Enum ${escaped(request.url)}`)(request, response),
    (request) => request.socket.destroy(),
    () => undefined,
  ];
}

test('another account, container and prefix are in the location, and nothing else', async () => {
  setEnvironment({ AZURE_STORAGE_SAS_TOKEN: SAS });
  store = await createAzureStore({ account: 'another1', container: 'some-box', prefix: '' });
  assert.equal(store.location, 'azure://another1/some-box');
  await store.close();
});
