/** A web server for the files of a folder that does what bad ones do. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export interface Faults {
  /** Cuts an answer after so many bytes of its body; undefined lets it be. */
  cutAfter?: ((request: IncomingMessage) => number | undefined) | undefined;
  /** Gives the whole whatever range is asked. */
  noRanges?: boolean | undefined;
  /** The ETag of an answer; by default that of the file. */
  etag?: ((request: IncomingMessage, etag: string) => string) | undefined;
  /** Content-Range of a 206; by default the right one. */
  contentRange?: ((right: string) => string) | undefined;
  /** Milliseconds before each piece of 64 KiB. */
  delayMs?: number | undefined;
}

export interface FaultyServer {
  url: string;
  /** What it does from now on. */
  faults: Faults;
  /** `METHOD path range` of each request. */
  requests: string[];
  stop(): Promise<void>;
}

const PIECE = 64 * 1024;

export async function startFaultyServer(root: string, faults: Faults = {}): Promise<FaultyServer> {
  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const path = decodeURIComponent((request.url ?? '/').replace(/\?.*/, ''));
    const range = request.headers.range ?? '';
    self.requests.push(`${request.method} ${path} ${range}`.trimEnd());
    const info = await stat(join(root, path)).catch(() => undefined);
    if (info === undefined || !info.isFile()) {
      response.writeHead(404).end();
      return;
    }
    const plain = `"${info.mtimeMs.toString(16)}-${info.size}"`;
    const etag = self.faults.etag?.(request, plain) ?? plain;
    const wanted = /^bytes=(\d+)-$/.exec(range)?.[1];
    const condition = request.headers['if-range'];
    const partial =
      wanted !== undefined &&
      self.faults.noRanges !== true &&
      (condition === undefined || condition === etag);
    const start = partial ? Number(wanted) : 0;
    const right = `bytes ${start}-${info.size - 1}/${info.size}`;
    response.writeHead(partial ? 206 : 200, {
      etag,
      'content-length': info.size - start,
      ...(partial ? { 'content-range': self.faults.contentRange?.(right) ?? right } : {}),
    });
    if (request.method === 'HEAD') {
      response.end();
      return;
    }
    const cut = self.faults.cutAfter?.(request) ?? Number.POSITIVE_INFINITY;
    let sent = 0;
    for await (const piece of createReadStream(join(root, path), { start, highWaterMark: PIECE })) {
      if (response.destroyed) return;
      if (self.faults.delayMs !== undefined) await sleep(self.faults.delayMs);
      const part = (piece as Buffer).subarray(0, cut - sent);
      await new Promise<void>((resolve) => {
        response.once('close', resolve);
        response.write(part, () => {
          response.off('close', resolve);
          resolve();
        });
      });
      sent += part.length;
      if (sent >= cut) {
        response.destroy();
        return;
      }
    }
    response.end();
  };
  const server = createServer((request, response) => {
    handle(request, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const self: FaultyServer = {
    url: `http://127.0.0.1:${address.port}`,
    faults,
    requests: [],
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return self;
}
