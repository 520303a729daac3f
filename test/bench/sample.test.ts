import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { Agent, createServer, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { constants, zstdCompressSync } from 'node:zlib';
import { type BlockKind, createBlockStream } from '../../bench/lib/blocks.ts';
import { measure } from '../../bench/lib/measure.ts';
import { renderReport } from '../../bench/lib/report.ts';
import type { Results, Sample } from '../../bench/lib/results.ts';
import { createPace, startThrottle, type ThrottleOptions } from '../../bench/lib/throttle.ts';
import {
  churnTree,
  DATABASE_FOLDERS,
  generateTree,
  type TreeKind,
  treeDigest,
} from '../../bench/lib/trees.ts';

const MIB = 1024 * 1024;
const signal = AbortSignal.timeout(300_000);

async function scratch(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'presync-bench-test-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

for (const kind of ['rocksdb', 'paritydb'] as const satisfies readonly TreeKind[]) {
  test(`a ${kind} tree has the size that was asked for and is the same each time`, async (t) => {
    const folder = await scratch(t);
    const one = await generateTree({ basePath: join(folder, '1'), kind, size: 32 * MIB, seed: 1, signal });
    await generateTree({ basePath: join(folder, '2'), kind, size: 32 * MIB, seed: 1, signal });
    await generateTree({ basePath: join(folder, '3'), kind, size: 32 * MIB, seed: 2, signal });
    assert.ok(Math.abs(one.bytes - 32 * MIB) < 6 * MIB, `${one.bytes} bytes`);
    const digest = await treeDigest(join(folder, '1'), kind);
    assert.equal(await treeDigest(join(folder, '2'), kind), digest);
    assert.notEqual(await treeDigest(join(folder, '3'), kind), digest);
    const names = await readdir(join(folder, '1', DATABASE_FOLDERS[kind]));
    const allowed =
      kind === 'rocksdb'
        ? /^(\d{6}\.(sst|log)|MANIFEST-\d{6}|CURRENT|OPTIONS-\d{6}|IDENTITY|db_version)$/
        : /^(metadata|log\d+|index_\d\d_\d\d|table_\d\d_[0-9a-f]{2})$/;
    for (const name of names) assert.match(name, allowed);
  });

  test(`the next generation of a ${kind} tree shares what has not changed and leaves the first alone`, async (t) => {
    const folder = await scratch(t);
    const [from, to, again] = ['1', '2', '3'].map((name) => join(folder, name)) as [string, string, string];
    await generateTree({ basePath: from, kind, size: 64 * MIB, seed: 1, signal });
    const before = await treeDigest(from, kind);
    const churn = await churnTree({ from, to, kind, seed: 1, signal });
    assert.equal(await treeDigest(from, kind), before);
    assert.notEqual(await treeDigest(to, kind), before);
    assert.ok(churn.changedFiles > 0 && churn.changedBytes > 0 && churn.changedBytes < churn.bytes / 4);
    let shared = 0;
    for (const name of await readdir(join(to, DATABASE_FOLDERS[kind])))
      if ((await stat(join(to, DATABASE_FOLDERS[kind], name))).nlink > 1) shared += 1;
    assert.equal(shared, churn.files - churn.changedFiles);
    await churnTree({ from, to: again, kind, seed: 1, signal });
    assert.equal(await treeDigest(again, kind), await treeDigest(to, kind));
  });
}

test('ParityDB trees have holes', async (t) => {
  const folder = await scratch(t);
  await generateTree({ basePath: folder, kind: 'paritydb', size: 64 * MIB, seed: 1, signal });
  const index = join(folder, DATABASE_FOLDERS.paritydb, 'index_00_10');
  const info = await stat(index);
  const nonZero = (await readFile(index)).some((byte) => byte !== 0);
  assert.ok(info.blocks * 512 < info.size / 2, `${info.blocks * 512} of ${info.size} bytes are on the disk`);
  assert.ok(nonZero);
});

test('blocks compress as the fixtures do', () => {
  const wanted: Record<BlockKind, number> = { sst: 0.71, wal: 0.23, values: 0.96, slots: 0.47, index: 0.41 };
  for (const [kind, ratio] of Object.entries(wanted) as Array<[BlockKind, number]>) {
    const plain = createBlockStream(kind, 7, 'test')(4 * MIB);
    const stored = zstdCompressSync(plain, { params: { [constants.ZSTD_c_compressionLevel]: 3 } });
    const measured = stored.length / plain.length;
    assert.ok(Math.abs(measured - ratio) < 0.05, `${kind}: ${measured.toFixed(3)} in place of ${ratio}`);
  }
});

/** An HTTP server that answers with its body, or digests what it is sent; and a throttle in front of it. */
async function behindThrottle(t: TestContext, options: Omit<ThrottleOptions, 'upstreamPort'>, body: Buffer) {
  const server = createServer((incoming, answer) => {
    const hash = createHash('sha256');
    incoming.on('data', (chunk: Buffer) => hash.update(chunk));
    incoming.on('end', () => answer.end(incoming.method === 'PUT' ? hash.digest('hex') : body));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  const throttle = await startThrottle({ upstreamPort: address.port, ...options });
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  t.after(async () => {
    agent.destroy();
    await throttle.close();
    server.close();
    server.closeAllConnections();
  });
  const call = (method: string, payload?: Buffer) =>
    new Promise<{ bytes: Buffer; firstByteMs: number; totalMs: number }>((resolve, reject) => {
      const start = performance.now();
      const outgoing = request({ host: '127.0.0.1', port: throttle.port, method, agent }, (incoming) => {
        const firstByteMs = performance.now() - start;
        const parts: Buffer[] = [];
        incoming.on('data', (chunk: Buffer) => parts.push(chunk));
        incoming.on('end', () =>
          resolve({ bytes: Buffer.concat(parts), firstByteMs, totalMs: performance.now() - start }),
        );
      });
      outgoing.on('error', reject).end(payload);
    });
  return { throttle, call };
}

test('the throttle carries bytes unchanged, both ways, on one connection', async (t) => {
  const body = createBlockStream('sst', 1, 'body')(9 * MIB + 17);
  const { call, throttle } = await behindThrottle(
    t,
    { bytesPerSecond: Number.POSITIVE_INFINITY, firstByteMs: 0 },
    body,
  );
  for (let times = 0; times < 3; times += 1) {
    assert.ok((await call('GET')).bytes.equals(body));
    assert.equal((await call('PUT', body)).bytes.toString(), createHash('sha256').update(body).digest('hex'));
  }
  const counters = throttle.counters();
  assert.equal(counters.connections, 1);
  assert.ok(counters.received > 3 * body.length && counters.sent > 3 * body.length);
});

test('the throttle limits a connection in both directions', async (t) => {
  const body = createBlockStream('values', 1, 'body')(6 * MIB);
  const { call } = await behindThrottle(t, { bytesPerSecond: 20e6, firstByteMs: 0 }, body);
  const least = (body.length / 20e6) * 1000 * 0.75;
  const down = await call('GET');
  assert.ok(down.bytes.equals(body));
  assert.ok(down.totalMs > least, `down in ${down.totalMs} ms`);
  const up = await call('PUT', body);
  assert.equal(up.bytes.toString(), createHash('sha256').update(body).digest('hex'));
  assert.ok(up.totalMs > least, `up in ${up.totalMs} ms`);
});

test('the throttle delays the first byte of every response', async (t) => {
  const { call } = await behindThrottle(
    t,
    { bytesPerSecond: Number.POSITIVE_INFINITY, firstByteMs: 60 },
    Buffer.alloc(2 * MIB, 1),
  );
  for (let times = 0; times < 3; times += 1) {
    const answer = await call('GET');
    assert.ok(answer.firstByteMs > 55, `first byte after ${answer.firstByteMs} ms`);
    assert.equal(answer.bytes.length, 2 * MIB);
  }
});

test('a pace lends no idle time beyond its credit', () => {
  let now = 0;
  const pace = createPace(1000, () => now);
  pace.restart();
  assert.equal(pace.pass(500), 500);
  assert.equal(pace.pass(500), 1000);
  now = 100_000;
  const wait = pace.pass(1000);
  assert.ok(wait > 980 && wait < 1000, `${wait}`);
});

test('measuring counts children, memory and failure', async (t) => {
  const folder = await scratch(t);
  const env = { PATH: process.env.PATH ?? '' };
  const script = `"${process.execPath}" -e "const b = Buffer.alloc(200e6, 1); const t = Date.now(); while (Date.now() - t < 800) b[0]++" | cat`;
  const result = await measure(script, { env, cwd: folder, syncPath: folder, signal });
  assert.ok(result.wallSeconds >= 0.8);
  assert.ok(result.userSeconds + result.systemSeconds > 0.1);
  assert.ok(result.peakRssBytes > 200e6, `${result.peakRssBytes}`);
  assert.ok(result.largestProcessBytes <= result.peakRssBytes + 100e6);
  await assert.rejects(
    measure('echo broken >&2; exit 3 | cat', { env, cwd: folder, signal }),
    /exit code 3[\s\S]*broken/,
  );
});

test('the report gives medians, ratios, targets and losses', () => {
  const sample = (wallSeconds: number, more: Partial<Sample> = {}): Sample => ({
    wallSeconds,
    syncSeconds: 0.5,
    userSeconds: wallSeconds,
    systemSeconds: 0,
    peakRssBytes: 100 * MIB,
    largestProcessBytes: 100 * MIB,
    serverSeconds: 0,
    proxySeconds: 0,
    otherSeconds: 0,
    storedBytes: 0,
    ...more,
  });
  const cell = (tool: string, times: number[], more?: Partial<Sample>) => ({
    tree: 'rocksdb' as const,
    arrangement: 'file' as const,
    tool,
    step: 'restore' as const,
    script: `run ${tool}`,
    samples: times.map((time) => sample(time, more)),
  });
  const results: Results = {
    name: 'test',
    date: '2026-01-01',
    options: { size: 64 * MIB, repeat: 3, seed: 1, bytesPerSecond: 90e6, firstByteMs: 20 },
    machine: { cores: 2 },
    versions: {},
    trees: [
      {
        kind: 'rocksdb',
        files: 3,
        bytes: 64 * MIB,
        allocatedBytes: 64 * MIB,
        ratio: 0.7,
        changedBytes: MIB,
        changedFiles: 1,
      },
    ],
    ceilings: [],
    disk: { writeBytesPerSecond: 1e9, readBytesPerSecond: 1e9 },
    cells: [
      cell('presync', [3.5, 1.5, 9.5], { peakRssBytes: 600 * MIB }),
      cell('tar | zstd', [1.5, 1.5, 1.5]),
      cell('restic', [11.5]),
    ],
    remarks: [],
  };
  const report = renderReport(results);
  assert.match(report, /\| presync \| 4\.00 \(2\.00–10\.00\) \|/);
  assert.match(report, /\| tar \\\| zstd \| 2\.00 \(2\.00–2\.00\) \| 1\.50 \(1\.50–1\.50\) \| 0\.50 \|/);
  assert.match(report, /against zstd -d \\\| tar x \| rocksdb \| ≥ 1\.0 × \| 0\.50 × \| \*\*no\*\* \|/);
  assert.match(report, /against restic \| rocksdb \| ≥ 2\.0 × \| 3\.00 × \| yes \|/);
  assert.match(report, /memory of snapshot and restore \| rocksdb \| ≤ 512 MiB \| 600 MiB \| \*\*no\*\* \|/);
  assert.match(
    report,
    /restore: presync takes 4\.0 s and loses to tar \| zstd \(2\.0 s, 2\.00 times as fast\)/,
  );
  assert.doesNotMatch(report, /loses to[^\n]*restic/);
  assert.doesNotMatch(report, /Not a quiet machine/);
  results.cells = [cell('presync', [3.5], { otherSeconds: 2 })];
  assert.match(renderReport(results), /Not a quiet machine\*\*: in 1 of 1/);
});
