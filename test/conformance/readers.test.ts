/** The stores that can only be read, on real servers: everything that the contract promises of reads. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { createSilentLogger } from '@presync/runtime/log';
import { serve } from '@presync/snapshotter/serve';
import { storeConformance } from '@presync/store/conformance';
import { createFileStore } from '@presync/store/file';
import type { ObjectStore } from '@presync/store/object-store';
import { openStore } from '@presync/store/open';
import { openOrCreateRepository } from '@presync/transfer/repository';
import { needs } from '../support/needs.ts';
import { findNginx, type Nginx, startNginx, staticSite } from '../support/nginx.ts';

/** For a store that can only be read, with what lies behind it. */
function readerSuite(listable: boolean, stores: () => { reader: ObjectStore; writer: ObjectStore }): void {
  for (const { name, run } of storeConformance({ traits: { writable: false, listable } })) {
    test(name, { timeout: 300_000 }, ({ signal }) => {
      const { reader, writer } = stores();
      return run(reader, { writer, signal });
    });
  }
}

describe('the HTTP reader on nginx', needs('nginx', findNginx() !== undefined), () => {
  let parent = '';
  let server: Nginx | undefined;
  let stores: { reader: ObjectStore; writer: ObjectStore } | undefined;
  before(async () => {
    parent = await mkdtemp(join(tmpdir(), 'presync-http-'));
    server = await startNginx((port) => staticSite(port, parent));
    const reader = await openStore(`${server.url}/store`, { signal: AbortSignal.timeout(60_000) });
    stores = { reader, writer: createFileStore({ dir: join(parent, 'store') }) };
  });
  after(async () => {
    await stores?.reader.close();
    await server?.stop();
    await rm(parent, { recursive: true, force: true });
  });
  readerSuite(false, () => {
    if (stores === undefined) throw new Error('there is no store');
    return stores;
  });
});

describe('the peer reader on presync serve', () => {
  const stop = new AbortController();
  let parent = '';
  let serving: Promise<void> | undefined;
  let stores: { reader: ObjectStore; writer: ObjectStore } | undefined;
  before(async () => {
    parent = await mkdtemp(join(tmpdir(), 'presync-peer-'));
    const writer = createFileStore({ dir: join(parent, 'store') });
    await openOrCreateRepository(writer, { signal: stop.signal });
    const { promise, resolve } = Promise.withResolvers<string>();
    serving = serve({
      store: writer,
      listen: { host: '127.0.0.1', port: 0 },
      maxAnswers: 64,
      log: createSilentLogger(),
      onListening: resolve,
      signal: stop.signal,
    });
    const url = await Promise.race([promise, serving.then(() => '')]);
    stores = { reader: await openStore(url, { signal: stop.signal }), writer };
  });
  after(async () => {
    await stores?.reader.close();
    stop.abort();
    await serving;
    await rm(parent, { recursive: true, force: true });
  });
  readerSuite(true, () => {
    if (stores === undefined) throw new Error('there is no store');
    return stores;
  });
});
