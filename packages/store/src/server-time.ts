import * as http from 'node:http';
import * as https from 'node:https';
import { throwIfAborted } from '@presync/runtime/errors';
import type { StoreAccess } from './access.ts';
import { azureAccess } from './lib/azure-access.ts';
import { gcsServer } from './lib/gcs-endpoint.ts';
import type { CallOptions } from './object-store.ts';
import { parseStoreUrl, type StoreUrl } from './store-url.ts';

/** How this machine's clock differs from a store's. */
export interface ClockSkew {
  /** The store's clock minus this machine's, in milliseconds. */
  skewMs: number;
  /** The truth lies within so much of it. */
  uncertaintyMs: number;
  verdict: 'ok' | 'warning' | 'error';
}

export interface ServerTimeOptions extends CallOptions {
  access?: StoreAccess | undefined;
}

/** Beyond this somebody should look: signatures and tokens are still good. */
const WARNING_MS = 60_000;

/**
 * Beyond this calls begin to fail: S3 and Azure refuse signatures that are 15 minutes off, and a fresh SAS or a signed token of Google's is
 * not good yet, or no more, long before that.
 */
const ERROR_MS = 5 * 60_000;

/** Each answer tells a second in which it was given; several narrow it down. */
const SAMPLES = 3;

const TIMEOUT_MS = 10_000;

/**
 * Compares clocks by the `Date` of answers to requests without credentials: every server gives it, also with a refusal (RFC 9110, 6.6.1), so the
 * ObjectStore contract need not know of it. Undefined where there is no server, or none that tells.
 */
export async function measureClockSkew(
  storeUrl: string,
  { access, signal }: ServerTimeOptions,
): Promise<ClockSkew | undefined> {
  const url = parseStoreUrl(storeUrl);
  const server = await serverOf(url);
  if (server === undefined) return undefined;
  // Of web servers and peers only: the clouds have credentials of their own.
  const certificate = url.kind === 'http' ? access?.http : undefined;
  let low = Number.NEGATIVE_INFINITY;
  let high = Number.POSITIVE_INFINITY;
  for (let sample = 0; sample < SAMPLES; sample++) {
    const began = Date.now();
    const told = await dateOf(server, certificate, signal);
    const ended = Date.now();
    if (told === undefined) return undefined;
    // The answer was given between the two readings of this clock, in the second that begins at `told`, or in the next one: servers that
    // keep the text of the date renew it each second (https://github.com/valyala/fasthttp/blob/master/header.go, updateServerDate).
    low = Math.max(low, told - ended);
    high = Math.min(high, told + 2000 - began);
  }
  // Several machines may stand behind one name, and this machine's clock may have been set meanwhile.
  if (low > high) [low, high] = [high, low];
  return judgeClockSkew((low + high) / 2, (high - low) / 2);
}

export function judgeClockSkew(skewMs: number, uncertaintyMs: number): ClockSkew {
  const off = Math.abs(skewMs);
  const verdict = off > ERROR_MS ? 'error' : off > WARNING_MS ? 'warning' : 'ok';
  return { skewMs: Math.round(skewMs), uncertaintyMs: Math.round(uncertaintyMs), verdict };
}

async function serverOf(url: StoreUrl): Promise<string | undefined> {
  switch (url.kind) {
    case 'file':
    case 'memory':
      return undefined;
    case 's3':
      return url.endpoint ?? regionalEndpoint(url.region ?? process.env.AWS_REGION);
    case 'azure': {
      const { account, endpoint } = url;
      return (await azureAccess({ account, endpoint, tokenMs: TIMEOUT_MS })).serviceUrl;
    }
    case 'gcs':
      return (
        gcsServer(url.endpoint, process.env.STORAGE_EMULATOR_HOST).endpoint ??
        'https://storage.googleapis.com'
      );
    case 'http':
      return url.base;
  }
}

/** https://docs.aws.amazon.com/general/latest/gr/s3.html; the clocks of one region are as good as another's. */
function regionalEndpoint(region: string | undefined): string {
  if (region === undefined || region === '') return 'https://s3.amazonaws.com';
  return `https://s3.${region}.amazonaws.com${region.startsWith('cn-') ? '.cn' : ''}`;
}

/** The server's time in milliseconds; undefined when it cannot be had. */
function dateOf(
  server: string,
  { cert, key }: { cert?: string | undefined; key?: string | undefined } = {},
  signal: AbortSignal,
): Promise<number | undefined> {
  throwIfAborted(signal);
  const url = new URL(`${server}/`);
  const secure = url.protocol === 'https:';
  const agent = secure
    ? new https.Agent({
        proxyEnv: process.env,
        ...(cert === undefined || key === undefined ? {} : { cert, key }),
      })
    : new http.Agent({ proxyEnv: process.env });
  return new Promise<number | undefined>((resolve) => {
    const request = (secure ? https : http).request(url, {
      agent,
      method: 'HEAD',
      headers: { 'user-agent': 'presync' },
      signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
    });
    // What is wrong with the server, other calls say better.
    request.on('error', () => resolve(undefined));
    request.on('response', (answer) => {
      const { headers } = answer.resume();
      const date = Date.parse(headers.date ?? '');
      // A cache tells when the answer was made, and how old it is.
      const age = Number(headers.age ?? 0);
      resolve(Number.isNaN(date) || Number.isNaN(age) ? undefined : date + age * 1000);
    });
    request.end();
  }).finally(() => {
    agent.destroy();
    throwIfAborted(signal);
  });
}
