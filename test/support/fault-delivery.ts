/** How a fault proxy takes requests in, and gives answers back: whole, by halves, slowly, or not at all. */
import * as http from 'node:http';
import type { Socket } from 'node:net';
import type { Answer, Asked } from './fault-kinds.ts';

/** A connection on which nothing moves is closed by its client long before. */
export const SILENCE_MS = 60_000;
/** Slowness: so many bytes each time, and for how long. 4 KB a second, for longer than a second call is waited for. */
const SLOW_BYTES = 512;
const SLOW_EVERY_MS = 125;
const SLOW_MS = 2500;
/** Enough that half of an answer goes out as a packet of its own. */
const FLUSH_MS = 5;

/** All of a body; undefined when the other side breaks off. */
export function bodyOf(message: http.IncomingMessage): Promise<Buffer | undefined> {
  return new Promise((resolve) => {
    const pieces: Buffer[] = [];
    message.on('data', (piece: Buffer) => pieces.push(piece));
    message.on('end', () => resolve(Buffer.concat(pieces)));
    message.on('close', () => resolve(undefined));
    message.on('error', () => resolve(undefined));
  });
}

/** True when half of the request's body has come, false when its client breaks off. */
export function half(request: http.IncomingMessage, length: number): Promise<boolean> {
  return new Promise((resolve) => {
    let received = 0;
    request.on('data', (piece: Buffer) => {
      received += piece.length;
      if (received >= length / 2) resolve(true);
    });
    request.on('close', () => resolve(false));
  });
}

const HOP_BY_HOP = new Set(['connection', 'keep-alive', 'transfer-encoding']);

/** The headers that belong to the answer and not to the connection, with a Content-Length where there may be one. */
export function endToEnd(
  answer: http.IncomingMessage,
  { method }: http.IncomingMessage,
  body: Buffer,
): string[] {
  const kept: string[] = [];
  for (let at = 0; at < answer.rawHeaders.length; at += 2) {
    const [name = '', value = ''] = answer.rawHeaders.slice(at, at + 2);
    if (!HOP_BY_HOP.has(name.toLowerCase())) kept.push(name, value);
  }
  const bodiless = method === 'HEAD' || answer.statusCode === 204 || answer.statusCode === 304;
  if (!bodiless && answer.headers['content-length'] === undefined)
    kept.push('content-length', String(body.length));
  return kept;
}

export function deliver(
  response: http.ServerResponse,
  { status, headers, body }: Answer,
  { method }: Asked,
): void {
  response.writeHead(status, [...headers]);
  response.end(method === 'HEAD' ? undefined : body);
}

/** Half of the body, and then something else. */
export function deliverHalf(
  response: http.ServerResponse,
  { status, headers, body }: Answer,
  then: () => void,
): void {
  response.writeHead(status, [...headers]);
  response.write(body.subarray(0, body.length >> 1), () => setTimeout(then, FLUSH_MS));
}

export function deliverSlowly(response: http.ServerResponse, { status, headers, body }: Answer): void {
  response.writeHead(status, [...headers]);
  let at = 0;
  const began = performance.now();
  const timer = setInterval(() => {
    if (response.destroyed) {
      clearInterval(timer);
      return;
    }
    const next = performance.now() - began < SLOW_MS ? Math.min(body.length, at + SLOW_BYTES) : body.length;
    response.write(body.subarray(at, next));
    at = next;
    if (at < body.length) return;
    clearInterval(timer);
    response.end();
  }, SLOW_EVERY_MS);
}

/** Leaves the connection open, and says no more on it. */
export function fallSilent(socket: Socket): void {
  const timer = setTimeout(() => socket.destroy(), SILENCE_MS);
  socket.on('close', () => clearTimeout(timer));
}

/** As it goes over the wire. */
export function serialized({ status, headers, body }: Answer, { method }: Asked): Buffer {
  const lines = [`HTTP/1.1 ${status} ${http.STATUS_CODES[status] ?? 'Again'}`];
  for (let at = 0; at < headers.length; at += 2) lines.push(`${headers[at]}: ${headers[at + 1]}`);
  const head = Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1');
  return method === 'HEAD' ? head : Buffer.concat([head, body]);
}
