import { errnoOf, messageOf, PresyncError } from '@presync/runtime/errors';
import {
  type AnswerFacts,
  abortOf,
  clockOff,
  clockText,
  field,
  lostCondition,
  malformed,
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
  /** Options of the store URL that ask something of the server in this call, as `sse`. */
  extras?: readonly string[] | undefined;
  /** The region that was asked for although nobody named one. */
  assumedRegion?: string | undefined;
}

/** What an error says beside its facts. */
export interface S3Advice {
  /** The region that the server names as the right one. */
  region?: string | undefined;
  /** Whether the same credentials may list the bucket, where a refused read had it tried. */
  mayList?: boolean | undefined;
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

/** What the server says when it does not know, or will not have, something that an option of the store URL asks of it. */
const EXTRAS: Readonly<Record<string, string>> = {
  InvalidStorageClass: 'storageClass names a storage class that this server does not have',
  InvalidTag: 'the server does not take the tags of the store URL: look at their names and number',
  InvalidEncryptionAlgorithmError: 'the server does not know the encryption that sse asks for',
  ServerSideEncryptionConfigurationNotFoundError: 'the server does not know the encryption that sse asks for',
  EntityTooSmall: 'the server wants larger parts: set partSize in the store URL',
};

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
  // Of a multipart upload: somebody removed it, or a part of it, on its way. The next put makes another one.
  'NoSuchUpload',
  'InvalidPart',
]);

/** Signatures are good for 15 minutes around their time (https://docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html). */
const CLOCK_TOLERANCE_MS = 14 * 60_000;

const STALE_CREDENTIALS = new Set(['ExpiredToken', 'ExpiredTokenException', 'TokenRefreshRequired']);

/**
 * True when new credentials may help: the caller makes a new client before the next attempt. The answer to a HEAD has no body, so a 400 does
 * not say whether the token has expired.
 */
export function isStaleCredentials(error: unknown, { action }: S3Call): boolean {
  const { name, status } = factsOf(error);
  return STALE_CREDENTIALS.has(name) || (action === 'HEAD' && status === 400);
}

/** True for an answer that only an existing bucket gives. */
export function isAboutObject(error: unknown): boolean {
  return ['NoSuchKey', 'NoSuchUpload', 'InvalidRange', 'PreconditionFailed'].includes(factsOf(error).name);
}

/** True for the code of a trouble that may pass. */
function isTransientName(name: string): boolean {
  return TRANSIENT.has(name) || /throttl/i.test(name);
}

/** Turns whatever the SDK threw into the PresyncError of the contract. */
export function s3Error(error: unknown, call: S3Call, advice: S3Advice = {}): PresyncError {
  if (error instanceof PresyncError) return error;
  const aborted = abortOf(call);
  if (aborted !== undefined) return aborted;
  const facts = factsOf(error);
  return (
    unreadable(error, call, facts) ??
    conditionError(error, call, facts) ??
    refusal(error, call, facts, advice) ??
    unknownFailure(error, call, facts, {
      // HPE: what came is not HTTP.
      transient: isTransientName(facts.name) || (errnoOf(error) ?? '').startsWith('HPE_'),
      api: 'an S3 API',
    })
  );
}

/**
 * An answer whose body broke off, stalled or is no XML: what the SDK then throws is none of the service's errors, which all say whose fault
 * they are. The status alone does not tell what was meant, but for that of a condition.
 */
function unreadable(error: unknown, call: S3Call, { status }: AnswerFacts): PresyncError | undefined {
  if (status === undefined || status === 412 || field(error, '$fault') !== undefined) return undefined;
  const [why = ''] = messageOf(error).split('\n');
  return malformed(call, `${status} and a body that cannot be read (${why})`);
}

function conditionError(error: unknown, call: S3Call, facts: AnswerFacts): PresyncError | undefined {
  const { condition, key, location } = call;
  if (condition === undefined) return undefined;
  if (facts.status === 412 || facts.name === 'PreconditionFailed')
    return lostCondition(call, condition, error);
  // If-Match on a key that is not there is answered by 404 NoSuchKey.
  if ('ifVersion' in condition && facts.name === 'NoSuchKey') return wasChanged(key, location, error);
  if (isNotImplemented(facts) && !isAboutExtras(error, call)) {
    return new PresyncError('STORE_NO_CONDITIONAL_WRITES', `${location} does not know conditional puts`, {
      cause: error,
      hint: 'publish to a store that honours If-Match and If-None-Match on PutObject; this one can only be read from',
    });
  }
  return undefined;
}

function isNotImplemented({ name, status }: AnswerFacts): boolean {
  return status === 501 || name === 'NotImplemented';
}

/** AWS and versitygw name the header that they do not know; MinIO says what it is about; others say nothing. */
function isAboutExtras(error: unknown, { extras = [] }: S3Call): boolean {
  const header = field(error, 'Header');
  if (typeof header === 'string' && header !== '') return !/^if-/i.test(header);
  return extras.length > 0 && /encrypt|kms|tag|storage class/i.test(messageOf(error));
}

function refusal(
  error: unknown,
  call: S3Call,
  facts: AnswerFacts,
  advice: S3Advice,
): PresyncError | undefined {
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
  if (name === 'RequestTimeTooSkewed') return skewed(error, call, facts);
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
  const wanted = aboutExtras(call, facts);
  if (wanted !== undefined) return storeFailed(error, call, facts, { hint: wanted });
  if (status === 401 || status === 403 || FORBIDDEN.has(name)) {
    return new PresyncError('STORE_FORBIDDEN', messageFor(error, call, facts), {
      cause: error,
      hint: permissionHint(error, call, advice),
    });
  }
  if (
    status === 301 ||
    status === 307 ||
    advice.region !== undefined ||
    name === 'PermanentRedirect' ||
    name === 'AuthorizationHeaderMalformed'
  ) {
    return storeFailed(error, call, facts, {
      hint:
        advice.region === undefined
          ? "add the bucket's own region to the store URL: ?region=…"
          : `the bucket is in another region: write region=${advice.region} in the store URL`,
    });
  }
  return undefined;
}

/** What stands behind a refusal that an option of the store URL is the cause of. */
function aboutExtras(call: S3Call, facts: AnswerFacts): string | undefined {
  const { extras = [] } = call;
  const { name } = facts;
  if (/^(?:kms[.:]|KMSKey|XMinioKMS)/i.test(name) && !isTransientName(name)) {
    return "look at the KMS key (sseKmsKeyId, or the bucket's own): it must exist in the bucket's region, and be enabled";
  }
  const hint = Object.hasOwn(EXTRAS, name) ? EXTRAS[name] : undefined;
  if (hint !== undefined) return hint;
  if (isNotImplemented(facts) && extras.length > 0) {
    return `the server does not know something that was asked of it: take ${extras.join(', ')} out of the store URL`;
  }
  return undefined;
}

/** Says how far the clocks are apart where the answer has a date: the SDK's next attempt is signed for the store's time. */
function skewed(error: unknown, call: S3Call, facts: AnswerFacts): PresyncError {
  const off = clockOff(headerOf(error, 'date'));
  const far = off !== undefined && Math.abs(off) > CLOCK_TOLERANCE_MS;
  const clocks = off === undefined ? '' : ` (this machine's clock is ${clockText(off)})`;
  return new PresyncError('STORE_FAILED', `${messageFor(error, call, facts)}${clocks}`, {
    cause: error,
    retryable: true,
    retryAfterMs: facts.retryAfterMs,
    hint:
      off === undefined
        ? "set this machine's clock (timedatectl, chrony); when it is right, the upload was stalled for too long"
        : far
          ? "set this machine's clock (timedatectl, chrony)"
          : 'the clocks agree, so the upload was stalled for too long: look at the network',
  });
}

function permissionHint(error: unknown, call: S3Call, { mayList }: S3Advice): string {
  const action = {
    HEAD: 's3:GetObject',
    GET: 's3:GetObject',
    PUT: call.extras?.includes('tags') ? 's3:PutObject and s3:PutObjectTagging' : 's3:PutObject',
    DELETE: 's3:DeleteObject',
    LIST: 's3:ListBucket',
  }[call.action];
  const { name } = factsOf(error);
  if (/\bkms:/i.test(messageOf(error))) {
    return 'grant kms:GenerateDataKey and kms:Decrypt on the key to these credentials, in the policies of both the key and the credentials';
  }
  if (
    call.assumedRegion !== undefined &&
    (name === 'InvalidAccessKeyId' || name === 'SignatureDoesNotMatch')
  ) {
    return `look at the credentials; nobody named the bucket's region, so ${call.assumedRegion} was asked: add ?region=… to the store URL`;
  }
  const payer =
    call.extras?.includes('requesterPays') === true
      ? ''
      : '; a bucket whose requesters pay wants requesterPays=1 in the store URL';
  if (call.action !== 'HEAD' && call.action !== 'GET')
    return `grant ${action} to these credentials, and look at whether they are the right ones${call.action === 'LIST' ? payer : ''}`;
  if (mayList === true) return `grant ${action}: listing is allowed, reading is not`;
  const list = 's3:ListBucket on the bucket, without which S3 answers 403 for objects that are not there';
  if (mayList === false) return `grant ${action}, and ${list}: listing is refused, too${payer}`;
  return `grant ${action}, and ${list}`;
}

/** A header of the answer behind an SDK's error. */
export function headerOf(error: unknown, name: string): unknown {
  return field(field(field(error, '$response'), 'headers'), name);
}

/** What the SDK's error says. */
export function factsOf(error: unknown): AnswerFacts {
  const name = error instanceof Error ? error.name : '';
  const metadata = field(error, '$metadata');
  const status = field(metadata, 'httpStatusCode');
  return {
    // The SDK's words for an answer without a body.
    name: ['Error', 'Unknown', 'UnknownError'].includes(name) ? '' : name,
    status: typeof status === 'number' ? status : undefined,
    retryAfterMs: retryAfter(headerOf(error, 'retry-after')),
  };
}
