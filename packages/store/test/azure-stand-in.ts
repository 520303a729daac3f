/** A server that shows what azurite does not show on demand, and what the tests of the Azure adapter share. */
import assert from 'node:assert/strict';
import * as http from 'node:http';
import * as https from 'node:https';
import { inspect } from 'node:util';
import { isPresyncError, type PresyncError } from '@presync/runtime/errors';
import { createAzureStore } from '@presync/store/azure';
import type { ObjectStore } from '@presync/store/object-store';

export type Answer = (request: http.IncomingMessage, response: http.ServerResponse) => void;

export interface StandIn {
  /** `http://127.0.0.1:PORT`. */
  readonly base: string;
  /** Given in turn; the last one again and again. */
  answers: Answer[];
  /** Method and URL of each request. */
  requests: string[];
  connections: number;
  stop(): Promise<void>;
}

export const STALL_MS = 500;
export const ETAG = '"0x8DC0123456789AB"';
export const HTML = { 'content-type': 'text/html' };
export const XML = { 'content-type': 'application/xml' };
export const KEY = Buffer.from('the key of a storage account that is not there').toString('base64');
export const SIGNATURE = 'c2lnbmF0dXJlIG9mIGEgU0FTIHRva2VuLCB4eHg9';
export const SAS = `?sv=2025-01-05&se=2030-01-01T00%3A00%3A00Z&sr=c&sp=racwdl&sig=${SIGNATURE}%3D`;

/** Starts it on a free port of 127.0.0.1; with a certificate it speaks TLS. */
export async function startStandIn(tls?: { cert: string; key: string }): Promise<StandIn> {
  const listener: http.RequestListener = (request, response) => {
    standIn.requests.push(`${request.method} ${request.url}`);
    const { answers } = standIn;
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    // Most faults come after the request was taken in.
    request.resume().on('end', () => answer?.(request, response));
  };
  const server = tls === undefined ? http.createServer(listener) : https.createServer(tls, listener);
  server.on('connection', () => standIn.connections++);
  server.on('connect', (_, socket) => socket.end('HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\n\r\n'));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  const standIn: StandIn = {
    base: `${tls === undefined ? 'http' : 'https'}://127.0.0.1:${address.port}`,
    answers: [],
    requests: [],
    connections: 0,
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return standIn;
}

/** Takes what the adapter reads out of the environment, and puts in what a test wants there. */
export function setEnvironment(env: Record<string, string>): void {
  for (const name of Object.keys(process.env)) {
    if (/^AZURE_|^IDENTITY_|_PROXY$/i.test(name)) delete process.env[name];
  }
  Object.assign(process.env, env);
}

/** The store `azure://testaccount/box/p` at an endpoint. */
export function openAt(endpoint: string | undefined): Promise<ObjectStore> {
  return createAzureStore({
    account: 'testaccount',
    container: 'box',
    prefix: 'p',
    endpoint,
    stallMs: STALL_MS,
    maxConnections: 8,
  });
}

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

/** What Azure says when all is well: to a put, a head without a body. */
export const WELL: Answer = (request, response) =>
  (request.method === 'PUT' ? respond(201, { etag: ETAG }) : respond(200, { etag: ETAG }, 'body'))(
    request,
    response,
  );

/** An error as Azure tells it; that of a HEAD has no body. */
export function refuse(
  status: number,
  code: string,
  { detail, ...headers }: Record<string, string> = {},
): Answer {
  const more = detail === undefined ? '' : `<AuthenticationErrorDetail>${detail}</AuthenticationErrorDetail>`;
  const body = `\uFEFF<?xml version="1.0" encoding="utf-8"?><Error><Code>${code}</Code><Message>As told.\nRequestId:77\nTime:now</Message>${more}</Error>`;
  const named = { 'x-ms-error-code': code, 'x-ms-request-id': 'request-77', ...headers };
  return (request, response) =>
    (request.method === 'HEAD' ? respond(status, named) : respond(status, { ...XML, ...named }, body))(
      request,
      response,
    );
}

/** The PresyncError with which a call fails. */
export async function failure(call: Promise<unknown>): Promise<PresyncError> {
  try {
    await call;
  } catch (error) {
    assert.ok(isPresyncError(error), inspect(error));
    assert.ok(error.hint !== undefined || error.code === 'ABORTED', `${error.code} has no hint`);
    return error;
  }
  return assert.fail('the call succeeded');
}

/** Everything that a log or a screen might show of an error. */
export function textOf(error: unknown): string {
  const seen: string[] = [];
  for (let at = error; at !== undefined; at = at instanceof Error ? at.cause : undefined) {
    seen.push(inspect(at, { depth: 12, showHidden: true }), String(at), JSON.stringify(at) ?? '');
    if (at instanceof Error) seen.push(at.message, at.stack ?? '');
    if (isPresyncError(at)) seen.push(at.hint ?? '');
  }
  return seen.join('\n');
}

export type Call = 'GET' | 'HEAD' | 'PUT' | 'CREATE' | 'REPLACE' | 'DELETE' | 'LIST';

/** Each kind of call on a store. */
export function callsOf(store: () => ObjectStore, signal: AbortSignal): Record<Call, () => Promise<unknown>> {
  const body = Buffer.from('body');
  return {
    GET: () => store().read('key', { maxBytes: 1000, signal }),
    HEAD: () => store().stat('key', { signal }),
    PUT: () => store().put('key', body, { signal }),
    CREATE: () => store().put('key', body, { condition: { ifAbsent: true }, signal }),
    REPLACE: () => store().put('key', body, { condition: { ifVersion: ETAG }, signal }),
    DELETE: () => store().remove('key', { signal }),
    LIST: () => store().list('', { signal })[Symbol.asyncIterator]().next(),
  };
}
