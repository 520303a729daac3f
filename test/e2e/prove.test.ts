/**
 * Prove, then promote, with the real node: a database that was made bad on purpose is never promoted, a good one is, and the node that opens the copy is
 * alone and is gone afterwards, whatever happens to presync.
 */
import assert from 'node:assert/strict';
import { execFile, execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { needs } from '../support/needs.ts';
import { type PresyncOutcome, presync, presyncOk, startPresync } from '../support/presync.ts';
import {
  DEV_GENESIS,
  devChainSpec,
  hasNode,
  nodeExecutable,
  type RealNode,
  startNode,
  unpackFixture,
} from '../support/real-node.ts';
import { createSource, type Source } from '../support/world.ts';

/** Whether network namespaces can be made here, as a proof by default needs them. */
function hasNamespaces(): boolean {
  try {
    execFileSync('unshare', ['--net', '--pid', '--fork', '--kill-child', 'ip', 'link', 'set', 'lo', 'up']);
    return true;
  } catch {
    return false;
  }
}

/** Arguments of a proof node; `before` is shell that runs in its stead first. */
async function proofCommand(chain: string, before = 'true'): Promise<string> {
  return JSON.stringify([
    ...['sh', '-c', `${before}; exec "$0" "$@"`, await nodeExecutable()],
    ...['--chain', chain, '--dev', '--dev-block-time', '86400000'],
    ...['--pool-type', 'single-state', '--state-pruning', 'archive', '--blocks-pruning', 'archive'],
    ...['--database', 'rocksdb', '--base-path', '{basePath}', '--rpc-port', '{rpcPort}'],
  ]);
}

/** A command that never answers. */
const deaf = (before = 'true'): string =>
  JSON.stringify(['sh', '-c', `${before}; sleep 600 # {basePath} {rpcPort}`]);

/** Processes whose command line speaks of that folder. */
function processesOf(dir: string): string[] {
  return readdirSync('/proc')
    .filter((pid) => /^\d+$/.test(pid) && Number(pid) !== process.pid)
    .flatMap((pid) => {
      try {
        const line = readFileSync(`/proc/${pid}/cmdline`, 'latin1').replaceAll('\0', ' ');
        return line.includes(dir) ? [`${pid} ${line}`] : [];
      } catch {
        return [];
      }
    });
}

async function until(what: string, holds: () => boolean, seconds = 60): Promise<void> {
  for (const end = performance.now() + seconds * 1000; !holds(); ) {
    assert.ok(performance.now() < end, what);
    await sleep(50);
  }
}

interface Row {
  sequence: number;
  newest: boolean;
  quarantine: string | null;
}

async function rowsOf({ store }: Source): Promise<Row[]> {
  const { json } = await presyncOk(['list', '--store', store, '--json']);
  return (json as { snapshots: Row[] }).snapshots;
}

/** The snapshot failed its proof, is not the newest, says why, and is given to nobody who does not insist. */
async function assertQuarantined(
  t: TestContext,
  source: Source,
  outcome: PresyncOutcome,
  why: RegExp,
): Promise<void> {
  assert.equal(outcome.code, 4, outcome.stderr);
  assert.match(outcome.stderr, why);
  assert.match(outcome.stderr, /"event":"snapshot.quarantined"/);
  assert.equal(existsSync(join(source.storeDir, 'channels/dev/rocksdb/latest.json')), false, 'latest moved');
  const [row] = await rowsOf(source);
  assert.equal(row?.newest, false);
  assert.match(row?.quarantine ?? '', why);
  const target = await mkdtemp(join(source.dir, 'target-'));
  const restore = [
    ...['restore', '--base-path', target, '--store', source.store, '--trust', source.trust],
    ...['--channel', 'dev/rocksdb', '--state-dir', join(source.dir, 'agent'), '--snapshot', '1'],
  ];
  const refused = await presync(restore);
  assert.equal(refused.code, 4);
  assert.match(refused.stderr, /SNAPSHOT_QUARANTINED/);
  assert.deepEqual(await readdir(target), []);
  await presyncOk([...restore, '--allow-quarantined']);
  const shown = await presyncOk([
    ...['show', '--store', source.store, '--trust', source.trust, '--snapshot', '1'],
    ...['--channel', 'dev/rocksdb', '--state-dir', join(source.dir, 'agent')],
  ]);
  assert.match(shown.stdout, /QUARANTINED it failed its proof at .*: PROOF_FAILED: /);
  assertGone(source);
  t.diagnostic(row?.quarantine ?? '');
}

/** No proof node is left, and no copy. */
function assertGone({ dir }: Source): void {
  assert.deepEqual(processesOf(join(dir, 'source-state')), []);
  assert.deepEqual(readdirSync(join(dir, 'source-state/proofs')), []);
}

describe('a proof that needs no node', needs('network namespaces', hasNamespaces()), () => {
  it('restores the whole snapshot into scratch, and removes the copy', async (t) => {
    const source = await createSource(t, { more: ['--prove-restore'] });
    const { stderr } = await presyncOk(['snapshot', ...source.takeArgs]);
    assert.match(stderr, /"event":"proof.restored"/);
    assert.deepEqual(
      await rowsOf(source).then((rows) => rows.map(({ newest, quarantine }) => [newest, quarantine])),
      [[true, null]],
    );
    assertGone(source);
  });

  it('ends a node that does not answer in time', async (t) => {
    const source = await createSource(t);
    const outcome = await presync([
      ...['snapshot', ...source.takeArgs, '--prove-command', deaf(), '--prove-timeout', '2s'],
    ]);
    await assertQuarantined(t, source, outcome, /PROOF_FAILED.*did not answer within 2 s/);
  });

  it('is refused before anything is stored when it cannot be carried out', async (t) => {
    const source = await createSource(t);
    const take = ['snapshot', ...source.takeArgs, '--prove-command'];
    const cases = [
      [JSON.stringify(['sh', '-c', 'true {rpcPort}']), 2, /does not say \{basePath\}/],
      [JSON.stringify(['sh', '-c', 'true {basePath}']), 2, /does not say \{rpcPort\}/],
      [JSON.stringify(['/nowhere/polkadot', '{basePath}', '{rpcPort}']), 2, /is no executable file/],
      [JSON.stringify(['sh', '{basePath}', '{rpcPort}', '--validator']), 2, /has --validator/],
      [JSON.stringify(['sh', '{basePath}', '{rpcPort}', '--node-key=00']), 2, /has --node-key\n/],
    ] as const;
    for (const [command, code, why] of cases) {
      const outcome = await presync([...take, command]);
      assert.equal(outcome.code, code, outcome.stderr);
      assert.match(outcome.stderr, why);
    }
    // Without the tools that make a namespace, and without the word that flags will do.
    const bare = await mkdtemp(join(tmpdir(), 'presync-bare-'));
    t.after(() => rm(bare, { recursive: true }));
    const outcome = await presync([...take, deaf().replace('sh', '/bin/sh')], { env: { PATH: bare } });
    assert.equal(outcome.code, 6, outcome.stderr);
    assert.match(outcome.stderr, /PROOF_NOT_ISOLATED/);
    assert.equal(existsSync(join(source.storeDir, 'presync.json')), false);
    assertGone(source);
  });

  it('leaves nothing behind when it is stopped, and judges nothing', async (t) => {
    const source = await createSource(t);
    const marker = join(source.dir, 'started');
    const running = startPresync([
      'snapshot',
      ...source.takeArgs,
      '--prove-command',
      deaf(`touch ${marker}`),
    ]);
    await until('the proof node starts', () => existsSync(marker));
    running.child.kill('SIGTERM');
    assert.equal((await running.done).code, 143);
    assertGone(source);
    const [row] = await rowsOf(source);
    assert.equal(row?.newest, false);
    assert.match(row?.quarantine ?? '', /has not ended/);
  });

  it('keeps the node from the network by its own flags where that is asked for, and says so', async (t) => {
    const source = await createSource(t);
    const seen = join(source.dir, 'seen');
    const script = `printf '%s\\n' "$@" >${seen}.new; mv ${seen}.new ${seen}; sleep 600`;
    const command = [
      'sh',
      '-c',
      script,
      'sh',
      '{basePath}',
      '{rpcPort}',
      '--no-mdns',
      '--in-peers=5',
      '--',
      '--relay',
    ];
    const take = ['snapshot', ...source.takeArgs, '--prove-isolation', 'flags', '--prove-command'];
    const running = startPresync([...take, JSON.stringify(command)]);
    await until('the proof node starts', () => existsSync(seen));
    const [basePath, port, ...flags] = (await readFile(seen, 'utf8')).trim().split('\n');
    assert.match(basePath ?? '', /source-state\/proofs\/proof-.*\/base$/);
    assert.match(port ?? '', /^\d+$/);
    assert.deepEqual(flags, [
      ...['--no-mdns', '--in-peers=5', '--reserved-only', '--no-telemetry', '--no-prometheus'],
      ...['--out-peers', '0', '--listen-addr', '/ip4/127.0.0.1/tcp/0', '--', '--relay'],
    ]);
    const proofs = join(source.dir, 'source-state/proofs');
    assert.ok(processesOf(proofs).length >= 2);
    // Without a namespace that goes with its first process, it is the pipe that ends it.
    running.child.kill('SIGKILL');
    assert.match((await running.done).stderr, /"event":"proof.flags_only"/);
    await until('the proof node is gone', () => processesOf(proofs).length === 0, 20);
  });

  it(
    'works without root, in a user namespace',
    needs('root, to be somebody else', process.getuid?.() === 0),
    async (t) => {
      const source = await createSource(t);
      const seen = join(source.dir, 'seen');
      execFileSync('chown', ['-R', '65534:65534', source.dir]);
      const user = 65534;
      const allowed = spawnSync('unshare', ['--user', '--map-root-user', '--net', 'true'], {
        uid: user,
        gid: user,
      });
      if (allowed.status !== 0) return t.skip('needs user namespaces');
      const outcome = await presync(
        [
          ...['snapshot', ...source.takeArgs, '--prove-timeout', '3s'],
          ...['--prove-command', deaf(`ip -o link >${seen}; ls {basePath} >>${seen}`)],
        ],
        { user },
      );
      assert.equal(outcome.code, 4, outcome.stderr);
      assert.match(outcome.stderr, /"isolation":"user namespace"/);
      const text = await readFile(seen, 'utf8');
      assert.match(text, /^1: lo: <LOOPBACK,UP/);
      assert.match(text, /^chains$/m);
      assertGone(source);
    },
  );
});

const REAL = needs('a node executable and network namespaces', hasNode() && hasNamespaces());

describe('a proof by the real node', REAL, () => {
  let dir = '';
  let node: RealNode;
  /** A base path on the chain of the fixture, whose node goes on from there. */
  let base = '';
  /** The chain's specification with the genesis state in it, so that a node need not make it at each start. */
  let chain = '';
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'presync-prove-'));
    base = join(dir, 'base');
    chain = join(dir, 'chain.json');
    await unpackFixture('rocksdb', base);
    const args = ['build-spec', '--raw', '--disable-default-bootnode', '--chain', await devChainSpec()];
    const built = await promisify(execFile)(await nodeExecutable(), args, { maxBuffer: 1 << 26 });
    await writeFile(chain, built.stdout);
    node = await startNode({ basePath: base, backend: 'rocksdb', blockTimeMs: 500, chainSpec: chain });
  });
  after(async () => {
    await node?.stop();
    await rm(dir, { recursive: true, force: true });
  });

  it('promotes a good snapshot; the node sees nothing but loopback, reaches nobody, and is gone afterwards', async (t) => {
    const source = await createSource(t);
    const seen = join(source.dir, 'seen');
    const look = [
      `ip -o link >${seen}`,
      `ip route >>${seen}`,
      // The source node's RPC answers on this very address, in another network.
      `node=${new URL(node.rpcUrl).port}; (bash -c "exec 3<>/dev/tcp/127.0.0.1/$node" && echo REACHED) >>${seen} 2>&1`,
      `env >>${seen}`,
    ].join('; ');
    const { json, stderr } = await presyncOk(
      [
        ...['snapshot', ...source.takeArgs, '--json', '--base-path', base],
        ...['--pause', 'signal', '--pid', String(node.pid), '--rpc', node.wsUrl],
        ...['--prove-command', await proofCommand(chain, look)],
      ],
      { env: { AWS_SECRET_ACCESS_KEY: 'not for the node' } },
    );
    const { promoted, manifest } = json as {
      promoted: boolean;
      manifest: { chain: { anchor: { number: number } } };
    };
    assert.equal(promoted, true);
    assert.ok(manifest.chain.anchor.number > 1208);
    assert.match(stderr, /"event":"proof.node_passed"/);
    const text = await readFile(seen, 'utf8');
    assert.match(text, /^1: lo: <LOOPBACK,UP/);
    assert.doesNotMatch(text, /^2: .*UP/m);
    assert.doesNotMatch(text, /default via|REACHED/);
    assert.match(text, /[Cc]onnection refused/);
    assert.doesNotMatch(text, /AWS_|PRESYNC_/);
    const [row] = await rowsOf(source);
    assert.deepEqual([row?.newest, row?.quarantine], [true, null]);
    assertGone(source);
  });

  it('finds an old state: the database ends before the anchor', async (t) => {
    const source = await createSource(t);
    const outcome = await presync([
      ...['snapshot', ...source.takeArgs, '--rpc', node.wsUrl],
      ...['--prove-command', await proofCommand(chain)],
    ]);
    await assertQuarantined(t, source, outcome, /holds blocks up to 1208, and the snapshot promises block/);
  });

  it('finds another chain', async (t) => {
    const source = await createSource(t);
    const spec = JSON.parse(await readFile(chain, 'utf8'));
    const foreign = join(source.dir, 'foreign.json');
    spec.genesis.raw.top['0xf0f0'] = '0x01';
    await writeFile(foreign, JSON.stringify(spec));
    const other = join(source.dir, 'other');
    const second = await startNode({ basePath: other, backend: 'rocksdb', chainSpec: foreign });
    const genesis = String(await second.call('chain_getBlockHash', 0));
    await second.stop();
    assert.notEqual(genesis, DEV_GENESIS);
    const take = ['snapshot', ...source.takeArgs, '--base-path', other, '--prove-command'];
    // Its own chain's node opens it, and tells which chain it is of.
    await assertQuarantined(
      t,
      source,
      await presync([...take, await proofCommand(foreign)]),
      new RegExp(`is on the chain with genesis ${genesis}`),
    );
  });

  for (const [what, damage] of [
    ['an SST that was cut', (dir: string) => cutLargest(dir, /\.sst$/, 0.5)],
    ['an SST that is missing', (dir: string) => removeLargest(dir, /\.sst$/)],
    ['an SST that is empty', (dir: string) => cutLargest(dir, /\.sst$/, 0)],
    ['a MANIFEST that was cut', (dir: string) => cutLargest(dir, /^MANIFEST-/, 0.5)],
  ] as const) {
    it(`finds ${what}`, async (t) => {
      const source = await createSource(t);
      await damage(join(source.base, source.database));
      const outcome = await presync([
        ...['snapshot', ...source.takeArgs, '--prove-command', await proofCommand(chain)],
      ]);
      await assertQuarantined(t, source, outcome, /PROOF_FAILED/);
    });
  }

  it('leaves no node and promotes nothing when presync is killed, and the next run clears the copy away', async (t) => {
    const source = await createSource(t);
    const take = ['snapshot', ...source.takeArgs, '--prove-command', await proofCommand(chain)];
    const running = startPresync(take);
    const proofs = join(source.dir, 'source-state/proofs');
    const nodes = (): string[] =>
      processesOf(proofs).filter((line) => / --rpc-port /.test(line) && / --chain /.test(line));
    await until('the proof node runs', () => nodes().some((line) => /^\d+ \S*polkadot-omni-node/.test(line)));
    running.child.kill('SIGKILL');
    await running.done;
    await until('the proof node is gone', () => processesOf(proofs).length === 0, 20);
    const [row] = await rowsOf(source);
    assert.deepEqual([row?.newest, /has not ended/.test(row?.quarantine ?? '')], [false, true]);
    assert.equal((await readdir(proofs)).length, 1);
    const { stderr } = await presyncOk(['snapshot', ...source.takeArgs, '--prove-restore']);
    assert.match(stderr, /"event":"proof.left"/);
    assertGone(source);
    const rows = await rowsOf(source);
    assert.deepEqual(
      rows.map(({ sequence, newest, quarantine }) => [sequence, newest, quarantine === null]),
      [
        [1, false, false],
        [2, true, true],
      ],
    );
  });
});

async function largest(dir: string, form: RegExp): Promise<{ path: string; size: number }> {
  let found = { path: '', size: -1 };
  for (const name of (await readdir(dir)).filter((entry) => form.test(entry))) {
    const { size } = await stat(join(dir, name));
    if (size > found.size) found = { path: join(dir, name), size };
  }
  return found;
}

async function cutLargest(dir: string, form: RegExp, part: number): Promise<void> {
  const { path, size } = await largest(dir, form);
  await truncate(path, Math.floor(size * part));
}

async function removeLargest(dir: string, form: RegExp): Promise<void> {
  await rm((await largest(dir, form)).path);
}
