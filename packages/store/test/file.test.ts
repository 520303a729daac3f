import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import fs, {
  chmod,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, type TestContext, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { isPresyncError } from '@presync/runtime/errors';
import { createFileStore } from '@presync/store/file';
import type { ObjectStore } from '@presync/store/object-store';
import fc from 'fast-check';
import { fileError } from '../src/lib/file-errors.ts';
import { withFileLock } from '../src/lib/file-lock.ts';
import { ownIdentity } from '../src/lib/process-identity.ts';

const signal = AbortSignal.timeout(540_000);
let parent = '';
let dir = '';
let store: ObjectStore;
let children: ChildProcess[] = [];

beforeEach(async () => {
  parent = await mkdtemp(join(tmpdir(), 'presync-file-'));
  dir = join(parent, 'store');
  store = createFileStore({ dir });
});

afterEach(async () => {
  for (const child of children) await kill(child);
  children = [];
  await rm(parent, { recursive: true, force: true });
});

function start(
  task: string,
  number = 0,
  options: { uid?: number } = {},
): { child: ChildProcess; said: string[] } {
  const child = fork(join(import.meta.dirname, 'file-worker.ts'), [task, dir, String(number)], {
    ...options,
    execArgv: [],
  });
  const said: string[] = [];
  child.on('message', (message) => said.push(String(message)));
  children.push(child);
  return { child, said };
}

async function finished(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit', { signal });
  assert.equal(child.exitCode, 0, `the process ended with ${child.exitCode ?? child.signalCode}`);
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
}

async function until(truth: () => boolean, what: string): Promise<void> {
  for (const end = Date.now() + 120_000; !truth(); ) {
    assert.ok(Date.now() < end, `${what} did not happen`);
    await delay(5);
  }
}

async function keys(prefix = ''): Promise<string[]> {
  const found: string[] = [];
  for await (const info of store.list(prefix, { signal })) found.push(info.key);
  return found;
}

test('a missing folder is STORE_NOT_FOUND, and the first put makes it', async () => {
  for (const call of [
    () => store.stat('a', { signal }),
    () => store.read('a', { maxBytes: 1, signal }),
    () => keys(),
    () => store.remove('a', { signal }),
  ]) {
    await assert.rejects(
      call(),
      (error) => isPresyncError(error, 'STORE_NOT_FOUND') && error.hint !== undefined,
    );
  }
  await store.put('a', Buffer.from('x'), { signal });
  assert.deepEqual(await keys(), ['a']);
  const deep = createFileStore({ dir: join(parent, 'not', 'there') });
  await assert.rejects(deep.put('a', Buffer.from('x'), { signal }), { code: 'STORE_NOT_FOUND' });
  await writeFile(join(parent, 'file'), '');
  const onFile = createFileStore({ dir: join(parent, 'file') });
  await assert.rejects(onFile.stat('a', { signal }), { code: 'STORE_NOT_FOUND' });
});

test('links inside the store are not followed, the store itself may be one', async () => {
  await store.put('real/object', Buffer.from('x'), { signal });
  await mkdir(join(parent, 'outside'));
  await writeFile(join(parent, 'outside/object'), 'secret');
  await symlink(join(parent, 'outside'), join(dir, 'linked'));
  await symlink(join(parent, 'outside/object'), join(dir, 'object'));
  for (const key of ['linked/object', 'object']) {
    await assert.rejects(store.read(key, { maxBytes: 100, signal }), { code: 'STORE_FAILED' }, key);
    await assert.rejects(store.stat(key, { signal }), { code: 'STORE_FAILED' }, key);
    await assert.rejects(store.remove(key, { signal }), { code: 'STORE_FAILED' }, key);
  }
  await assert.rejects(store.put('linked/new', Buffer.from('x'), { signal }), { code: 'STORE_FAILED' });
  assert.deepEqual(await keys(), ['real/object']);
  await store.put('object', Buffer.from('mine'), { signal });
  assert.equal(await readFile(join(parent, 'outside/object'), 'utf8'), 'secret');
  assert.deepEqual(await readdir(join(parent, 'outside')), ['object']);

  await symlink(dir, join(parent, 'alias'));
  const alias = createFileStore({ dir: join(parent, 'alias') });
  assert.equal((await alias.stat('real/object', { signal }))?.size, 1);
});

test('what is no object is not listed, and an emptied folder goes', async () => {
  await store.put('a/b/c/object', Buffer.from('x'), { signal });
  await store.put('a/other', Buffer.from('x'), { signal });
  await mkdir(join(dir, 'lost+found'));
  await writeFile(join(dir, 'a/.nfs0001'), '');
  await writeFile(join(dir, 'a/with space'), '');
  assert.deepEqual(await keys(), ['a/b/c/object', 'a/other']);
  await store.remove('a/b/c/object', { signal });
  assert.deepEqual((await readdir(join(dir, 'a'))).sort(), ['.nfs0001', 'other', 'with space']);
});

test('a listing is in the order of the keys, whatever they are', async () => {
  const segment = fc
    .string({ unit: fc.constantFrom('a', 'b', 'B', '-', '.', '_', '0'), minLength: 1, maxLength: 3 })
    .filter((s) => !s.startsWith('.'));
  const key = fc.array(segment, { minLength: 1, maxLength: 3 }).map((segments) => segments.join('/'));
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(key, { maxLength: 12 }), async (names) => {
      const fit = names.filter((name) => !names.some((other) => other.startsWith(`${name}/`)));
      await mkdir(dir, { recursive: true });
      for (const name of fit) await store.put(name, Buffer.from(name), { signal });
      assert.deepEqual(await keys(), [...fit].sort());
      const prefix = fit[0]?.slice(0, 2) ?? '';
      assert.deepEqual(
        await keys(prefix),
        [...fit].sort().filter((name) => name.startsWith(prefix)),
      );
      await rm(dir, { recursive: true });
    }),
    { numRuns: 30 },
  );
});

test('system errors are told as what they mean for the store', () => {
  const codes = {
    EACCES: 'STORE_FORBIDDEN',
    EPERM: 'STORE_FORBIDDEN',
    EROFS: 'STORE_READ_ONLY',
    ENOSPC: 'NO_SPACE',
    EDQUOT: 'NO_SPACE',
    ELOOP: 'STORE_FAILED',
    EIO: 'STORE_FAILED',
  };
  for (const [errno, code] of Object.entries(codes)) {
    const error = fileError(Object.assign(new Error(errno), { code: errno }), 'write', '/a/b');
    assert.deepEqual([error.code, error.retryable], [code, false]);
    assert.match(error.message, /\/a\/b/);
    assert.ok(error.hint);
  }
  assert.equal(fileError(Object.assign(new Error('x'), { code: 'ESTALE' }), 'read', '/a').retryable, true);
});

test('where this user may not go, the store is forbidden and nothing is absent', async () => {
  await store.put('secret', Buffer.from('x'), { signal });
  await store.put('closed/object', Buffer.from('x'), { signal });
  await chmod(join(dir, 'secret'), 0o000);
  await chmod(join(dir, 'closed'), 0o000);
  await chmod(dir, 0o555);
  await chmod(join(dir, '.tmp'), 0o555);
  await chmod(parent, 0o755);
  // For root there are no closed doors: a child of another user tries them.
  const { child, said } = start('forbidden', 0, process.getuid?.() === 0 ? { uid: 65534 } : {});
  await finished(child);
  await chmod(dir, 0o755);
  await chmod(join(dir, 'closed'), 0o755);
  assert.deepEqual(said, ['STORE_FORBIDDEN', 'STORE_FORBIDDEN', 'STORE_FORBIDDEN', 'STORE_FORBIDDEN']);
});

test('one of many processes creates, one replaces', async () => {
  await store.put('counter', Buffer.from('none'), { signal });
  const processes = Array.from({ length: 40 }, (_, index) => start('race', index));
  await until(() => processes.every(({ said }) => said.includes('ready')), 'the start of all processes');
  for (const { child } of processes) child.send('go');
  for (const { child } of processes) await finished(child);
  const said = processes.flatMap((one) => one.said);
  const won = said.filter((word) => word !== 'ready').sort();
  assert.deepEqual(won, [...Array.from({ length: 10 }, (_, index) => `created ${index}`), 'replaced']);
  const winner = processes.findIndex((one) => one.said.includes('replaced'));
  assert.equal(
    Buffer.from((await store.read('counter', { maxBytes: 10, signal })).bytes).toString(),
    String(winner),
  );
});

test('no update is lost between processes', async () => {
  await store.put('counter', Buffer.from('0'), { signal });
  const processes = Array.from({ length: 6 }, () => start('count', 25));
  for (const { child } of processes) await finished(child);
  assert.equal(Buffer.from((await store.read('counter', { maxBytes: 10, signal })).bytes).toString(), '150');
});

test('the lock of a killed process is taken over', async () => {
  await mkdir(join(dir, '.tmp'), { recursive: true });
  for (let round = 0; round < 3; round++) {
    const { child, said } = start('hold');
    await until(() => said.includes('holding'), 'the lock');
    const waiting = withFileLock(dir, 'test', signal, async () => 'taken');
    await delay(50);
    assert.equal(await Promise.race([waiting, delay(50, 'waits')]), 'waits');
    await kill(child);
    assert.equal(await waiting, 'taken');
  }
  assert.deepEqual(await readdir(join(dir, '.locks')), ['test.gen']);
});

test('a wait for the lock ends with the signal', async () => {
  await mkdir(join(dir, '.tmp'), { recursive: true });
  const { child, said } = start('hold');
  await until(() => said.includes('holding'), 'the lock');
  const waiting = withFileLock(dir, 'test', AbortSignal.timeout(50), async () => 'taken');
  await assert.rejects(waiting, { code: 'ABORTED' });
  await kill(child);
});

test('nobody is ever alone with somebody else, whoever is killed', async () => {
  await mkdir(join(dir, '.tmp'), { recursive: true });
  const all = Array.from({ length: 6 }, () => start('exclude'));
  for (let round = 0; round < 25; round++) {
    const victim = all[round % 6];
    assert.ok(victim);
    await until(() => victim.said.includes('turn') || victim.child.exitCode !== null, 'a turn');
    await delay(Math.random() * 20);
    await kill(victim.child);
    assert.equal(victim.child.signalCode, 'SIGKILL', `a process ended with ${victim.child.exitCode}`);
    all.push(...all.splice(round % 6, 1, start('exclude')));
  }
  const said = all.flatMap((one) => one.said);
  assert.deepEqual(
    said.filter((word) => word.startsWith('not alone')),
    [],
  );
});

test('a process killed while it writes leaves no part of an object, and nothing that lasts', async () => {
  for (let round = 0; round < 15; round++) {
    const writers = [start('put'), start('put')];
    await until(() => writers.every(({ said }) => said.includes('ready')), 'the start');
    await delay(5 + Math.random() * 80);
    for (const { child } of writers) {
      await kill(child);
      assert.equal(child.signalCode, 'SIGKILL', `a writer ended by itself with ${child.exitCode}`);
    }
    for (const key of (await readdir(dir)).includes('a') ? await keys() : []) {
      const { bytes } = await store.read(key, { maxBytes: 1_000_000, signal });
      const round = bytes[0] ?? 0;
      assert.ok(
        bytes.length >= 200_000 && bytes.every((byte) => byte === round),
        `${key} is a part of an object`,
      );
    }
  }
  await store.put('a/replaced', Buffer.from('x'), { signal });
  const later = createFileStore({ dir });
  await later.put('b/new', Buffer.from('x'), { signal });
  assert.deepEqual(await readdir(join(dir, '.tmp')), []);
});

test('unfinished writes of the dead and the very old are removed, others are not', async () => {
  const temp = join(dir, '.tmp');
  await mkdir(temp, { recursive: true });
  const own = await ownIdentity();
  const dead = own.replace(/\.\d+\.(\d+)$/, '.4194305.$1');
  const reused = own.replace(/\d+$/, '1');
  for (const name of [
    `${own}.aa`,
    `${dead}.aa`,
    `${reused}.aa`,
    'elsewhere-1.12.5.aa',
    'elsewhere-1.12.5.bb',
  ])
    await writeFile(join(temp, name), 'x');
  const old = Date.now() / 1000 - 25 * 3600;
  await utimes(join(temp, 'elsewhere-1.12.5.bb'), old, old);
  await store.put('a', Buffer.from('x'), { signal });
  assert.deepEqual((await readdir(temp)).sort(), [`${own}.aa`, 'elsewhere-1.12.5.aa'].sort());
});

test('versions differ even within one tick of the clock and for the same inode', async () => {
  const seen = new Set<string>();
  for (let round = 0; round < 200; round++) {
    seen.add((await store.put('a', Buffer.from(String(round % 10)), { signal })).version);
    await store.remove('a', { signal });
  }
  assert.equal(seen.size, 200);
});

/** Lets the n-th call of one function of `node:fs/promises` fail, as a failing disk does. */
function failOnce(t: TestContext, name: 'stat' | 'truncate' | 'unlink', nth: number): void {
  const original = fs[name] as (...args: unknown[]) => Promise<unknown>;
  let calls = 0;
  const mocked = t.mock.method(fs, name, async (...args: unknown[]) => {
    calls += 1;
    if (calls === nth) throw Object.assign(new Error('EIO: i/o error'), { code: 'EIO' });
    return original(...args);
  });
  syncBuiltinESMExports();
  t.after(() => {
    mocked.mock.restore();
    syncBuiltinESMExports();
  });
}

test('a lock that could not be given back does not block the process that has it', async (t) => {
  const soon = AbortSignal.timeout(10_000);
  failOnce(t, 'truncate', 1);
  await assert.rejects(
    withFileLock(dir, 'test', soon, async () => {}),
    { code: 'EIO' },
  );
  assert.equal(await withFileLock(dir, 'test', soon, async () => 'taken'), 'taken');
});

test('a lock of which a failing disk does not tell whether it is held blocks nobody', async (t) => {
  const soon = AbortSignal.timeout(10_000);
  // The first look is for the lock's files, the second for its generation, the third is after it was made.
  failOnce(t, 'stat', 3);
  await assert.rejects(
    withFileLock(dir, 'test', soon, async () => 'taken'),
    { code: 'EIO' },
  );
  assert.equal(await withFileLock(dir, 'test', soon, async () => 'taken'), 'taken');
});

test('a lock that was given back but for its file is not taken from who has it next', async (t) => {
  const soon = AbortSignal.timeout(30_000);
  failOnce(t, 'unlink', 1);
  await assert.rejects(
    withFileLock(dir, 'test', soon, async () => {}),
    { code: 'EIO' },
  );
  // Others come and go, and one has it, when this process looks after what it left.
  const generation = join(dir, '.locks/test.gen');
  await writeFile(generation, 'xxx');
  const stat = (await readFile('/proc/1/stat', 'utf8')).split(') ')[1]?.split(' ');
  const other = (await ownIdentity()).replace(/\.\d+\.\d+$/, `.1.${stat?.[19]}`);
  await symlink(other, join(dir, '.locks/test.4'));
  const waiting = withFileLock(dir, 'test', AbortSignal.timeout(300), async () => 'taken');
  await assert.rejects(waiting, { code: 'ABORTED' });
  assert.equal((await readFile(generation)).length, 3);
});
