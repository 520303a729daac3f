/** `npm run demo`: the main job on real chain databases, step by step, in plain words. Ends with 1 when anything is not as it should be. */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, statSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { classifyFile } from '@presync/node/layout';
import { formatBytes } from '@presync/runtime/units';
import { presync, presyncOk, startPresync } from '../support/presync.ts';
import { DEV_GENESIS, type FixtureBackend, hasNode, startNode, unpackFixture } from '../support/real-node.ts';

/** The newest block of each database, as the node that wrote it told. */
const KNOWN_BLOCK = {
  rocksdb: { number: 1208, hash: '0x99a682cf816b014ae34f1c7857da7171e7f9828f11306a4cd77c0d0addad0bce' },
  paritydb: { number: 1475, hash: '0xbaefaa66c297914ff21aa747409538fec1cb4c2e831c116ec4ddeeee0568550d' },
} as const;

const say = (text: string): void => void process.stdout.write(`${text}\n`);
const step = (text: string): void => say(`\n• ${text}`);

interface Taken {
  sequence: number;
  files: number;
  bytes: number;
  readBytes: number;
  addedBytes: number;
  addedChunks: number;
  manifest: { totals: { chunks: number; stored: number } };
  seconds: number;
}

interface Restored {
  restored: {
    files: number;
    bytes: number;
    fetchedBytes: number;
    fetchedChunks: number;
    resumedChunks: number;
  };
  seconds: number;
}

function expect(condition: boolean, what: string): void {
  if (!condition) throw new Error(`the demo went wrong: ${what}`);
}

async function demo(backend: FixtureBackend, dir: string): Promise<void> {
  const name = backend === 'rocksdb' ? 'RocksDB' : 'ParityDB';
  say(`\n=== ${name} ===`);
  const source = join(dir, 'source');
  const storeDir = join(dir, 'store');
  const store = `file://${storeDir}`;
  const folder = join('chains/dev', backend === 'rocksdb' ? 'db' : 'paritydb', 'full');

  step('A database that a real node wrote is unpacked; a signing key is made.');
  await unpackFixture(backend, source);
  const key = join(dir, 'key.pem');
  await presyncOk(['keys', 'new', '--out', key]);
  const trust = (await presyncOk(['keys', 'public', key])).stdout.trim();
  say(`  Agents will trust ${trust}`);

  const take = [
    ...['snapshot', '--base-path', source, '--store', store, '--pause', 'none', '--genesis', DEV_GENESIS],
    ...['--sign-key', key, '--state-dir', join(dir, 'state'), '--json'],
  ];
  step('Snapshot: every file is read, cut into chunks, compressed, checked and stored.');
  const first = (await presyncOk(take)).json as Taken;
  say(
    `  ${first.files} files, ${formatBytes(first.bytes)}; ${formatBytes(first.addedBytes)} stored in ${first.addedChunks} chunks, ${first.seconds.toFixed(1)} s`,
  );

  step('Second snapshot of the same database: only what is new is uploaded.');
  const second = (await presyncOk(take)).json as Taken;
  say(
    `  ${formatBytes(second.readBytes)} read, ${formatBytes(second.addedBytes)} uploaded in ${second.addedChunks} chunks, ${second.seconds.toFixed(1)} s`,
  );
  expect(second.addedChunks === 0, 'the second snapshot uploaded chunks');

  const restore = (target: string, ...more: string[]): string[] => [
    ...[
      'restore',
      '--base-path',
      target,
      '--store',
      store,
      '--trust',
      trust,
      '--state-dir',
      join(dir, 'agent'),
      '--json',
    ],
    ...more,
  ];
  step('Restore on a new machine, and comparison byte by byte.');
  const target = join(dir, 'target');
  const report = (await presyncOk(restore(target))).json as Restored;
  say(
    `  ${report.restored.files} files, ${formatBytes(report.restored.bytes)} from ${formatBytes(report.restored.fetchedBytes)} fetched, ${report.seconds.toFixed(1)} s`,
  );
  const compared = await compare(backend, join(source, folder), join(target, folder));
  say(`  ${compared} files compared: all the same`);

  step('One bit of one stored chunk is flipped: verify and restore both notice, and name it.');
  const undo = await flipOneBit(storeDir);
  const verified = await presync([
    'verify',
    '--store',
    store,
    '--trust',
    trust,
    '--state-dir',
    join(dir, 'agent'),
    '--json',
  ]);
  const [problem] = (verified.json as { problems: { code: string; message: string }[] }).problems;
  say(`  verify (exit ${verified.code}): ${problem?.message}`);
  expect(verified.code === 4 && problem !== undefined, 'verify did not notice');
  const refused = await presync(restore(join(dir, 'refused')));
  const { error } = refused.json as { error: { message: string; hint: string } };
  say(`  restore (exit ${refused.code}): ${error.message}`);
  say(`  Try: ${error.hint}`);
  expect(refused.code === 4, 'restore did not notice');
  expect(!existsSync(join(dir, 'refused', folder)), 'restore left something at the place of the database');
  const remembered = await presync(restore(join(dir, 'refused')));
  expect(remembered.stdout.includes('SNAPSHOT_FAILED_BEFORE'), 'restore tried the damaged snapshot again');
  say(
    '  This machine remembers it, and does not download it again until that is asked for (--retry-failed).',
  );
  await undo();

  step('A restore is killed with SIGKILL half-way, and started again.');
  const resumed = join(dir, 'resumed');
  await killHalfWay(restore(resumed, '--concurrency', '1', '--retry-failed'), join(resumed, folder));
  expect(!existsSync(join(resumed, folder)), 'the killed restore left half a database at its place');
  say('  After the kill there is no database yet, so no node can open half of one.');
  const again = (await presyncOk(restore(resumed))).json as Restored;
  say(
    `  Started again: ${again.restored.resumedChunks} chunks were there already, ${again.restored.fetchedChunks} were fetched`,
  );
  expect(again.restored.resumedChunks > 0, 'nothing was resumed');
  await compare(backend, join(source, folder), join(resumed, folder));
  say('  The result is the same, byte by byte.');

  if (!hasNode()) {
    step('No node executable is at hand (PRESYNC_NODE_BIN), so none is started.');
    return;
  }
  step('A real node opens the restored database (its start takes half a minute).');
  const node = await startNode({ basePath: target, backend, blockTimeMs: 500 });
  try {
    const opened = await node.best();
    while ((await node.best()) < opened + 2) await sleep(200);
    const hash = await node.call('chain_getBlockHash', KNOWN_BLOCK[backend].number);
    expect(hash === KNOWN_BLOCK[backend].hash, `block ${KNOWN_BLOCK[backend].number} is ${hash}`);
    say(
      `  It came up at block ${opened}, has block ${KNOWN_BLOCK[backend].number} ${hash}, and makes new blocks.`,
    );
  } finally {
    await node.stop();
  }
}

/** Compares every file that belongs in a snapshot. */
async function compare(backend: FixtureBackend, a: string, b: string): Promise<number> {
  const names = (await readdir(a)).filter((file) => classifyFile(backend, file) !== 'skip').sort();
  expect(names.join() === (await readdir(b)).sort().join(), 'the folders hold different files');
  for (const file of names)
    expect((await digest(join(a, file))) === (await digest(join(b, file))), `${file} differs`);
  return names.length;
}

async function digest(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const bytes of createReadStream(path)) hash.update(bytes);
  return hash.digest('hex');
}

/** Flips a bit in the middle of the largest chunk. Returns how to undo it. */
async function flipOneBit(storeDir: string): Promise<() => Promise<void>> {
  const chunks: string[] = [];
  for (const folder of await readdir(join(storeDir, 'chunks'))) {
    for (const name of await readdir(join(storeDir, 'chunks', folder)))
      chunks.push(join(storeDir, 'chunks', folder, name));
  }
  const [path = ''] = chunks.sort((a, b) => statSync(b).size - statSync(a).size);
  const sound = await readFile(path);
  const damaged = Buffer.from(sound);
  const middle = damaged.length >> 1;
  damaged[middle] = (damaged[middle] ?? 0) ^ 1;
  await writeFile(path, damaged);
  return () => writeFile(path, sound);
}

/** Starts the restore and kills it as soon as it has put some chunks in place. */
async function killHalfWay(args: string[], database: string): Promise<void> {
  const journal = join(database, '../.presync/restore.journal');
  const running = startPresync(args);
  let ended = false;
  void running.done.then(() => {
    ended = true;
  });
  while (!ended && !(existsSync(journal) && statSync(journal).size >= 8)) await sleep(1);
  running.child.kill('SIGKILL');
  const { signal, code, stderr } = await running.done;
  expect(signal === 'SIGKILL', `the restore had ended before it could be killed (${code}): ${stderr}`);
}

const dir = await mkdtemp(join(tmpdir(), 'presync-demo-'));
try {
  say('presync keeps pre-synced copies of a node database, and brings new nodes up from them.');
  for (const backend of ['rocksdb', 'paritydb'] as const) await demo(backend, join(dir, backend));
  say('\nEverything went as it should.');
} catch (error) {
  process.stderr.write(`\n${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
} finally {
  await rm(dir, { recursive: true, force: true });
}
