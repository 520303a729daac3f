/**
 * Several databases of one node in one snapshot: a parachain's and its relay chain's, and what both keep of parachains. The databases are real ones in the
 * places where such a node has them; a node that has them all needs relay chain runtimes, which the one here is built without.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { cp, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { needs } from '../support/needs.ts';
import { presync, presyncOk } from '../support/presync.ts';
import { DEV_GENESIS, hasNode, startNode, unpackFixture } from '../support/real-node.ts';
import { createSource, type Source } from '../support/world.ts';

const MAIN = 'chains/dev/db/full';
const MAIN_PARACHAINS = `${MAIN}/parachains/db`;
const RELAY = 'polkadot/chains/dev/paritydb/full';
const RELAY_PARACHAINS = 'polkadot/chains/dev/paritydb/parachains';
const SKIPPED = /^(?:LOCK|LOG.*|lock|stats\.txt)$/;

interface Manifest {
  format: { features: string[] };
  node: { parts: { role: string; backend: string; path: string; databaseVersion: string }[] };
}

/** A parachain's node on RocksDB with a relay chain on ParityDB, and parachain data of both, as a relay chain's node has. */
async function createParts(t: TestContext): Promise<Source> {
  const source = await createSource(t);
  const { base } = source;
  await copyInto(join(base, MAIN), join(base, MAIN_PARACHAINS));
  await unpackFixture('paritydb', join(base, 'polkadot'));
  await copyInto(join(base, RELAY), join(base, RELAY_PARACHAINS));
  await rm(join(base, MAIN_PARACHAINS, 'db_version'));
  for (const path of [MAIN_PARACHAINS, RELAY_PARACHAINS])
    await writeFile(join(base, path, 'parachain_db_version'), '5');
  return source;
}

async function copyInto(from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true });
  for (const entry of await readdir(from, { withFileTypes: true }))
    if (entry.isFile()) await cp(join(from, entry.name), join(to, entry.name));
}

/** The files of a database folder that belong to a snapshot. */
async function filesOf(dir: string): Promise<Record<string, Buffer>> {
  const files: Record<string, Buffer> = {};
  for (const entry of await readdir(dir, { withFileTypes: true }))
    if (entry.isFile() && !SKIPPED.test(entry.name))
      files[entry.name] = await readFile(join(dir, entry.name));
  return files;
}

const restoreArgs = ({ dir, store, trust }: Source, target: string): string[] => [
  ...['restore', '--base-path', target, '--store', store, '--trust', trust],
  ...['--state-dir', join(dir, 'agent')],
];

describe('a snapshot of several databases', () => {
  it('holds all of them and nothing else, and comes back whole, to one base path or to two', async (t) => {
    const source = await createParts(t);
    const { base, dir, takeArgs } = source;
    const keys = join(base, 'polkadot/chains/dev/keystore/6175');
    await mkdir(dirname(keys), { recursive: true });
    await writeFile(keys, 'SECRET-SEED');
    const { json } = await presyncOk(['snapshot', ...takeArgs, '--databases', 'all', '--json']);
    const { manifest } = json as { manifest: Manifest };
    assert.deepEqual(manifest.format.features, ['parts']);
    assert.deepEqual(
      manifest.node.parts.map(({ role, backend, path, databaseVersion }) => [
        role,
        backend,
        path,
        databaseVersion,
      ]),
      [
        ['main', 'rocksdb', MAIN, manifest.node.parts[0]?.databaseVersion],
        ['parachains', 'rocksdb', MAIN_PARACHAINS, '5'],
        ['relay', 'paritydb', RELAY, manifest.node.parts[2]?.databaseVersion],
        ['relay-parachains', 'paritydb', RELAY_PARACHAINS, manifest.node.parts[3]?.databaseVersion],
      ],
    );
    const one = join(dir, 'one');
    const two = join(dir, 'two');
    const relay = join(dir, 'two-relay');
    await presyncOk(restoreArgs(source, one));
    await presyncOk([...restoreArgs(source, two), '--relay-base-path', relay]);
    for (const path of [MAIN, MAIN_PARACHAINS, RELAY, RELAY_PARACHAINS]) {
      const files = await filesOf(join(base, path));
      assert.ok(Object.keys(files).length > 3);
      assert.deepEqual(await filesOf(join(one, path)), files, path);
      const other = path.startsWith('polkadot/')
        ? join(relay, path.slice('polkadot/'.length))
        : join(two, path);
      assert.deepEqual(await filesOf(other), files, path);
    }
    assert.equal(existsSync(join(two, 'polkadot')), false);
    assert.deepEqual(await readdir(join(one, 'polkadot/chains/dev')), ['paritydb']);
    assert.equal(spawnSync('grep', ['-rq', 'SECRET-SEED', one, two, relay]).status, 1);
  });

  it('takes the relay chain from a base path of its own, and the main database alone when nothing is said', async (t) => {
    const source = await createParts(t);
    const relay = join(source.dir, 'relay-source');
    await rename(join(source.base, 'polkadot'), relay);
    const unsaid = await presync(['snapshot', ...source.takeArgs, '--relay-base-path', relay]);
    assert.equal(unsaid.code, 2);
    assert.match(unsaid.stderr, /the relay chain is not to be taken/);
    const archive = ['--archive', '/nowhere.tar', '--relay-base-path', relay];
    const one = await presync(['restore', '--base-path', join(source.dir, 'x'), ...archive]);
    assert.deepEqual([one.code, /an archive is of one database/.test(one.stderr)], [2, true]);
    const alone = await presyncOk(['snapshot', ...source.takeArgs, '--json']);
    const { manifest } = alone.json as { manifest: Manifest };
    assert.deepEqual([manifest.format.features, manifest.node.parts.length], [[], 1]);
    const all = await presyncOk([
      ...['snapshot', ...source.takeArgs, '--databases', 'all', '--relay-base-path', relay, '--json'],
    ]);
    assert.deepEqual(
      (all.json as { manifest: Manifest }).manifest.node.parts.map(({ path }) => path),
      [MAIN, MAIN_PARACHAINS, RELAY, RELAY_PARACHAINS],
    );
  });

  it('is refused when one of them holds what no database has', async (t) => {
    const source = await createParts(t);
    for (const path of [MAIN_PARACHAINS, RELAY, RELAY_PARACHAINS]) {
      const stranger = join(source.base, path, 'secret_ed25519');
      await writeFile(stranger, 'x');
      const { code, stderr } = await presync(['snapshot', ...source.takeArgs, '--databases', 'all']);
      assert.equal(code, 2);
      assert.match(stderr, /NODE_UNKNOWN_FILE/);
      await rm(stranger);
    }
    // Only the data of parachains has a version of that name.
    await writeFile(join(source.base, RELAY, 'parachain_db_version'), '5');
    assert.equal((await presync(['snapshot', ...source.takeArgs, '--databases', 'all'])).code, 2);
  });

  it(
    'brings up a node from each of the two chains’ databases',
    needs('a node executable', hasNode()),
    async (t) => {
      const source = await createParts(t);
      await presyncOk(['snapshot', ...source.takeArgs, '--databases', 'all']);
      const target = join(source.dir, 'target');
      await presyncOk(restoreArgs(source, target));
      const opened = [
        [target, 'rocksdb'],
        [join(target, 'polkadot'), 'paritydb'],
      ] as const;
      for (const [basePath, backend] of opened) {
        const node = await startNode({ basePath, backend, blockTimeMs: 0 });
        try {
          assert.equal(await node.call('chain_getBlockHash', 0), DEV_GENESIS);
          assert.ok((await node.best()) > 1000, `${backend}: ${await node.best()}`);
        } finally {
          await node.stop();
        }
      }
    },
  );
});

/** Holds the locks of both databases, and writes a number that grows to a file of the second, then of the first, for ever. */
const WRITER = `
import fcntl, struct, sys
locks = [open(path, 'r+b') for path in sys.argv[3:]]
for lock in locks: fcntl.lockf(lock, fcntl.LOCK_EX)
files = [open(path, 'r+b', buffering=0) for path in (sys.argv[2], sys.argv[1])]
print('ready', flush=True)
n = 0
while True:
    n += 1
    for file in files:
        file.seek(0)
        file.write(struct.pack('<Q', n))
`;

const hasPython = spawnSync('python3', ['--version']).status === 0;

describe('a node with two databases', needs('python3', hasPython), () => {
  /** A base path with two RocksDBs, each with a file for the writer's number. */
  async function createPair(t: TestContext): Promise<{ source: Source; relay: string; counters: string[] }> {
    const source = await createSource(t);
    const relay = join(source.base, 'polkadot', MAIN);
    await copyInto(join(source.base, MAIN), relay);
    const counters = [join(source.base, MAIN, '009999.log'), join(relay, '009999.log')];
    for (const path of counters) await writeFile(path, Buffer.alloc(8));
    for (const dir of [join(source.base, MAIN), relay]) await writeFile(join(dir, 'LOCK'), '');
    return { source, relay, counters };
  }

  async function startWriter(t: TestContext, counters: string[], locks: string[]): Promise<ChildProcess> {
    const child = spawn('python3', ['-c', WRITER, ...counters, ...locks], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.after(() => child.kill('SIGKILL'));
    if (child.stdout !== null) await once(child.stdout, 'data');
    return child;
  }

  it('is paused once for both', async (t) => {
    const { source, relay, counters } = await createPair(t);
    const locks = [join(source.base, MAIN, 'LOCK'), join(relay, 'LOCK')];
    const writer = await startWriter(t, counters, locks);
    const rpc = await startRpc(t);
    const { stderr } = await presyncOk([
      ...['snapshot', ...source.takeArgs, '--databases', 'all', '--pause', 'signal'],
      ...['--pid', String(writer.pid), '--rpc', rpc, '--anchor-age', '0s'],
    ]);
    assert.equal(stderr.match(/"event":"view.frozen"/g)?.length, 2);
    const target = join(source.dir, 'target');
    await presyncOk([...restoreArgs(source, target)]);
    const read = (path: string): bigint => readFileSync(join(target, path, '009999.log')).readBigUInt64LE();
    const [main, other] = [read(MAIN), read(join('polkadot', MAIN))];
    t.diagnostic(`main ${main}, relay ${other}`);
    assert.ok(main > 0n && (other === main || other === main + 1n), `main ${main}, relay ${other}`);
    const state = readFileSync(`/proc/${writer.pid}/stat`, 'utf8').split(') ')[1]?.[0];
    assert.notEqual(state, 'T', 'the writer is still paused');
  });

  it('is refused when another process, or none, has one of them', async (t) => {
    const { source, relay, counters } = await createPair(t);
    const lock = join(relay, 'LOCK');
    await startWriter(t, counters, [lock]);
    const take = ['snapshot', ...source.takeArgs, '--databases', 'all'];
    const outcome = await presync(take);
    assert.equal(outcome.code, 8, outcome.stderr);
    assert.match(outcome.stderr, /is held open by nobody and .*polkadot.* by process \d+/);
    assert.equal(existsSync(join(source.storeDir, 'presync.json')), false);
    await presyncOk(['snapshot', ...source.takeArgs]);
  });

  it('is not restored over while one of them is open', async (t) => {
    const { source, relay, counters } = await createPair(t);
    await presyncOk(['snapshot', ...source.takeArgs, '--databases', 'all']);
    await startWriter(t, counters, [join(relay, 'LOCK')]);
    const outcome = await presync([...restoreArgs(source, source.base), '--existing', 'replace', '--yes']);
    assert.equal(outcome.code, 6, outcome.stderr);
    assert.match(outcome.stderr, /TARGET_RUNNING/);
  });
});

/** Answers what presync asks a healthy node whose chain grows. */
async function startRpc(t: TestContext): Promise<string> {
  const hash = (number: number): string =>
    number === 0 ? DEV_GENESIS : `0x${number.toString(16).padStart(64, '0')}`;
  const best = (): number => Math.floor(Date.now() / 100) % 1_000_000;
  const answers: Record<string, (params: unknown[]) => unknown> = {
    chain_getBlockHash: ([number]) => hash(number === undefined ? best() : Number(number)),
    chain_getFinalizedHead: () => hash(best() - 1),
    chain_getHeader: ([of]) => ({ number: `0x${Number(of).toString(16)}` }),
    system_health: () => ({ peers: 0, isSyncing: false, shouldHavePeers: false }),
    system_chain: () => 'Development',
    system_name: () => 'stand-in',
    system_version: () => '1',
  };
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const piece of request) body += piece;
    const { id, method, params } = JSON.parse(body);
    const result = answers[method]?.(params ?? []) ?? null;
    response
      .setHeader('content-type', 'application/json')
      .end(JSON.stringify({ jsonrpc: '2.0', id, result }));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const address = server.address();
  assert.ok(typeof address === 'object' && address !== null);
  return `http://127.0.0.1:${address.port}`;
}
