/** What an operator sees and is asked: the plan of a restore, a part of a verify, and whether a database is what its snapshot says. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { open, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { sha256 } from '@presync/format/digest';
import { repositoryKeys } from '@presync/format/paths';
import { createScene, type Scene } from '../support/bad-input.ts';
import { FORGED_CHUNK_SIZE, FORGED_PART, type ForgedFile, forgeSnapshot, pointAt } from '../support/forge.ts';
import { hasProgram, needs } from '../support/needs.ts';
import { COMMAND, presync, presyncOk } from '../support/presync.ts';

/** Runs a command with a terminal of its own, and ends as that did. */
const ON_TERMINAL = `
import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))
`;

/** A table of four chunks, each of them another. */
const table = Buffer.concat(['a', 'b', 'c', 'd'].map((letter) => Buffer.alloc(FORGED_CHUNK_SIZE, letter)));

const FILES: readonly ForgedFile[] = [
  { path: `${FORGED_PART}/000007.sst`, content: table },
  { path: `${FORGED_PART}/000008.sst`, content: Buffer.alloc(900, 'small') },
  { path: `${FORGED_PART}/000009.sst`, content: Buffer.alloc(700, 'smaller') },
  { path: `${FORGED_PART}/000011.log`, content: Buffer.alloc(800, 'log'), class: 'mutable' },
  { path: `${FORGED_PART}/MANIFEST-000005`, content: Buffer.from('manifest'), class: 'mutable' },
  { path: `${FORGED_PART}/CURRENT`, content: Buffer.from('MANIFEST-000005\n'), class: 'seal' },
];

interface Answered {
  code: number | null;
  /** All that was shown. */
  shown: string;
}

describe('by hand', () => {
  const cleanups: (() => Promise<void>)[] = [];
  let scene: Scene;
  let full: string;
  before(async () => {
    scene = await createScene({ after: (fn) => void cleanups.push(fn) });
    full = join(scene.target, FORGED_PART);
    await forgeSnapshot({
      storeDir: scene.storeDir,
      keys: [scene.key],
      files: FILES,
      editManifest: (manifest) => ({
        ...manifest,
        created: new Date(Date.now() - 7_200_000).toISOString(),
        chain: {
          ...manifest.chain,
          anchor: { number: 90, hash: `0x${'ab'.repeat(32)}` },
          head: { number: 100, hash: `0x${'cd'.repeat(32)}` },
          blockTimeMs: 6000,
        },
      }),
    });
  });
  after(async () => {
    for (const cleanup of cleanups) await cleanup();
  });

  const fresh = async (): Promise<void> => {
    for (const dir of [scene.target, scene.stateDir]) await rm(dir, { recursive: true, force: true });
  };
  const verify = (...more: string[]): string[] => [
    ...['verify', '--store', scene.store, '--trust', scene.trust, '--state-dir', scene.stateDir],
    ...more,
  ];

  async function onTerminal(args: string[], answer: string): Promise<Answered> {
    const child = spawn('python3', ['-c', ON_TERMINAL, process.execPath, COMMAND, ...args], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, NO_COLOR: '1', UV_THREADPOOL_SIZE: '16' },
    });
    let shown = '';
    let answered = false;
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      shown += text;
      if (answered || !shown.includes('Go on? [y/N]')) return;
      answered = true;
      child.stdin.write(answer);
    });
    const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
    return { code, shown: shown.replaceAll('\r', '') };
  }

  it(
    'at a terminal the plan is shown, and nothing is done unless somebody says yes',
    needs('python3', hasProgram('python3')),
    async () => {
      for (const answer of ['n\n', '\n', 'maybe\n', '\u0004']) {
        await fresh();
        const { code, shown } = await onTerminal(scene.restoreArgs(), answer);
        assert.equal(code, 1, shown);
        assert.match(shown, /Code: ABORTED/);
        await assert.rejects(readdir(scene.target), { code: 'ENOENT' });
      }
      const { code, shown } = await onTerminal(scene.restoreArgs(), 'y\n');
      assert.equal(code, 0, shown);
      const plan = shown.slice(0, shown.indexOf('Go on?'));
      assert.match(plan, /Plan: restore dev\/rocksdb#1\n/);
      assert.match(plan, /taken +\S+Z, 2h( 1s)? ago/);
      assert.match(plan, /holds +block 90 0xabab\S+\n +and no block above 100/);
      assert.match(plan, new RegExp(`signed by +${scene.key.id}`));
      assert.match(plan, /there now +no database/);
      assert.match(plan, /to fetch +.* for a database of 25[0-9] KiB/);
      assert.match(plan, /room +.* free at .* needed; .* free afterwards/);
      assert.match(plan, /takes +about .* at .*\/s, as measured just now/);
      // Two hours of six seconds each, at 20 a second.
      assert.match(plan, /then +about 120[0-9] blocks to catch up with, 1m 0?\d*s? ?at 20 a second/);
      assert.match(shown.slice(plan.length), /is restored to .*\n[\s\S]*The node may be started now\./);
      // What replaces a database is asked about as well, and then needs no --yes.
      const again = await onTerminal(scene.restoreArgs('--existing', 'replace'), 'y\n');
      assert.equal(again.code, 0, again.shown);
      assert.match(again.shown, /there now +a database: it stays until the new one is complete/);
    },
  );

  it('without a terminal nobody is asked: what replaces has to be said', async () => {
    await fresh();
    await presyncOk(scene.restoreArgs());
    const refused = await presync(scene.restoreArgs('--existing', 'replace'));
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /say --yes/);
    const { json } = await presyncOk(scene.restoreArgs('--existing', 'replace', '--yes', '--json'));
    const { plan } = json as { plan: { existing: string; targets: unknown[]; room: unknown[] } };
    assert.equal(plan.existing, 'replace');
    assert.deepEqual(plan.targets, [{ target: full, holdsDatabase: true }]);
  });

  it('--dry-run shows the plan alone, and ends as the restore would that is refused', async () => {
    await fresh();
    const free = await presyncOk(scene.restoreArgs('--dry-run'));
    assert.match(free.stdout, /^Plan: restore dev\/rocksdb#1\n[\s\S]*Nothing was done\.\n$/);
    await presyncOk(scene.restoreArgs());
    const there = await presync(scene.restoreArgs('--dry-run'));
    assert.equal(there.code, 6);
    assert.match(there.stderr, /Code: TARGET_NOT_EMPTY/);
  });

  it('what cannot be meant is refused before anything is asked of a store', async () => {
    for (const [args, message] of [
      [['--fallback', 'warp', '--fallback', 'older'], /older stands after warp/],
      [['--fallback', 'older', '--fallback', 'older'], /names older twice/],
      [['--snapshot', '1', '--to-block', '5'], /--snapshot .* --to-block .* contradict/],
      [['--free-room'], /--free-room removes an old database, which --existing refuse leaves alone/],
      [['--sample', '0%'], /--sample is "0%"/],
    ] as const) {
      const command = args[0] === '--sample' ? verify(...args) : scene.restoreArgs(...args);
      const { code, stderr } = await presync(command);
      assert.equal(code, 2, stderr);
      assert.match(stderr, message);
    }
    const agent = [
      'bootstrap',
      ...scene.restoreArgs('--fallback', 'warp', '--', 'node', '--sync', 'full').slice(1),
    ];
    const { code, stderr } = await presync(agent);
    assert.equal(code, 2);
    assert.match(stderr, /its arguments say --sync full/);
  });

  it('a part of a snapshot is verified, and nothing is said of the rest', async () => {
    await fresh();
    const whole = await presyncOk(verify());
    assert.match(whole.stdout, /sound {2}\d+ chunks/);
    assert.match(whole.stdout, /Everything is as it should be\./);
    const one = await presyncOk(verify('--path', '000007.sst'));
    assert.match(one.stdout, /sound as far as it was read {2}4 of 4 chunks, 25\d KiB checked/);
    assert.match(one.stdout, /The rest was not looked at\./);
    assert.doesNotMatch(one.stdout, /Everything/);
    const deep = await presyncOk(verify('--path', 'chains/*/db/full/*.sst', '--json'));
    assert.equal((deep.json as { snapshots: { chunks: number }[] }).snapshots[0]?.chunks, 5);
    const some = await presyncOk(verify('--sample', '0.1%', '--json'));
    const [{ chunks, meant } = { chunks: 0, meant: 0 }] = (
      some.json as { snapshots: { chunks: number; meant: number }[] }
    ).snapshots;
    assert.ok(chunks >= 1 && chunks < meant, `${chunks} of ${meant}`);
    const none = await presync(verify('--path', 'nothing-of-this-name'));
    assert.equal(none.code, 2);
    assert.match(none.stderr, /no snapshot has a file named nothing-of-this-name/);
    // Damage in the one is not seen in the other.
    const key = join(scene.storeDir, repositoryKeys.chunk(await sha256(table.subarray(-FORGED_CHUNK_SIZE))));
    const sound = await readFile(key);
    await writeFile(key, Buffer.alloc(sound.length, 7));
    await presyncOk(verify('--path', '000008.sst'));
    const damaged = await presync(verify('--path', '*7.sst'));
    assert.equal(damaged.code, 4);
    assert.match(damaged.stdout, /CHUNK_CORRUPT: .*000007\.sst/);
    await writeFile(key, sound);
  });

  describe('a database on disk', () => {
    const compare = (...more: string[]): string[] => verify('--base-path', scene.target, ...more);

    async function spoil(name: string, at: number): Promise<void> {
      const handle = await open(join(full, name), 'r+');
      await handle.write(Buffer.from('X'), 0, 1, at);
      await handle.close();
    }

    it('is compared with its snapshot, and each file that differs is named', async () => {
      await fresh();
      await presyncOk(scene.restoreArgs());
      const same = await presyncOk(compare());
      assert.match(same.stdout, /compared with dev\/rocksdb#1: 6 files, 26\d KiB read/);
      assert.match(same.stdout, /Every byte that was compared is as in dev\/rocksdb#1\./);
      await spoil('000007.sst', 2 * FORGED_CHUNK_SIZE + 5);
      // One of several small files in one chunk.
      await spoil('000009.sst', 3);
      await truncate(join(full, 'MANIFEST-000005'), 3);
      await rm(join(full, '000011.log'));
      await writeFile(join(full, '000099.sst'), 'stray');
      const { code, stdout } = await presync(compare());
      assert.equal(code, 4);
      assert.match(
        stdout,
        new RegExp(`DIFFERENT {2}\\S+000007\\.sst, at byte ${2 * FORGED_CHUNK_SIZE} or after`),
      );
      assert.match(stdout, /DIFFERENT {2}\S+000009\.sst, at byte 0 or after/);
      assert.match(stdout, /DIFFERENT {2}\S+MANIFEST-000005 has another length/);
      assert.match(stdout, /MISSING {4}\S+000011\.log/);
      assert.match(stdout, /UNKNOWN {4}\S+000099\.sst/);
      assert.doesNotMatch(stdout, /000008\.sst|CURRENT/);
      assert.match(stdout, /5 files are not as in/);
      const narrow = await presyncOk(compare('--path', '000008.sst'));
      assert.match(narrow.stdout, /: 1 files, /);
      // It is the snapshot that was restored here, also when there is a newer one.
      await forgeSnapshot({ storeDir: scene.storeDir, keys: [scene.key], sequence: 2 });
      assert.match((await presync(compare())).stdout, /compared with dev\/rocksdb#1: /);
      assert.match((await presync(compare('--snapshot', '2'))).stdout, /compared with dev\/rocksdb#2: /);
      await pointAt(scene.storeDir, 1);
      // The way that it names mends it.
      await presyncOk(scene.restoreArgs('--existing', 'reuse', '--yes'));
      await presyncOk(compare());
    });

    it('that a node has opened is compared by what no node changes', async () => {
      await fresh();
      await presyncOk(scene.restoreArgs());
      await writeFile(join(full, 'LOCK'), '');
      await spoil('000011.log', 1);
      await rm(join(full, '000008.sst'));
      await writeFile(join(full, '000099.sst'), 'made by the node');
      const told = await presyncOk(compare());
      assert.match(told.stdout, /a node has opened this database: its 3 files .* 1 tables .* are gone/);
      await spoil('000009.sst', 1);
      const { code, stdout } = await presync(compare());
      assert.equal(code, 4);
      assert.match(stdout, /DIFFERENT {2}\S+000009\.sst/);
    });

    it('in which every file changes can say nothing once a node has opened it', async () => {
      await fresh();
      const storeDir = join(scene.dir, 'parity');
      const path = 'chains/dev/paritydb/full';
      await forgeSnapshot({
        storeDir,
        keys: [scene.key],
        files: [
          { path: `${path}/table_00_00`, content: Buffer.alloc(100, 'x'), class: 'mutable' },
          { path: `${path}/metadata`, content: Buffer.from('version=8\n'), class: 'seal' },
        ],
        editManifest: (manifest) => ({
          ...manifest,
          node: {
            ...manifest.node,
            parts: [{ role: 'main', backend: 'paritydb', path, databaseVersion: '8', identity: 'x' }],
          },
        }),
      });
      const args = (command: string): string[] => [
        ...[command, '--base-path', scene.target, '--store', `file://${storeDir}`, '--trust', scene.trust],
        ...['--state-dir', scene.stateDir],
      ];
      await presyncOk(args('restore'));
      await presyncOk(args('verify'));
      await writeFile(join(scene.target, path, 'lock'), '');
      const { code, stderr } = await presync(args('verify'));
      assert.equal(code, 6);
      assert.match(stderr, /Code: NOTHING_TO_COMPARE/);
    });
  });
});
