import type { IncomingHttpHeaders } from 'node:http';
import { errnoOf, isPresyncError, messageOf, PresyncError } from '@presync/runtime/errors';
import {
  type AnswerFacts,
  abortOf,
  field,
  isTransient,
  lostCondition,
  malformed,
  messageFor,
  networkError,
  retryAfter,
  type StoreCall,
  storeFailed,
  unknownFailure,
} from './answer-errors.ts';
import { notFound, wasChanged } from './calls.ts';

/** What was asked of Cloud Storage. */
export interface GcsCall extends StoreCall {
  bucket: string;
  /** No credentials are sent. */
  anonymous: boolean;
}

/** The cause of an error that an answer stands behind. It holds nothing of the request, which carried a token. */
class GcsAnswer extends Error {
  override readonly name = 'GcsAnswer';
  readonly status: number;
  /** The JSON API's reason, as `notFound`; '' when there is none. */
  readonly reason: string;
  readonly retryAfterMs: number | undefined;
  /** True when it is in a form in which Cloud Storage answers; false for the page of a proxy. */
  readonly genuine: boolean;

  constructor(
    message: string,
    facts: { status: number; reason: string; retryAfterMs: number | undefined; genuine: boolean },
  ) {
    super(message);
    this.status = facts.status;
    this.reason = facts.reason;
    this.retryAfterMs = facts.retryAfterMs;
    this.genuine = facts.genuine;
  }
}

/** Refusals for the rate of requests come as 403, too. https://cloud.google.com/storage/docs/json_api/v1/status-codes */
const TRANSIENT = new Set([
  'rateLimitExceeded',
  'userRateLimitExceeded',
  'backendError',
  'internalError',
  'conflict',
]);

/** Answers to downloads are these texts, where all others are JSON. */
const PLAIN_NOT_FOUND = /^(not found|no such object\b.*|the specified bucket does not exist\.?)$/i;

/** What is repeated of a text that others wrote. */
const MAX_TEXT = 400;

/** A signed assertion that is not of now: the answer of the token endpoint. */
const SKEWED = /\biat\b.*\bexp\b|reasonable timeframe|clock/i;

/** The error behind an answer that is no success. `secrets` are never repeated, should the answer hold them. */
export function answerError(
  answer: { status: number; headers: IncomingHttpHeaders; body: string },
  call: GcsCall,
  secrets: readonly string[],
): PresyncError {
  const { status, headers, body } = answer;
  const error = field(parsed(body), 'error');
  const reason = field(field(field(error, 'errors'), '0'), 'reason') ?? field(error, 'status');
  const told = field(error, 'message');
  const plain = PLAIN_NOT_FOUND.test(body.trim());
  const cause = new GcsAnswer(scrub(typeof told === 'string' ? told : plain ? body : '', secrets), {
    status,
    reason: typeof reason === 'string' ? reason : '',
    retryAfterMs: retryAfter(headers['retry-after']),
    genuine: plain || typeof told === 'string',
  });
  const facts: AnswerFacts = { name: cause.reason, status, retryAfterMs: cause.retryAfterMs };
  const digest = status === 400 && /hash\b.*(doesn't|does not) match/i.test(cause.message);
  return (
    conditionError(cause, call) ??
    missing(cause, call) ??
    refusal(cause, call, facts) ??
    unknownFailure(cause, call, facts, {
      transient: digest || TRANSIENT.has(cause.reason),
      api: 'that of Cloud Storage',
    })
  );
}

/** The status behind an error of `answerError`. */
export function statusOf(error: unknown): number | undefined {
  return error instanceof PresyncError && error.cause instanceof GcsAnswer ? error.cause.status : undefined;
}

/** True for a refusal that only an existing bucket gives. */
export function provesBucket(error: PresyncError): boolean {
  return [412, 416].includes(statusOf(error) ?? 0);
}

/**
 * True for an absence that may be that of the bucket: of an object in a bucket that does not exist, Cloud Storage says
 * `No such object` as well (nodejs-storage#1183), and emulators only `Not Found`.
 */
export function mayBeBucket(error: PresyncError): boolean {
  return isPresyncError(error, 'OBJECT_NOT_FOUND') && statusOf(error) === 404;
}

/** What it means that no answer came, or none to the end. */
export function requestError(error: unknown, call: GcsCall): PresyncError {
  if (error instanceof PresyncError) return error;
  const facts = { name: '', status: undefined, retryAfterMs: undefined };
  return (
    abortOf(call) ??
    networkError(error, call) ??
    storeFailed(error, call, facts, {
      retryable: true,
      hint: 'look at the endpoint in the store URL, and at the proxy of HTTPS_PROXY if there is one',
    })
  );
}

/** What it means that there are no credentials. The SDK's own error holds the request for them: it is not kept. */
export function credentialsError(error: unknown, call: GcsCall): PresyncError {
  if (error instanceof PresyncError) return error;
  const aborted = abortOf(call);
  if (aborted !== undefined) return aborted;
  // The message of a SyntaxError has a piece of the credential file in it.
  const text = error instanceof SyntaxError ? 'the credential file is not JSON' : scrub(messageOf(error), []);
  const code = errnoOf(error);
  const cause = Object.assign(new Error(text), code === undefined ? {} : { code });
  if (code === 'TimeoutError' || field(error, 'name') === 'TimeoutError') cause.name = 'TimeoutError';
  const what = `for ${call.location} (${call.action} ${call.key || '/'}): ${text}`;
  const status = field(field(error, 'response'), 'status') ?? field(error, 'status');
  if (SKEWED.test(text)) {
    return new PresyncError('STORE_FAILED', `no token ${what}`, {
      cause,
      retryable: true,
      hint: "set this machine's clock (timedatectl, chrony)",
    });
  }
  const network = status === undefined ? networkError(cause, call) : undefined;
  if (network !== undefined) {
    return new PresyncError('STORE_UNREACHABLE', `no token ${what}`, {
      cause,
      retryable: network.retryable,
      hint: network.retryable
        ? 'look at the way to the token endpoint or metadata server: DNS, routes, firewalls and proxies'
        : network.hint,
    });
  }
  if (typeof status === 'number' && isTransient(status, 'GET')) {
    return new PresyncError('STORE_FAILED', `no token ${what}`, {
      cause,
      retryable: true,
      hint: 'the token endpoint or metadata server is busy or in trouble; run the command again later',
    });
  }
  return new PresyncError('STORE_FORBIDDEN', `no credentials ${what}`, {
    cause,
    hint: 'set GOOGLE_APPLICATION_CREDENTIALS to a credential file, run `gcloud auth application-default login`, or attach a service account to the instance',
  });
}

function conditionError(answer: GcsAnswer, call: GcsCall): PresyncError | undefined {
  const { condition, location } = call;
  // A policy of the organisation, as one on encryption, is refused with 412 as well.
  if (condition === undefined || /\bconstraints?\b/i.test(answer.message)) return undefined;
  if (answer.status === 412) return lostCondition(call, condition, answer);
  if (answer.status !== 501) return undefined;
  return new PresyncError('STORE_NO_CONDITIONAL_WRITES', `${location} does not know conditional puts`, {
    cause: answer,
    hint: 'publish to a store that honours ifGenerationMatch; this one can only be read from',
  });
}

function missing(answer: GcsAnswer, call: GcsCall): PresyncError | undefined {
  const { action, bucket, condition, key, location } = call;
  if (answer.status !== 404) return undefined;
  if (!answer.genuine) return malformed(call, 'a 404 that is not of Cloud Storage');
  const object = /^no such object/i.test(answer.message);
  const bucketNamed = /bucket does not exist/i.test(answer.message);
  if (!bucketNamed && (action === 'GET' || action === 'HEAD' || action === 'DELETE'))
    return notFound(key, location, answer);
  if (object && condition !== undefined && 'ifVersion' in condition) return wasChanged(key, location, answer);
  return new PresyncError('STORE_NOT_FOUND', `the bucket ${bucket} of ${location} does not exist`, {
    cause: answer,
    hint: 'look at the bucket name and the endpoint in the store URL; presync makes no buckets',
  });
}

function refusal(answer: GcsAnswer, call: GcsCall, facts: AnswerFacts): PresyncError | undefined {
  const { status, reason, message } = answer;
  const forbidden = (hint: string): PresyncError =>
    new PresyncError('STORE_FORBIDDEN', messageFor(answer, call, facts), { cause: answer, hint });
  if (status === 401 && call.anonymous)
    return forbidden(
      'this server wants credentials, which are sent over https only: write an https endpoint',
    );
  if (status === 401) {
    return storeFailed(answer, call, facts, {
      retryable: true,
      hint: "the token has expired or was revoked, and the next attempt takes a new one; if it goes on, look at this machine's clock and at whether the account still exists",
    });
  }
  if (status === 403 && TRANSIENT.has(reason)) return undefined;
  if (status === 407)
    return forbidden('the proxy of HTTPS_PROXY or HTTP_PROXY wants a user and password in its URL');
  if (status === 400 && /requester pays|user ?project/i.test(message))
    return forbidden('name the project that pays: GOOGLE_CLOUD_QUOTA_PROJECT=…');
  if (status === 403 && /retention|hold/i.test(reason)) {
    return forbidden(
      'a retention policy or a hold keeps the object as it is: take it off this prefix, presync replaces and prunes objects',
    );
  }
  if (status === 412 && call.condition !== undefined)
    return forbidden('a policy of the organisation forbids it: look at the constraint that the answer names');
  if (status === 403) return forbidden(permissionHint(call));
  if (status === 405) {
    const writing = call.action === 'PUT' || call.action === 'DELETE';
    return new PresyncError(writing ? 'STORE_READ_ONLY' : 'STORE_FAILED', messageFor(answer, call, facts), {
      cause: answer,
      hint: 'this endpoint does not allow the method: name that of the JSON API, not a website or a CDN',
    });
  }
  if (status >= 300 && status < 400)
    return storeFailed(answer, call, facts, { hint: 'redirects are not followed: name the endpoint itself' });
  return undefined;
}

function permissionHint({ action, anonymous }: GcsCall): string {
  if (anonymous) return 'no credentials are sent over plain http: write an https endpoint';
  const [role, permissions] = {
    HEAD: ['objectViewer', 'storage.objects.get and storage.objects.list'],
    GET: ['objectViewer', 'storage.objects.get and storage.objects.list'],
    PUT: ['objectUser', 'storage.objects.create, and storage.objects.delete to replace'],
    DELETE: ['objectUser', 'storage.objects.delete'],
    LIST: ['objectViewer', 'storage.objects.list'],
  }[action];
  return `grant roles/storage.${role} on the bucket to this account (${permissions}), and look at whether it is the right one`;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The text in one line of bounded length, without what is or may be a secret. */
function scrub(text: string, secrets: readonly string[]): string {
  let clean = text;
  for (const secret of secrets) clean = clean.replaceAll(secret, '…');
  return clean
    .replaceAll(/-----BEGIN[\s\S]*?(?:-----END[^-]*-----|$)/g, '…')
    .replaceAll(/\bya29\.[\w.-]+|\bBearer\s+[\w.~+/=-]+|\beyJ[\w-]{8,}(?:\.[\w-]+)*|\b1\/\/[\w-]{10,}/gi, '…')
    .replaceAll(
      /\b(client_secret|refresh_token|access_token|id_token|subject_token|assertion|private_key)\b(["'\s:=]+)[^"'\s&,}]+/gi,
      '$1$2…',
    )
    .replaceAll(/\/\/[^/\s@]+@/g, '//…@')
    .replaceAll(/\s+/g, ' ')
    .trim()
    .slice(0, MAX_TEXT);
}
