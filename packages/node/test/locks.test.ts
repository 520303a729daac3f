import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { needs } from '../../../test/support/needs.ts';
import { databaseHolder } from '../src/locks.ts';
import { hasFileSystem, makeFileSystem } from './support/filesystems.ts';

const { signal } = new AbortController();
const python = spawnSync('python3', ['--version']).status === 0;
let dir = '';
const children: ChildProcess[] = [];
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'presync-locks-'));
  writeFileSync(join(dir, 'LOCK'), '');
  writeFileSync(join(dir, 'lock'), '');
});
after(() => {
  for (const child of children) child.kill('SIGKILL');
  rmSync(dir, { recursive: true, force: true });
});

/** A process that takes the lock as the backend does, and holds it until it is killed. */
async function hold(name: string, call: string): Promise<ChildProcess> {
  const program = `import fcntl,sys,time\nf=open(sys.argv[1],'w')\n${call}\nprint('held',flush=True)\ntime.sleep(600)`;
  const child = spawn('python3', ['-c', program, resolve(dir, name)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  await new Promise((resolve) => child.stdout?.once('data', resolve));
  return child;
}

for (const [backend, name, call] of [
  ['rocksdb', 'LOCK', 'fcntl.lockf(f,fcntl.LOCK_EX)'],
  ['paritydb', 'lock', 'fcntl.flock(f,fcntl.LOCK_EX)'],
] as const) {
  test(`${backend}: tells who holds ${name}, and that nobody does`, needs('python3', python), async () => {
    assert.equal(await databaseHolder({ dir, backend }, { signal }), undefined);
    const child = await hold(name, call);
    assert.deepEqual(await databaseHolder({ dir, backend }, { signal }), { pid: child.pid });
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await gone;
    assert.equal(await databaseHolder({ dir, backend }, { signal }), undefined);
  });
}

test('a folder without a lock file is held by nobody', async () => {
  assert.equal(
    await databaseHolder({ dir: join(dir, 'nowhere'), backend: 'rocksdb' }, { signal }),
    undefined,
  );
});

const btrfs = needs('python3 and btrfs on a loop device', python && hasFileSystem('btrfs'));
test('who holds the original is not taken for the holder of its btrfs snapshot', btrfs, async () => {
  const fileSystem = makeFileSystem('btrfs');
  try {
    const original = join(fileSystem.dir, 'original');
    const copy = join(fileSystem.dir, 'copy');
    assert.equal(spawnSync('btrfs', ['subvolume', 'create', original]).status, 0);
    writeFileSync(join(original, 'LOCK'), '');
    assert.equal(spawnSync('btrfs', ['subvolume', 'snapshot', original, copy]).status, 0);
    const child = await hold(join(original, 'LOCK'), 'fcntl.lockf(f,fcntl.LOCK_EX)');
    const holderIn = (folder: string) => databaseHolder({ dir: folder, backend: 'rocksdb' }, { signal });
    assert.deepEqual(await holderIn(original), { pid: child.pid });
    assert.equal(await holderIn(copy), undefined);
    const other = await hold(join(copy, 'LOCK'), 'fcntl.lockf(f,fcntl.LOCK_EX)');
    assert.deepEqual(await holderIn(copy), { pid: other.pid });
    for (const process of [child, other]) {
      const gone = new Promise((resolve) => process.once('exit', resolve));
      process.kill('SIGKILL');
      await gone;
    }
  } finally {
    fileSystem.remove();
  }
});
