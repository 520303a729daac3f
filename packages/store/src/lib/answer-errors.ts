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
  return (
    [408, 409, 425, 429].includes(status) ||
    (status >= 500 && status !== 501) ||
    (status === 400 && action === 'HEAD')
  );
}

/** STORE_UNREACHABLE when no answer came at all; undefined for other errors. */
export function networkError(error: unknown, call: StoreCall): PresyncError | undefined {
  const code = errnoOf(error) ?? '';
  const message = `cannot reach ${call.location} (${call.action} ${call.key}): ${messageOf(error) || code}`;
  if (/^(CERT_|ERR_TLS|ERR_SSL|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO)/.test(code)) {
    return new PresyncError('STORE_UNREACHABLE', message, {
      cause: error,
      hint: "the endpoint's certificate is not trusted here: look at the endpoint, or set NODE_EXTRA_CA_CERTS to its authority",
    });
  }
  const timeout = error instanceof Error && error.name === 'TimeoutError';
  if (!NETWORK.has(code) && !timeout) return undefined;
  return new PresyncError('STORE_UNREACHABLE', message, {
    cause: error,
    retryable: true,
    hint: 'look at the endpoint in the store URL, at DNS, routes and firewalls',
  });
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
