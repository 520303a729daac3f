import {
  errnoOf,
  messageOf,
  PresyncError,
  type PresyncErrorOptions,
  throwIfAborted,
} from '@presync/runtime/errors';
import type { PutCondition } from '../object-store.ts';
import { alreadyThere, wasChanged } from './calls.ts';

/** What was asked of a store over HTTP, for the message and for what an answer means. */
export interface StoreCall {
  action: 'HEAD' | 'GET' | 'PUT' | 'DELETE' | 'LIST';
  key: string;
  location: string;
  condition?: PutCondition | undefined;
  signal: AbortSignal;
}

/** What an answer, or an SDK's error, says. */
export interface AnswerFacts {
  /** The store's error code, or the SDK's error name; '' when there is none. */
  name: string;
  status: number | undefined;
  retryAfterMs: number | undefined;
}

const NETWORK = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'EHOSTDOWN',
  'ENETUNREACH',
  'ENETDOWN',
  'EADDRNOTAVAIL',
  'ERR_STREAM_PREMATURE_CLOSE',
]);

/** The error to throw when the call's own signal ended it; undefined otherwise. */
export function abortOf({ signal }: StoreCall): PresyncError | undefined {
  try {
    throwIfAborted(signal);
  } catch (aborted) {
    if (aborted instanceof PresyncError) return aborted;
  }
  return undefined;
}

/** CONDITION_FAILED for a conditional put that the store refused. */
export function lostCondition(call: StoreCall, condition: PutCondition, error: unknown): PresyncError {
  return 'ifAbsent' in condition
    ? alreadyThere(call.key, call.location, error)
    : wasChanged(call.key, call.location, error);
}

/** True for a status after which the same call may succeed. */
export function isTransient(status: number | undefined, action: StoreCall['action']): boolean {
  if (status === undefined) return false;
  // The answer to a HEAD has no body, so a 400 does not say why: an expired token, or a server that was out of patience.
  // A 412 is the answer to a condition, and only puts have those: it was meant for another request.
  return (
    [408, 409, 425, 429].includes(status) ||
    (status >= 500 && status !== 501) ||
    (status === 400 && action === 'HEAD') ||
    (status === 412 && action !== 'PUT')
  );
}

/** STORE_UNREACHABLE when no answer came at all; undefined for other errors. */
export function networkError(error: unknown, call: StoreCall): PresyncError | undefined {
  const code = errnoOf(error) ?? '';
  // OpenSSL's errors have a line of numbers and file names around what they say.
  const said = /:SSL routines:[^:]*:([^:]+):/.exec(messageOf(error))?.[1] ?? messageOf(error);
  const what = `${call.location} (${call.action} ${call.key || '/'}): ${said || code}`;
  const unreachable = (message: string, hint: string, retryable: boolean): PresyncError =>
    new PresyncError('STORE_UNREACHABLE', message, { cause: error, hint, retryable });
  // Node's own: the proxy refused the tunnel, or what it answered is none.
  if (code.startsWith('ERR_PROXY')) {
    return unreachable(
      `no way through the proxy to ${what}`,
      'look at the proxy in HTTPS_PROXY or HTTP_PROXY, at its user and password, and at NO_PROXY',
      true,
    );
  }
  if (/^ERR_SSL_.*ALERT_(?:CERTIFICATE_REQUIRED|BAD_CERTIFICATE|UNKNOWN_CA|HANDSHAKE_FAILURE)/.test(code)) {
    return unreachable(
      `cannot reach ${what}`,
      'the server wants another client certificate than it was shown: give one with --store-cert and --store-cert-key',
      false,
    );
  }
  if (/^(CERT_|ERR_TLS|ERR_SSL|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO)/.test(code)) {
    return unreachable(
      `cannot reach ${what}`,
      "the endpoint's certificate is not trusted here: look at the endpoint, or give its authority with --store-ca",
      false,
    );
  }
  const timeout = error instanceof Error && error.name === 'TimeoutError';
  if (!NETWORK.has(code) && !timeout) return undefined;
  return unreachable(
    `cannot reach ${what}`,
    'look at the endpoint in the store URL, at DNS, routes, firewalls and proxies',
    true,
  );
}

/** The store's clock minus this machine's, in milliseconds, from the `Date` of an answer; undefined when it does not tell. */
export function clockOff(date: unknown): number | undefined {
  const time = typeof date === 'string' ? Date.parse(date) : Number.NaN;
  return Number.isNaN(time) ? undefined : time - Date.now();
}

/** `62 minutes slow`: this machine's clock beside that of the store. */
export function clockText(offMs: number): string {
  const seconds = Math.round(Math.abs(offMs) / 1000);
  const amount = seconds < 120 ? `${seconds} seconds` : `${Math.round(seconds / 60)} minutes`;
  return `${amount} ${offMs > 0 ? 'slow' : 'fast'}`;
}

/** STORE_FAILED with what the store said. */
export function storeFailed(
  error: unknown,
  call: StoreCall,
  facts: AnswerFacts,
  options: PresyncErrorOptions,
): PresyncError {
  return new PresyncError('STORE_FAILED', messageFor(error, call, facts), {
    cause: error,
    retryAfterMs: facts.retryAfterMs,
    ...options,
  });
}

/** The last resort: a failure that is retryable if its status, or `transient`, says so. */
export function unknownFailure(
  error: unknown,
  call: StoreCall,
  facts: AnswerFacts,
  { transient, api }: { transient: boolean; api: string },
): PresyncError {
  const network = facts.status === undefined ? networkError(error, call) : undefined;
  if (network !== undefined) return network;
  const retryable = transient || isTransient(facts.status, call.action);
  return storeFailed(error, call, facts, {
    retryable,
    hint: retryable
      ? 'the store is busy or in trouble; run the command again later'
      : `look at the answer, and at whether the endpoint is ${api}`,
  });
}

/**
 * STORE_FAILED, retryable, for an answer that such a store does not give: a proxy, a cache or a server that is not quite one.
 * It may be another one next time.
 */
export function malformed(call: StoreCall, what: string): PresyncError {
  return new PresyncError(
    'STORE_FAILED',
    `${call.location} answered ${call.action} ${call.key || '/'} with ${what}`,
    {
      retryable: true,
      hint: 'if it goes on, look for a cache or proxy in between, and at whether the URL is that of the store',
    },
  );
}

/** What a refused call says to people. */
export function messageFor(error: unknown, call: StoreCall, facts: AnswerFacts): string {
  const answer = [facts.status, facts.name, messageOf(error)].filter(
    (part) => part !== undefined && part !== '',
  );
  return `${call.location} refused ${call.action} ${call.key || '/'}: ${[...new Set(answer)].join(' ')}`;
}

/** Milliseconds that a `Retry-After` asks for (RFC 9110, 10.2.3): seconds, or a date. */
export function retryAfter(value: unknown): number | undefined {
  if (typeof value !== 'string') return undefined;
  if (/^\d+$/.test(value)) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

/** A property of a value of unknown shape. */
export function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}
