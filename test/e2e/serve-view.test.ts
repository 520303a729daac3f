/** `presync serve --base-path`: other machines restore from the database of a node that does not run, of which no copy is stored. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { appendFile, mkdtemp, open, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { zstdDecompressSync } from 'node:zlib';
import { hasProgram, needs } from '../support/needs.ts';
import { makeCertificates, type Peer, startPeer } from '../support/peer.ts';
import { freePort } from '../support/ports.ts';
import { type PresyncOutcome, presync, presyncOk, startPresync } from '../support/presync.ts';
import { DEV_GENESIS, type FixtureBackend, unpackFixture } from '../support/real-node.ts';
import { assertSameDatabase, listTree } from '../support/tree.ts';

interface Scene {
  dir: string;
  base: string;
  /** The database folder, below a base path. */
  database: string;
  /** The folder beside it, in which views are made. */
  views: string;
  /** Arguments of `presync serve` and `presync snapshot` for a frozen view. */
  view: string[];
  trust: string;
}

async function scene(t: TestContext, backend: FixtureBackend = 'rocksdb'): Promise<Scene> {
  const dir = await mkdtemp(join(tmpdir(), 'presync-serve-view-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const base = join(dir, 'source');
  await unpackFixture(backend, base);
  const key = join(dir, 'key.pem');
  await presyncOk(['keys', 'new', '--out', key]);
  const folder = backend === 'rocksdb' ? 'chains/dev/db' : 'chains/dev/paritydb';
  return {
    dir,
    base,
    database: `${folder}/full`,
    views: join(base, folder, '.presync'),
    view: [
      ...['--base-path', base, '--pause', 'none', '--genesis', DEV_GENESIS, '--sign-key', key],
      ...['--state-dir', join(dir, 'source-state'), '--chunk-size', '64KiB'],
    ],
    trust: (await presyncOk(['keys', 'public', key])).stdout.trim(),
  };
}

function restoreArgs({ dir, trust }: Scene, store: string, target = 'target'): string[] {
  return [
    ...['restore', '--base-path', join(dir, target), '--state-dir', join(dir, 'agent')],
    ...['--trust', trust, '--json', '--store', store],
  ];
}

interface Restored {
  sequence: number;
  restored: { fetchedChunks: number; resumedChunks: number };
  sources: { location: string; objects: number; failures: object; dropped?: string }[];
}

async function restore(
  made: Scene,
  store: string,
  target = 'target',
  more: string[] = [],
): Promise<Restored> {
  const { stdout } = await presyncOk([...restoreArgs(made, store, target), ...more]);
  return JSON.parse(stdout);
}

const assertRestored = ({ base, dir, database }: Scene, target = 'target'): Promise<void> =>
  assertSameDatabase(join(base, database), join(dir, target, database));

async function viewsIn({ views }: Scene): Promise<string[]> {
  return readdir(views).catch(() => []);
}

async function stop({ running }: Peer): Promise<void> {
  running.child.kill('SIGTERM');
  const { code, stderr } = await running.done;
  assert.equal(code, 143, stderr);
}

async function kill({ running }: Peer): Promise<void> {
  running.child.kill('SIGKILL');
  await running.done;
}

/** `presync serve` that must not come up; one that does is stopped, and ends with another code than is expected. */
async function refusal(args: readonly string[]): Promise<PresyncOutcome> {
  const { child, done } = startPresync([
    ...['serve', '--admin-listen', 'none', '--listen', '127.0.0.1:0', ...args],
  ]);
  const timer = setTimeout(() => child.kill('SIGTERM'), 60_000);
  return done.finally(() => clearTimeout(timer));
}

const httpOf = (peer: string): string => peer.replace('peer+', '');

/** Keys of the peer's chunks. */
async function chunkKeys(url: string): Promise<string[]> {
  const keys: string[] = [];
  for (;;) {
    const query = new URLSearchParams({ prefix: 'chunks/', after: keys.at(-1) ?? '' });
    const page = await (await fetch(`${httpOf(url)}/.presync/list?${query}`)).text();
    const found = page.split('\n').filter((line) => line !== '');
    if (found.length === 0) return keys;
    keys.push(...found.map((line) => String(JSON.parse(line).key)));
  }
}

describe('presync serve --base-path', () => {
  for (const backend of ['rocksdb', 'paritydb'] as const) {
    it(`${backend}: two machines restore from it at once, and the peer can be listed, shown and verified`, async (t) => {
      const made = await scene(t, backend);
      const before = await listTree(join(made.base, made.database));
      const peer = await startPeer(t, made.view);
      const [a, b] = await Promise.all([restore(made, peer.url, 'a'), restore(made, peer.url, 'b')]);
      assert.equal(a.sequence, b.sequence);
      await assertRestored(made, 'a');
      await assertRestored(made, 'b');
      const listed = await presyncOk(['list', '--store', peer.url]);
      assert.match(listed.stdout, new RegExp(`^dev/${backend}#${a.sequence} \\(newest\\)`));
      const agent = ['--trust', made.trust, '--state-dir', join(made.dir, 'agent')];
      await presyncOk(['show', '--store', peer.url, ...agent]);
      const verified = await presyncOk(['verify', '--store', peer.url, ...agent, '--json']);
      assert.deepEqual((verified.json as { problems: unknown[] }).problems, []);

      assert.equal((await viewsIn(made)).length, 1);
      await stop(peer);
      assert.deepEqual(await viewsIn(made), [], 'the view was left behind');
      assert.deepEqual(await listTree(join(made.base, made.database)), before, 'the database was touched');
      const kept = (await readdir(join(made.dir, 'source-state'), { recursive: true })).filter((name) =>
        name.includes('chunks'),
      );
      assert.deepEqual(kept, [], 'chunks were stored');
    });
  }

  it('a killed one’s view is swept by the next, whose new snapshot agents accept, and whose old one is gone', async (t) => {
    const made = await scene(t);
    const first = await startPeer(t, made.view);
    const { sequence } = await restore(made, first.url);
    await kill(first);
    const [left = ''] = await viewsIn(made);
    assert.match(left, /^view-/);

    await sleep(1100);
    const second = await startPeer(t, made.view);
    const views = await viewsIn(made);
    assert.equal(views.length, 1);
    assert.ok(!views.includes(left), 'the view of the killed process is still there');
    const again = await restore(made, second.url, 'again');
    assert.ok(again.sequence > sequence);
    await assertRestored(made, 'again');
    const gone = await presync([...restoreArgs(made, second.url, 'gone'), '--snapshot', String(sequence)]);
    assert.equal(gone.code, 5, gone.stdout);
    assert.match(gone.stdout, /SNAPSHOT_NOT_FOUND/);
    // A clock that went back, or a state folder that was lost, changes nothing: each offer has an id of its own.
    await stop(second);
    await rm(join(made.dir, 'source-state'), { recursive: true });
    const third = await startPeer(t, made.view);
    await restore(made, third.url, 'third');
    await assertRestored(made, 'third');
  });

  it('a restore that is under way goes on when its peer is started anew with the same database', async (t) => {
    const made = await scene(t);
    const args = [...made.view, '--listen', `127.0.0.1:${await freePort()}`];
    const first = await startPeer(t, [...args, '--bandwidth', '2MiB']);
    const running = startPresync(restoreArgs(made, first.url));
    t.after(() => running.child.kill('SIGKILL'));
    await untilFetching(made);
    await kill(first);
    await startPeer(t, args);
    const { code, stdout, stderr } = await running.done;
    assert.equal(code, 0, stdout + stderr);
    await assertRestored(made);
  });

  it('one whose peer has another database by now fails clearly, and is taken up by the same command', async (t) => {
    const made = await scene(t);
    const args = [...made.view, '--listen', `127.0.0.1:${await freePort()}`];
    const first = await startPeer(t, [...args, '--bandwidth', '2MiB']);
    const running = startPresync(restoreArgs(made, first.url));
    t.after(() => running.child.kill('SIGKILL'));
    await untilFetching(made);
    await kill(first);
    const folder = join(made.base, made.database);
    const manifest = (await readdir(folder)).find((name) => name.startsWith('MANIFEST-')) ?? '';
    await appendFile(join(folder, manifest), 'more');
    const second = await startPeer(t, args);
    const { code, stdout } = await running.done;
    assert.equal(code, 4, stdout);
    assert.match(stdout, /CHUNK_MISSING/);
    assert.match(stdout, /run the same command again/);
    const { restored } = await restore(made, second.url);
    assert.ok(restored.resumedChunks > 0, 'nothing was kept');
    await assertRestored(made);
  });

  for (const backend of ['rocksdb', 'paritydb'] as const) {
    it(`${backend}: a file that is damaged underneath is an error that names it, and never wrong bytes`, async (t) => {
      const made = await scene(t, backend);
      const peer = await startPeer(t, made.view);
      const keys = await chunkKeys(peer.url);
      assert.ok(keys.length > 20);
      const [view = ''] = await viewsIn(made);
      const names = await readdir(join(made.views, view));
      const name = names.find((found) => /^(?:MANIFEST-|table_00)/.test(found)) ?? '';
      {
        await using file = await open(join(made.views, view, name), 'r+');
        const byte = Buffer.alloc(1);
        await file.read(byte, 0, 1, 20);
        await file.write(Buffer.from([(byte[0] ?? 0) ^ 0x40]), 0, 1, 20);
      }
      let errors = 0;
      for (const key of keys) {
        const answer = await fetch(`${httpOf(peer.url)}/${key}`);
        const body = Buffer.from(await answer.arrayBuffer());
        if (answer.status === 500) {
          errors += 1;
          assert.match(answer.headers.get('cache-control') ?? '', /no-store/);
          assert.equal(answer.headers.get('etag'), null);
          continue;
        }
        assert.equal(answer.status, 200);
        const digest = createHash('sha256').update(zstdDecompressSync(body)).digest('hex');
        assert.ok(key.endsWith(digest), `${key} has other bytes`);
      }
      assert.equal(errors, 1);
      const logged = peer
        .log()
        .split('\n')
        .find((line) => line.includes('"event":"view.damaged"'));
      assert.ok(logged?.includes(name) === true, logged ?? 'nothing was logged');
      // It asks again for half a minute; once is enough.
      if (backend === 'paritydb') return;
      const { code, stdout } = await presync(restoreArgs(made, peer.url));
      assert.notEqual(code, 0);
      assert.match(stdout, /STORE_FAILED/);
      assert.deepEqual(await listTree(join(made.dir, 'target', made.database)), []);
    });
  }

  it('clients that go in the middle of an answer, or ask for parts, harm nobody', async (t) => {
    const made = await scene(t);
    // Of chunks as large as this the memory is given back by hand, so it must not be while it is being sent.
    const peer = await startPeer(t, [...made.view, '--chunk-size', '1MiB']);
    const url = httpOf(peer.url);
    const keys = await chunkKeys(peer.url);
    const leave = async (key: string): Promise<void> => {
      const gone = new AbortController();
      const answer = await fetch(`${url}/${key}`, { signal: gone.signal });
      await answer.body?.getReader().read();
      gone.abort();
    };
    const part = async (key: string): Promise<void> => {
      const whole = Buffer.from(await (await fetch(`${url}/${key}`)).arrayBuffer());
      const middle = whole.length >> 1;
      const answer = await fetch(`${url}/${key}`, { headers: { range: `bytes=${middle}-${middle + 99}` } });
      assert.equal(answer.status, 206);
      assert.deepEqual(Buffer.from(await answer.arrayBuffer()), whole.subarray(middle, middle + 100));
      const digest = createHash('sha256').update(zstdDecompressSync(whole)).digest('hex');
      assert.ok(key.endsWith(digest), `${key} has other bytes`);
    };
    for (let round = 0; round < 5; round++)
      await Promise.all(keys.flatMap((key) => [leave(key), part(key), leave(key)]));
    await restore(made, peer.url);
    await assertRestored(made);
  });

  it('snapshots of the node are taken meanwhile, and neither view sweeps the other away', async (t) => {
    const made = await scene(t);
    const peer = await startPeer(t, made.view);
    const [served = ''] = await viewsIn(made);
    const store = `file://${join(made.dir, 'store')}`;
    for (let n = 1; n <= 2; n++) {
      const { json } = await presyncOk(['snapshot', ...made.view, '--store', store, '--json']);
      assert.equal((json as { sequence: number }).sequence, n);
      assert.deepEqual(await viewsIn(made), [served]);
    }
    await restore(made, peer.url, 'from-peer');
    await assertRestored(made, 'from-peer');
    await restore(made, store, 'from-store');
    await assertRestored(made, 'from-store');
    await stop(peer);
    assert.deepEqual(await viewsIn(made), []);
  });

  it('what a second start reads again is only what may have changed', async (t) => {
    const made = await scene(t);
    const readBytes = (peer: Peer): number =>
      Number(/"readBytes":(\d+),"event":"offer.made"/.exec(peer.log())?.[1] ?? Number.NaN);
    const first = await startPeer(t, made.view);
    const all = readBytes(first);
    await stop(first);
    const second = await startPeer(t, made.view);
    assert.ok(all > 8_000_000, `${all}`);
    assert.ok(readBytes(second) < all / 2, `${readBytes(second)} of ${all}`);
    await restore(made, second.url);
    await assertRestored(made);
  });

  it('a second one for the same database is refused', async (t) => {
    const made = await scene(t);
    await startPeer(t, made.view);
    const { code, stderr } = await refusal(made.view);
    assert.equal(code, 9, stderr);
    assert.match(stderr, /LOCKED/);
    assert.equal((await viewsIn(made)).length, 1);
  });

  it('beside a store with another repository, the snapshot and its chunks come from the peer', async (t) => {
    const made = await scene(t);
    const store = `file://${join(made.dir, 'store')}`;
    await presyncOk(['snapshot', ...made.view, '--store', store]);
    const peer = await startPeer(t, made.view);
    const { sources } = await restore(made, store, 'target', ['--source', peer.url]);
    await assertRestored(made);
    const [fromPeer, fromStore] = sources;
    assert.ok((fromPeer?.objects ?? 0) > 20);
    assert.equal(fromStore?.objects, 0);
    assert.deepEqual(fromStore?.failures, {});
    assert.match(fromStore?.dropped ?? '', /another repository/);
    // Without the peer, the store's own snapshot serves.
    await stop(peer);
    const { sequence } = await restore(made, store, 'later', ['--source', peer.url]);
    assert.equal(sequence, 1);
    await assertRestored(made, 'later');
  });

  it('lets nobody in without the token', async (t) => {
    const made = await scene(t);
    const token = join(made.dir, 'token');
    await writeFile(token, 'a-long-random-text\n', { mode: 0o600 });
    const peer = await startPeer(t, [...made.view, '--serve-token', token]);
    for (const path of ['presync.json', '.presync/list', 'channels/dev/rocksdb/latest.json'])
      assert.equal((await fetch(`${httpOf(peer.url)}/${path}`)).status, 401);
    const refused = await presync(restoreArgs(made, peer.url));
    assert.equal(refused.code, 7);
    assert.match(refused.stdout, /STORE_FORBIDDEN/);
    const auth = join(made.dir, 'auth');
    await writeFile(auth, `${httpOf(peer.url)} bearer a-long-random-text\n`, { mode: 0o600 });
    await restore(made, peer.url, 'target', ['--store-auth', auth]);
    await assertRestored(made);
  });

  it('lets nobody in without a certificate', needs('openssl', hasProgram('openssl')), async (t) => {
    const made = await scene(t);
    const pem = await makeCertificates(made.dir);
    const peer = await startPeer(t, [
      ...[...made.view, '--serve-cert', pem.serverCert, '--serve-cert-key', pem.serverKey],
      ...['--serve-client-ca', pem.ca],
    ]);
    const place = peer.url.replace('127.0.0.1', 'localhost');
    assert.match(place, /^peer\+https:/);
    const nameless = await presync(['list', '--store', place, '--store-ca', pem.ca]);
    assert.notEqual(nameless.code, 0);
    await restore(made, place, 'target', [
      ...['--store-ca', pem.ca, '--store-cert', pem.clientCert, '--store-cert-key', pem.clientKey],
    ]);
    await assertRestored(made);
  });

  it('says what is wrong with the options', async (t) => {
    const made = await scene(t);
    const store = ['--store', 'file:///nowhere'];
    for (const [args, message] of [
      [[], /serve needs --store or --base-path/],
      [[...made.view, ...store], /--store .* and --base-path .* contradict each other/],
      [[...store, '--pause', 'signal'], /--pause means nothing with --store: it goes with --base-path/],
      [[...store, '--sign-key', 'x'], /--sign-key means nothing with --store/],
      [[...made.view, '--store-auth', 'x'], /--store-auth means nothing with --base-path/],
      [['--base-path', made.base, '--genesis', DEV_GENESIS], /no signing key is given/],
      [made.view.filter((word) => word !== '--genesis' && word !== DEV_GENESIS), /genesis hash/],
      [[...made.view.with(1, made.dir)], /NODE_LAYOUT_NOT_FOUND/],
    ] as const) {
      const { code, stderr } = await refusal(args);
      assert.equal(code, 2, `${args.join(' ')}: ${stderr}`);
      assert.match(stderr, message);
    }
    // A hole of 50 GiB: more chunks of this size than can be kept track of.
    await writeFile(join(made.base, made.database, '000999.sst'), '');
    await truncate(join(made.base, made.database, '000999.sst'), 50 * 1024 ** 3);
    const many = await refusal(made.view);
    assert.equal(many.code, 2, many.stderr);
    assert.match(many.stderr, /chunks of 64KiB, more than the 786432/);
    assert.match(many.stderr, /--chunk-size 128KiB/);
    assert.deepEqual(await viewsIn(made), []);
  });

  it('stopped while it reads, it leaves no view behind', async (t) => {
    const made = await scene(t);
    for (const wait of [0, 100, 250, 500, 800]) {
      const running = startPresync([
        'serve',
        ...made.view,
        '--listen',
        '127.0.0.1:0',
        '--admin-listen',
        'none',
      ]);
      await sleep(300 + wait);
      running.child.kill('SIGTERM');
      const { code, stderr } = await running.done;
      assert.ok(code === 143 || code === null, stderr);
      assert.deepEqual(await viewsIn(made), []);
    }
  });
});

/** Waits until a restore has put some chunks in place: its journal has four bytes for each. */
async function untilFetching({ dir, database }: Scene): Promise<void> {
  const folder = join(dir, 'target', database, '../.presync');
  const deadline = performance.now() + 60_000;
  for (;;) {
    const journal = await open(join(folder, 'restore.journal')).catch(() => undefined);
    const { size } = (await journal?.stat()) ?? { size: 0 };
    await journal?.close();
    if (size >= 4 * 10) return;
    assert.ok(performance.now() < deadline, 'the restore does not begin');
    await sleep(20);
  }
}
