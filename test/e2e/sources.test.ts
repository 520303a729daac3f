/** Restores from other places than a bucket: peers, web servers, and several at once of which some fail. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { hasProgram, needs } from '../support/needs.ts';
import { makeCertificates, startPeer } from '../support/peer.ts';
import { COMMAND, type PresyncOutcome, presync, presyncOk } from '../support/presync.ts';
import { assertSameDatabase, digestFiles } from '../support/tree.ts';
import { createWorld, type World } from '../support/world.ts';

const run = promisify(execFile);
const OPENSSL = hasProgram('openssl');
const ZSTD = hasProgram('zstd');

/** Small chunks, so that the small database has many. */
const SMALL_CHUNKS = ['--chunk-size', '64KiB'];

interface Site {
  url: string;
  /** Requests for chunks so far. */
  chunks(): number;
}

type Mischief = (request: IncomingMessage, response: ServerResponse, path: string) => void;

/** A web server for the store's folder. From the chunk with that number on, it does something else. */
async function startSite(
  t: TestContext,
  storeDir: string,
  from = Number.POSITIVE_INFINITY,
  mischief?: Mischief,
): Promise<Site> {
  let chunks = 0;
  const server = createServer((request, response) => {
    const path = join(storeDir, decodeURIComponent(request.url ?? ''));
    if (request.url?.startsWith('/chunks/')) chunks += 1;
    if (chunks > from && mischief !== undefined) mischief(request, response, path);
    else void give(request, response, path);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  return { url: `http://127.0.0.1:${address.port}`, chunks: () => chunks };
}

async function give(request: IncomingMessage, response: ServerResponse, path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile() !== true) {
    response.writeHead(404).end();
    return;
  }
  response.writeHead(200, { etag: `"${found.mtimeMs}"`, 'content-length': found.size });
  if (request.method === 'HEAD') response.end();
  else createReadStream(path).pipe(response);
}

/** The same length, and other bytes. */
const lie: Mischief = (_request, response, path) => {
  readFile(path).then(
    (bytes) => {
      bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 0xff;
      response.writeHead(200, { etag: '"lie"', 'content-length': bytes.length }).end(bytes);
    },
    () => response.writeHead(404).end(),
  );
};
const die: Mischief = (_request, response) => response.destroy();
const stall: Mischief = () => {};

interface SourceReport {
  location: string;
  objects: number;
  failures: Record<string, number>;
  hedges: number;
  abandoned: number;
  dropped?: string;
}

async function restore(world: World, args: string[]): Promise<PresyncOutcome & { sources: SourceReport[] }> {
  const outcome = await presyncOk([
    ...['restore', '--base-path', join(world.dir, 'target'), '--state-dir', join(world.dir, 'target-state')],
    ...['--trust', world.trust, '--json', ...args],
  ]);
  const { sources } = JSON.parse(outcome.stdout);
  return { ...outcome, sources };
}

async function assertRestored({ base, dir, database }: World, target = join(dir, 'target')): Promise<void> {
  await assertSameDatabase(join(base, database), join(target, database));
}

describe('several sources', () => {
  it('one dies, one stalls and one lies half-way: the bytes are right, and the report says what happened', async (t) => {
    const world = await createWorld(t, { more: SMALL_CHUNKS });
    const dying = await startSite(t, world.storeDir, 20, die);
    const stalling = await startSite(t, world.storeDir, 20, stall);
    const lying = await startSite(t, world.storeDir, 10, lie);
    const { sources } = await restore(world, [
      ...['--source', lying.url, '--source', stalling.url, '--source', dying.url, '--store', world.store],
    ]);
    await assertRestored(world);
    const [liar, staller, dier, store] = sources;
    assert.equal(liar?.location, lying.url);
    assert.match(liar?.dropped ?? '', /not what their names say/);
    assert.ok((liar?.failures.CHUNK_CORRUPT ?? 0) >= 3);
    assert.ok(
      (staller?.abandoned ?? 0) + (staller?.failures.STORE_UNREACHABLE ?? 0) > 0,
      JSON.stringify(staller),
    );
    assert.ok(
      (dier?.failures.STORE_UNREACHABLE ?? 0) + (dier?.failures.STORE_FAILED ?? 0) > 0,
      JSON.stringify(dier),
    );
    assert.ok((store?.objects ?? 0) > 0);
  });

  it('a source that is not there, and one that holds something else, cost nothing but a warning', async (t) => {
    const world = await createWorld(t);
    const empty = join(world.dir, 'empty');
    await mkdir(empty);
    const other = await startSite(t, empty);
    const { stderr, sources } = await restore(world, [
      ...[
        '--source',
        'http://127.0.0.1:1',
        '--source',
        other.url,
        '--store',
        world.store,
        '--channel',
        'dev/rocksdb',
      ],
    ]);
    await assertRestored(world);
    assert.equal(stderr.match(/source\.unfit/g)?.length, 2, stderr);
    assert.ok((sources[2]?.objects ?? 0) > 0);
  });

  it('when every source lies, nothing is restored', async (t) => {
    const world = await createWorld(t, { more: SMALL_CHUNKS });
    const a = await startSite(t, world.storeDir, 0, lie);
    const b = await startSite(t, world.storeDir, 0, lie);
    const { code, json } = await presync([
      ...[
        'restore',
        '--base-path',
        join(world.dir, 'target'),
        '--state-dir',
        join(world.dir, 'state'),
        '--json',
      ],
      ...['--trust', world.trust, '--source', a.url, '--store', b.url, '--channel', 'dev/rocksdb'],
    ]);
    assert.equal(code, 4, JSON.stringify(json));
    assert.deepEqual(await digestFiles(join(world.dir, 'target', world.database)).catch(() => ({})), {});
  });
});

describe('presync serve', () => {
  it('a machine restores from its peer, and from nowhere else', async (t) => {
    const world = await createWorld(t);
    const { url, running } = await startPeer(t, ['--store', world.store]);
    const { sources } = await restore(world, ['--store', url]);
    await assertRestored(world);
    assert.equal(sources[0]?.location, url);
    assert.match((await presyncOk(['list', '--store', url])).stdout, /dev\/rocksdb/);
    running.child.kill('SIGTERM');
    assert.equal((await running.done).code, 143);
  });

  it('lets nobody in without the token', async (t) => {
    const world = await createWorld(t);
    const token = join(world.dir, 'token');
    await writeFile(token, 'a-long-random-text\n', { mode: 0o600 });
    const { url } = await startPeer(t, ['--store', world.store, '--serve-token', token]);
    const refused = await presync(['list', '--store', url, '--json']);
    assert.equal(refused.code, 7);
    assert.match(refused.stdout, /STORE_FORBIDDEN/);
    const auth = join(world.dir, 'auth');
    await writeFile(auth, `${url.replace('peer+', '')} bearer another-text\n`, { mode: 0o600 });
    const wrong = await presync(['list', '--store', url, '--store-auth', auth]);
    assert.equal(wrong.code, 7);
    assert.doesNotMatch(`${wrong.stdout}${wrong.stderr}`, /another-text/);
    await writeFile(auth, `# the peer\n${url.replace('peer+', '')} bearer a-long-random-text\n`, {
      mode: 0o600,
    });
    await restore(world, ['--store', url, '--store-auth', auth]);
    await assertRestored(world);
  });

  it('lets nobody in without a certificate', needs('openssl', OPENSSL), async (t) => {
    const world = await createWorld(t);
    const pem = await makeCertificates(world.dir);
    const { url } = await startPeer(t, [
      ...['--store', world.store, '--serve-cert', pem.serverCert, '--serve-cert-key', pem.serverKey],
      ...['--serve-client-ca', pem.ca],
    ]);
    const place = url.replace('127.0.0.1', 'localhost');
    const untrusted = await presync(['list', '--store', place, '--json']);
    assert.equal(untrusted.code, 7);
    assert.match(untrusted.stdout, /not trusted/);
    const nameless = await presync(['list', '--store', place, '--store-ca', pem.ca, '--json'], {
      env: { PRESYNC_STORE_CERT: '', PRESYNC_STORE_CERT_KEY: '' },
    });
    assert.notEqual(nameless.code, 0);
    await restore(world, [
      ...[
        '--store',
        place,
        '--store-ca',
        pem.ca,
        '--store-cert',
        pem.clientCert,
        '--store-cert-key',
        pem.clientKey,
      ],
    ]);
    await assertRestored(world);
  });

  it('keeps to its bandwidth', async (t) => {
    const world = await createWorld(t);
    const { url } = await startPeer(t, ['--store', world.store, '--bandwidth', '2MiB']);
    const { seconds } = await restore(world, ['--store', url]);
    await assertRestored(world);
    // Some 4 MiB are stored; the first quarter of a second is free.
    assert.ok(seconds >= 1.2, `${seconds} s`);
  });
});

describe('presync export', () => {
  for (const backend of ['rocksdb', 'paritydb'] as const) {
    it(`writes a ${backend} snapshot that zstd and tar restore`, needs('zstd', ZSTD), async (t) => {
      const world = await createWorld(t, { backend });
      const out = join(world.dir, 'snapshot.tar.zst');
      const args = [
        'export',
        '--store',
        world.store,
        '--trust',
        world.trust,
        '--state-dir',
        join(world.dir, 'state'),
      ];
      await presyncOk([...args, '--out', out]);
      const target = join(world.dir, 'target');
      await mkdir(target);
      await run('bash', ['-ec', 'set -o pipefail; zstd -dc < "$1" | tar -x -C "$2"', 'bash', out, target]);
      await assertRestored(world);
      const again = await presync([...args, '--out', out, '--json']);
      assert.equal(again.code, 2);
      const piped = join(world.dir, 'piped');
      await mkdir(piped);
      await pipeThrough([...args, '--out', '-'], piped);
      await assertRestored(world, piped);
    });
  }
});

/** presync's standard output, as a person would use it: unpacked on its way. */
async function pipeThrough(args: string[], target: string): Promise<void> {
  const script = 'set -o pipefail; target="$1"; shift; "$@" | zstd -dc | tar -x -C "$target"';
  await run('bash', ['-ec', script, 'bash', target, process.execPath, COMMAND, ...args]);
}
