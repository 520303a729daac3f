import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { createTokenSource, TokenError, type TokenSource } from '../src/lib/azure-token.ts';

type Given = { token: string; expiresOnTimestamp: number; refreshAfterTimestamp?: number } | null;

interface Issuer {
  source: TokenSource;
  answer: () => Promise<Given>;
  /** The tenant that each question was for. */
  asked: (string | undefined)[];
  /** Credentials that were made. */
  made: number;
}

function issuer(answer: Issuer['answer'], maxMs = 5000): Issuer {
  const made = {
    answer,
    asked: [] as (string | undefined)[],
    made: 0,
  };
  const source = createTokenSource(() => {
    made.made++;
    return {
      getToken: (_, options) => {
        made.asked.push(options?.tenantId);
        return made.answer();
      },
    };
  }, maxMs);
  return Object.assign(made, { source });
}

/** A token that ends at that minute. */
const until =
  (minute: number, more: { refreshAfterTimestamp?: number } = {}): Issuer['answer'] =>
  async () => ({ token: `until ${minute}`, expiresOnTimestamp: minute * 60_000, ...more });

const broken: Issuer['answer'] = () => Promise.reject(new Error('no'));

/** Gives the token of a minute, and lets what was begun behind the call come to its end. */
function clock(t: TestContext, { source }: Issuer): (minute: number) => Promise<string | undefined> {
  t.mock.timers.enable({ apis: ['Date'], now: 0 });
  return async (minute) => {
    t.mock.timers.setTime(minute * 60_000);
    const token = await source.getToken('scope');
    await setImmediate();
    return token?.token;
  };
}

test('a token is renewed behind the calls before it ends, and outlives failures of that', async (t) => {
  const made = issuer(until(60));
  const at = clock(t, made);
  assert.deepEqual([await at(0), await at(30), await at(54.9)], Array(3).fill('until 60'));
  assert.equal(made.asked.length, 1);
  made.answer = broken;
  assert.equal(await at(55), 'until 60');
  assert.equal(await at(55.1), 'until 60');
  assert.equal(made.asked.length, 2, 'asked again within half a minute');
  assert.equal(await at(56), 'until 60');
  made.answer = until(120);
  assert.equal(await at(57), 'until 60');
  assert.equal(await at(57.1), 'until 120');
  assert.equal(made.asked.length, 4);
});

test('a token that has ended is not given, and then the failure is told as a passing one', async (t) => {
  const made = issuer(until(60));
  const at = clock(t, made);
  await at(0);
  made.answer = broken;
  assert.equal(await at(59.8), 'until 60');
  await assert.rejects(at(59.9), (error) => error instanceof TokenError && error.passing);
  made.answer = until(120);
  assert.equal(await at(60), 'until 120');
});

test('the issuer may say when a token is to be renewed', async (t) => {
  const made = issuer(until(1440, { refreshAfterTimestamp: 720 * 60_000 }));
  const at = clock(t, made);
  await at(0);
  await at(719);
  assert.equal(made.asked.length, 1);
  await at(720);
  assert.equal(made.asked.length, 2);
});

test('calls at the same time share one question, and its failure', async () => {
  const made = issuer(until(Number.MAX_SAFE_INTEGER));
  await Promise.all(Array.from({ length: 20 }, () => made.source.getToken('scope')));
  assert.equal(made.asked.length, 1);
  const failing = issuer(broken);
  const outcomes = await Promise.allSettled(
    Array.from({ length: 20 }, () => failing.source.getToken('scope')),
  );
  assert.ok(outcomes.every(({ status }) => status === 'rejected'));
  assert.equal(failing.asked.length, 1);
});

test('a token that was refused is let go once, with the credential that gave it', async (t) => {
  const made = issuer(until(60));
  const at = clock(t, made);
  await at(10);
  made.source.renew(9 * 60_000);
  await at(11);
  assert.deepEqual([made.asked.length, made.made], [1, 1], 'a call from before the token cannot speak of it');
  for (let call = 0; call < 5; call++) made.source.renew(11 * 60_000);
  await at(12);
  assert.deepEqual([made.asked.length, made.made], [2, 2]);
});

test('a challenge with a tenant is remembered, one with claims asks anew', async () => {
  const made = issuer(until(Number.MAX_SAFE_INTEGER));
  const { source } = made;
  await source.getToken('scope');
  await source.getToken('scope', { tenantId: 'other' });
  await source.getToken('scope');
  await source.getToken('scope', { tenantId: 'other' });
  assert.deepEqual(made.asked, [undefined, 'other']);
  await source.getToken('scope', { claims: '{}' });
  assert.deepEqual(made.asked, [undefined, 'other', 'other']);
});

test('the SDK is told that every token has ended, so that it renews none by itself', async () => {
  const token = await issuer(until(Number.MAX_SAFE_INTEGER)).source.getToken('scope');
  assert.equal(token?.expiresOnTimestamp, 0);
});

test('an answer that does not come is given up, one that is none is an error', {
  timeout: 20_000,
}, async () => {
  const silent = issuer(() => new Promise(() => undefined), 50);
  await assert.rejects(
    silent.source.getToken('scope'),
    (error) => error instanceof TokenError && error.passing,
  );
  const empty = issuer(async () => null);
  await assert.rejects(
    empty.source.getToken('scope'),
    (error) => error instanceof TokenError && !error.passing,
  );
});

test('failures of the network are passing ones, also where the chain wraps them', async () => {
  const refused = Object.assign(new Error('connect'), { code: 'ECONNREFUSED' });
  const unavailable = Object.assign(
    new Error('no token', { cause: Object.assign(new Error('x'), { status: 503 }) }),
    {
      name: 'CredentialUnavailableError',
    },
  );
  const aggregate = Object.assign(new Error('all failed'), {
    errors: [new Error('not configured'), unavailable],
  });
  const text = new Error(
    'EnvironmentCredential authentication failed: getaddrinfo ENOTFOUND login.microsoftonline.com',
  );
  const wrong = new Error('AADSTS7000215: Invalid client secret provided');
  for (const [error, passing] of [
    [refused, true],
    [unavailable, true],
    [aggregate, true],
    [text, true],
    [wrong, false],
  ] as const) {
    const { source } = issuer(() => Promise.reject(error));
    await assert.rejects(
      source.getToken('scope'),
      (thrown) => thrown instanceof TokenError && thrown.passing === passing,
      error.message,
    );
  }
});
