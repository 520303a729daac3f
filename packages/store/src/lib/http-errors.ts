import type { IncomingMessage } from 'node:http';
import { PresyncError } from '@presync/runtime/errors';
import {
  type AnswerFacts,
  abortOf,
  networkError,
  retryAfter,
  type StoreCall,
  storeFailed,
  unknownFailure,
} from './answer-errors.ts';
import { notFound } from './calls.ts';

/** The head of an answer that is to be read, and its body. */
export interface Reply {
  status: number;
  etag: string | undefined;
  lastModified: string | undefined;
  contentLength: number | undefined;
  contentRange: string | undefined;
  body: IncomingMessage;
}

/** The cause of an error that an answer's status stands behind. */
class AnswerError extends Error {
  override readonly name = 'AnswerError';
  readonly status: number;

  constructor(status: number, text: string) {
    super(text);
    this.status = status;
  }
}

/** The status behind an error of `answerError`. */
export function statusOf(error: unknown): number | undefined {
  return error instanceof PresyncError && error.cause instanceof AnswerError ? error.cause.status : undefined;
}

/** What a status other than 200 and 206 means. Lets go of the answer. */
export function answerError(answer: IncomingMessage, call: StoreCall): PresyncError {
  const status = answer.statusCode ?? 0;
  const cause = new AnswerError(status, answer.statusMessage ?? '');
  const facts: AnswerFacts = { name: '', status, retryAfterMs: retryAfter(answer.headers['retry-after']) };
  answer.destroy();
  if (status === 404 || status === 410) return notFound(call.key, call.location, cause);
  if (status === 401 || status === 403 || status === 407) {
    return new PresyncError(
      'STORE_FORBIDDEN',
      `${call.location} refused ${call.action} ${call.key}: ${status}`,
      {
        cause,
        hint:
          status === 407
            ? 'the proxy of HTTPS_PROXY or HTTP_PROXY wants a user and password in its URL'
            : 'give the credentials of this server with --store-auth; a bucket without listing rights answers 403 for absent objects too',
      },
    );
  }
  if (status === 416) return storeFailed(cause, call, facts, { hint: 'the object is shorter than it was' });
  return unknownFailure(cause, call, facts, { transient: false, api: 'the folder of a repository' });
}

/** What it means that no answer came. */
export function requestError(error: unknown, call: StoreCall): PresyncError {
  if (error instanceof PresyncError) return error;
  return (
    abortOf(call) ??
    networkError(error, call) ??
    storeFailed(
      error,
      call,
      { name: '', status: undefined, retryAfterMs: undefined },
      {
        retryable: true,
        hint: 'look at the URL: it may not be that of a web server',
      },
    )
  );
}
