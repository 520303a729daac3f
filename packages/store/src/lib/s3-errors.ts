import {
  errnoOf,
  messageOf,
  PresyncError,
  type PresyncErrorOptions,
  throwIfAborted,
} from '@presync/runtime/errors';
import type { PutCondition } from '../object-store.ts';
import { alreadyThere, notFound, wasChanged } from './calls.ts';

/** What was asked, for the message and for what an answer means. */
export interface S3Call {
  action: 'HEAD' | 'GET' | 'PUT' | 'DELETE' | 'LIST';
  key: string;
  location: string;
  bucket: string;
  condition?: PutCondition | undefined;
  signal: AbortSignal;
}

/** Refusals that no retry will lift, whatever the HTTP status. */
const FORBIDDEN = new Set([
  'AccessDenied',
  'AllAccessDisabled',
  'AccountProblem',
  'InvalidAccessKeyId',
  'XAdminUserNotFound',
  'SignatureDoesNotMatch',
  'InvalidToken',
  'InvalidClientTokenId',
  'UnrecognizedClientException',
  'NotSignedUp',
  'Forbidden',
]);

/** Passing troubles, whatever the HTTP status. `RequestTimeout` is a 400: the server waited for our bytes; of a digest that does not match too. */
const TRANSIENT = new Set([
  'ConditionalRequestConflict',
  'OperationAborted',
  'InternalError',
  'RequestTimeout',
  'RequestTimeoutException',
  'ServiceUnavailable',
  'SlowDown',
  'Throttling',
  'ThrottlingException',
  'TooManyRequests',
  'TooManyRequestsException',
  'RequestLimitExceeded',
  'BandwidthLimitExceeded',
  'TransientError',
  'BadDigest',
  'XAmzContentSHA256Mismatch',
]);

const STALE_CREDENTIALS = new Set(['ExpiredToken', 'ExpiredTokenException', 'TokenRefreshRequired']);

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

interface Facts {
  /** The S3 error code, or the SDK's error name. */
  name: string;
  status: number | undefined;
  retryAfterMs: number | undefined;
}

/** True when new credentials may help: the caller makes a new client before the next attempt. */
export function isStaleCredentials(error: unknown): boolean {
  return STALE_CREDENTIALS.has(factsOf(error).name);
}

/** True for an answer that only an existing bucket gives. */
export function isAboutObject(error: unknown): boolean {
  return ['NoSuchKey', 'InvalidRange', 'PreconditionFailed'].includes(factsOf(error).name);
}

/** Turns whatever the SDK threw into the PresyncError of the contract. */
export function s3Error(error: unknown, call: S3Call): PresyncError {
  if (error instanceof PresyncError) return error;
  try {
    throwIfAborted(call.signal);
  } catch (aborted) {
    if (aborted instanceof PresyncError) return aborted;
  }
  const facts = factsOf(error);
  return conditionError(error, call, facts) ?? refusal(error, call, facts) ?? failure(error, call, facts);
}

function conditionError(error: unknown, call: S3Call, facts: Facts): PresyncError | undefined {
  const { condition, key, location } = call;
  if (condition === undefined) return undefined;
  if (facts.status === 412 || facts.name === 'PreconditionFailed') {
    return 'ifAbsent' in condition ? alreadyThere(key, location, error) : wasChanged(key, location, error);
  }
  // If-Match on a key that is not there is answered by 404 NoSuchKey.
  if ('ifVersion' in condition && facts.name === 'NoSuchKey') return wasChanged(key, location, error);
  if (facts.status === 501 || facts.name === 'NotImplemented') {
    return new PresyncError('STORE_NO_CONDITIONAL_WRITES', `${location} does not know conditional puts`, {
      cause: error,
      hint: 'publish to a store that honours If-Match and If-None-Match on PutObject; this one can only be read from',
    });
  }
  return undefined;
}

function refusal(error: unknown, call: S3Call, facts: Facts): PresyncError | undefined {
  const { name, status } = facts;
  if (name === 'NoSuchBucket') {
    return new PresyncError(
      'STORE_NOT_FOUND',
      `the bucket ${call.bucket} of ${call.location} does not exist`,
      {
        cause: error,
        hint: 'look at the bucket name, the region and the endpoint in the store URL; presync makes no buckets',
      },
    );
  }
  if (name === 'NoSuchKey') return notFound(call.key, call.location, error);
  if (name === 'RequestTimeTooSkewed') {
    return storeFailed(error, call, facts, {
      retryable: true,
      hint: "set this machine's clock (timedatectl, chrony); when it is right, the upload was stalled for too long",
    });
  }
  if (STALE_CREDENTIALS.has(name)) {
    return storeFailed(error, call, facts, {
      retryable: true,
      hint: 'the session token has expired: renew it where presync takes its credentials from',
    });
  }
  if (name === 'InvalidObjectState') {
    return storeFailed(error, call, facts, {
      hint: 'the object was moved to an archive tier: restore it, and take the lifecycle rule off this prefix',
    });
  }
  if (status === 405 || name === 'MethodNotAllowed') {
    const writing = call.action === 'PUT' || call.action === 'DELETE';
    return new PresyncError(writing ? 'STORE_READ_ONLY' : 'STORE_FAILED', messageFor(error, call, facts), {
      cause: error,
      hint: 'this endpoint does not allow the method: name the S3 API endpoint, not a website or a read-only gateway',
    });
  }
  if (
    name === 'CredentialsProviderError' ||
    /could not load credentials|Resolved credential object is not valid/i.test(messageOf(error))
  ) {
    return new PresyncError('STORE_FORBIDDEN', `no credentials for ${call.location}: ${messageOf(error)}`, {
      cause: error,
      hint: 'set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or give the instance a role',
    });
  }
  if (status === 401 || status === 403 || FORBIDDEN.has(name)) {
    return new PresyncError('STORE_FORBIDDEN', messageFor(error, call, facts), {
      cause: error,
      hint: permissionHint(call),
    });
  }
  if (
    status === 301 ||
    status === 307 ||
    name === 'PermanentRedirect' ||
    name === 'AuthorizationHeaderMalformed'
  ) {
    return storeFailed(error, call, facts, {
      hint: "add the bucket's own region to the store URL: ?region=…",
    });
  }
  return undefined;
}

function failure(error: unknown, call: S3Call, facts: Facts): PresyncError {
  const { name, status } = facts;
  const network = networkError(error, call);
  if (status === undefined && network !== undefined) return network;
  // The answer to a HEAD has no body, so a 400 does not say why: an expired token, or a server that was out of patience.
  const retryable =
    TRANSIENT.has(name) ||
    status === 408 ||
    status === 409 ||
    status === 429 ||
    (status !== undefined && status >= 500 && status !== 501) ||
    (status === 400 && call.action === 'HEAD');
  return storeFailed(error, call, facts, {
    retryable,
    hint: retryable
      ? 'the store is busy or in trouble; run the command again later'
      : 'look at the answer, and at whether the endpoint is an S3 API',
  });
}

function networkError(error: unknown, call: S3Call): PresyncError | undefined {
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

function storeFailed(error: unknown, call: S3Call, facts: Facts, options: PresyncErrorOptions): PresyncError {
  return new PresyncError('STORE_FAILED', messageFor(error, call, facts), {
    cause: error,
    retryAfterMs: facts.retryAfterMs,
    ...options,
  });
}

function messageFor(error: unknown, call: S3Call, facts: Facts): string {
  const answer = [facts.status, facts.name, messageOf(error)].filter(
    (part) => part !== undefined && part !== '',
  );
  return `${call.location} refused ${call.action} ${call.key || '/'}: ${[...new Set(answer)].join(' ')}`;
}

function permissionHint(call: S3Call): string {
  const action = {
    HEAD: 's3:GetObject',
    GET: 's3:GetObject',
    PUT: 's3:PutObject',
    DELETE: 's3:DeleteObject',
    LIST: 's3:ListBucket',
  }[call.action];
  const absent = call.action === 'HEAD' || call.action === 'GET';
  return absent
    ? `grant ${action}, and s3:ListBucket on the bucket, without which S3 answers 403 for objects that are not there`
    : `grant ${action} to these credentials, and look at whether they are the right ones`;
}

function factsOf(error: unknown): Facts {
  const name = error instanceof Error ? error.name : '';
  const metadata = field(error, '$metadata');
  const status = field(metadata, 'httpStatusCode');
  return {
    name: name === 'Error' || name === 'UnknownError' ? '' : name,
    status: typeof status === 'number' ? status : undefined,
    retryAfterMs: retryAfter(field(field(field(error, '$response'), 'headers'), 'retry-after')),
  };
}

/** RFC 9110, 10.2.3: seconds, or a date. */
function retryAfter(value: unknown): number | undefined {
  if (typeof value !== 'string') return undefined;
  if (/^\d+$/.test(value)) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}
