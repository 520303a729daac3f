/** A server that answers as it is told, for what fake-gcs-server does not do on demand: as Cloud Storage, or as what gives tokens. */
import assert from 'node:assert/strict';
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type RequestListener,
  type ServerResponse,
} from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { isPresyncError, type PresyncError } from '@presync/runtime/errors';
import type { SelfSigned } from './self-signed.ts';

export type Answer = (request: IncomingMessage, response: ServerResponse) => void;

export interface SeenRequest {
  /** `GET /path?query` */
  line: string;
  headers: IncomingHttpHeaders;
  body: Buffer;
}

export interface StandIn {
  endpoint: string;
  /** One for each request, in turn; the last one stays. */
  answers: Answer[];
  /** What was received to its end. */
  requests: SeenRequest[];
  /** Opened since `reset`. */
  connections: number;
  /** Told of a request when its head has come. */
  onHead: (request: IncomingMessage) => void;
  reset(): void;
  stop(): Promise<void>;
}

/** Starts one on a free port of 127.0.0.1; over TLS with an identity. */
export async function startStandIn(identity?: SelfSigned): Promise<StandIn> {
  const listener: RequestListener = (request, response) => {
    standIn.onHead(request);
    const pieces: Buffer[] = [];
    request.on('data', (piece: Buffer) => pieces.push(piece));
    // Most faults come after the request was taken in.
    request.on('end', () => {
      const line = `${request.method} ${request.url}`;
      standIn.requests.push({ line, headers: request.headers, body: Buffer.concat(pieces) });
      const answer = standIn.answers.length > 1 ? standIn.answers.shift() : standIn.answers[0];
      answer?.(request, response);
    });
    request.on('error', () => undefined);
  };
  const server = identity === undefined ? createServer(listener) : createTlsServer(identity, listener);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  const standIn: StandIn = {
    endpoint: `${identity === undefined ? 'http' : 'https'}://127.0.0.1:${address.port}`,
    answers: [],
    requests: [],
    connections: 0,
    onHead: () => undefined,
    reset() {
      Object.assign(standIn, { answers: [], requests: [], connections: 0, onHead: () => undefined });
    },
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  server.on('connection', () => standIn.connections++);
  return standIn;
}

export const GENERATION = '1764028800000001';

export function respond(
  status: number,
  headers: Record<string, string | number>,
  body: string | Buffer = '',
): Answer {
  return (_, response) => {
    response.writeHead(status, { 'content-length': Buffer.byteLength(body), ...headers });
    response.end(body);
  };
}

export function json(value: unknown, headers: Record<string, string> = {}): Answer {
  return respond(200, { 'content-type': 'application/json', ...headers }, JSON.stringify(value));
}

/** A refusal in the form of the JSON API. */
export function refuse(
  status: number,
  reason: string,
  message = 'as told',
  headers: Record<string, string> = {},
): Answer {
  const error = { code: status, message, errors: [{ message, domain: 'global', reason }] };
  return respond(status, { 'content-type': 'application/json', ...headers }, JSON.stringify({ error }));
}

/** The metadata of an object, as of a put or stat. */
export function stored(size: number, more: Record<string, unknown> = {}): Answer {
  return json({ size: `${size}`, generation: GENERATION, ...more });
}

/** The answer to a download. */
export function media(body: string | Buffer, headers: Record<string, string | number> = {}): Answer {
  return respond(200, { 'x-goog-generation': GENERATION, ...headers }, body);
}

/** The error of a call that must fail. */
export async function failure(call: Promise<unknown>): Promise<PresyncError> {
  try {
    await call;
  } catch (error) {
    assert.ok(isPresyncError(error), String(error));
    assert.ok(error.hint !== undefined || error.code === 'ABORTED', `${error.code} has no hint`);
    return error;
  }
  return assert.fail('the call succeeded');
}

/** The error, which must be that one. */
export async function fails(call: Promise<unknown>, code: string, retryable = false): Promise<PresyncError> {
  const error = await failure(call);
  assert.deepEqual([error.code, error.retryable], [code, retryable], error.message);
  return error;
}
