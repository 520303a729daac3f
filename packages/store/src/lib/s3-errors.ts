import { messageOf, PresyncError } from '@presync/runtime/errors';
import {
  type AnswerFacts,
  abortOf,
  field,
  lostCondition,
  messageFor,
  retryAfter,
  type StoreCall,
  storeFailed,
  unknownFailure,
} from './answer-errors.ts';
import { notFound, wasChanged } from './calls.ts';

/** What was asked of S3. */
export interface S3Call extends StoreCall {
  bucket: string;
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
  const aborted = abortOf(call);
  if (aborted !== undefined) return aborted;
  const facts = factsOf(error);
  return (
    conditionError(error, call, facts) ??
    refusal(error, call, facts) ??
    unknownFailure(error, call, facts, { transient: TRANSIENT.has(facts.name), api: 'an S3 API' })
  );
}

function conditionError(error: unknown, call: S3Call, facts: AnswerFacts): PresyncError | undefined {
  const { condition, key, location } = call;
  if (condition === undefined) return undefined;
  if (facts.status === 412 || facts.name === 'PreconditionFailed')
    return lostCondition(call, condition, error);
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

function refusal(error: unknown, call: S3Call, facts: AnswerFacts): PresyncError | undefined {
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

function factsOf(error: unknown): AnswerFacts {
  const name = error instanceof Error ? error.name : '';
  const metadata = field(error, '$metadata');
  const status = field(metadata, 'httpStatusCode');
  return {
    name: name === 'Error' || name === 'UnknownError' ? '' : name,
    status: typeof status === 'number' ? status : undefined,
    retryAfterMs: retryAfter(field(field(field(error, '$response'), 'headers'), 'retry-after')),
  };
}
