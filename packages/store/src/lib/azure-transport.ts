import * as http from 'node:http';
import * as https from 'node:https';
import type { HttpOperationResponse, IHttpClient, WebResource } from '@azure/storage-blob';
import { PresyncError } from '@presync/runtime/errors';
import { type ConnectionOptions, createAgents, StallError } from './agents.ts';

export interface Transport extends IHttpClient {
  close(): void;
}

export interface TransportOptions extends ConnectionOptions {
  stallMs: number;
}

/** The largest answer that is held as text is a page of a listing: 5000 entries of some 1.5 kB. */
const MAX_TEXT_BYTES = 64 * 1024 ** 2;

/**
 * Carries the SDK's requests. The SDK's own carrier knows a time limit for a whole request, but none for a connection
 * on which nothing moves, and takes every agent's proxy from its own reading of the environment.
 *
 * The body of an answer that is given on as a stream is not watched here: whoever receives it does that.
 */
export function createTransport(options: TransportOptions): Transport {
  const { stallMs } = options;
  const agents = createAgents(options);

  function send(request: WebResource, url: URL): Promise<[http.ClientRequest, http.IncomingMessage]> {
    const secure = url.protocol === 'https:';
    const { abortSignal } = request;
    const body = bodyOf(request);
    return new Promise((resolve, reject) => {
      const sent = (secure ? https : http).request(url, {
        agent: agents[secure ? 'https:' : 'http:'],
        method: request.method,
        headers: request.headers.rawHeaders(),
        timeout: stallMs,
        ...(abortSignal instanceof AbortSignal ? { signal: abortSignal } : {}),
      });
      sent.on('timeout', () => sent.destroy(new StallError(stallMs)));
      sent.on('error', reject);
      sent.on('response', (answer) => resolve([sent, answer]));
      sent.end(body);
    });
  }

  return {
    async sendRequest(request: WebResource): Promise<HttpOperationResponse> {
      const [sent, answer] = await send(request, new URL(request.url));
      if (isOfAnother(request, answer)) {
        // Of the socket, too, which an answer without a body has given back already.
        answer.socket.destroy();
        throw new OtherAnswerError();
      }
      const head = { request, status: answer.statusCode ?? 0, headers: headersOf(request, answer) };
      if (request.method === 'HEAD') {
        answer.resume();
        return head;
      }
      if (request.streamResponseStatusCodes?.has(head.status)) {
        sent.setTimeout(0);
        return { ...head, readableStreamBody: answer };
      }
      return { ...head, bodyAsText: await textOf(answer) };
    },

    close() {
      agents['http:'].destroy();
      agents['https:'].destroy();
    },
  };
}

/** The answer was meant for another request, so that nothing that comes over the connection can be believed. */
class OtherAnswerError extends Error {
  readonly code = 'ERR_OTHER_ANSWER';

  constructor() {
    super('the answer is that to another request');
  }
}

/**
 * Azure gives the SDK's id of a request back (https://learn.microsoft.com/rest/api/storageservices/put-blob). Of what is written that
 * must hold; what is read may come from a cache, with the id of who asked first, and is proved by its digest.
 */
function isOfAnother(request: WebResource, answer: http.IncomingMessage): boolean {
  if (request.method === 'GET' || request.method === 'HEAD') return false;
  const [asked, answered] = [request.headers.get(ID), answer.headers[ID]];
  return asked !== undefined && answered !== undefined && asked !== answered;
}

const ID = 'x-ms-client-request-id';

/** The adapter puts buffers, the SDK lists of blocks as text. */
function bodyOf(request: WebResource): Buffer | string | undefined {
  const body: unknown = request.body;
  if (body === undefined || body === null) return undefined;
  if (typeof body === 'string' || Buffer.isBuffer(body)) return body;
  throw new PresyncError(
    'INTERNAL',
    `the Azure SDK sends a body of a kind that is not known: ${typeof body}`,
  );
}

/** The SDK's collection of headers is made by its own objects only. */
function headersOf(request: WebResource, answer: http.IncomingMessage): HttpOperationResponse['headers'] {
  const headers = request.headers.clone();
  for (const name of headers.headerNames()) headers.remove(name);
  for (const [name, value] of Object.entries(answer.headers)) {
    if (value !== undefined) headers.set(name, Array.isArray(value) ? value.join(', ') : value);
  }
  return headers;
}

async function textOf(answer: http.IncomingMessage): Promise<string> {
  const pieces: Buffer[] = [];
  let size = 0;
  for await (const piece of answer) {
    pieces.push(piece);
    size += piece.length;
    if (size > MAX_TEXT_BYTES) throw new RangeError(`a text of more than ${MAX_TEXT_BYTES} bytes`);
  }
  return Buffer.concat(pieces).toString('utf8');
}
