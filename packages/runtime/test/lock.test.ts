import assert from 'node:assert/strict';
import { mkdir, readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { isPresyncError } from '../src/errors.ts';
import { findFileHolder, lockByFile } from '../src/lib/lock-file.ts';
import { acquireLock, lockHolder, waitForLock } from '../src/lock.ts';
import { NEVER, scratch, start } from './support.ts';

test('a second lock of the same name is refused, names the holder, and is free after release', async (t) => {
  const dir = await scratch(t);
  const lock = await acquireLock({ dir, name: 'restore', signal: NEVER });
  await assert.rejects(acquireLock({ dir, name: 'restore', signal: NEVER }), (error) => {
    assert.ok(isPresyncError(error, 'LOCKED'));
    assert.equal(error.exitCode, 9);
    assert.match(error.message, new RegExp(`process ${process.pid}\\)`));
    return true;
  });
  await lock.release();
  await lock.release();
  const again = await acquireLock({ dir, name: 'restore', signal: NEVER });
  await again.release();
});

test('who holds a lock is told without taking it', async (t) => {
  const dir = await scratch(t);
  const subject = { dir, name: 'snapshot', signal: NEVER };
  assert.equal(await lockHolder(subject), undefined);
  assert.equal(await lockHolder({ ...subject, dir: join(dir, 'absent') }), undefined);
  assert.deepEqual(await readdir(dir), []);
  const holder = start('hold-lock.ts', [dir, 'snapshot']);
  await holder.says('held');
  assert.deepEqual(await lockHolder(subject), { pid: holder.child.pid });
  assert.equal(await lockHolder({ ...subject, name: 'restore' }), undefined);
  holder.child.kill('SIGKILL');
  await holder.ended;
  assert.equal(await lockHolder(subject), undefined);

  assert.equal(await findFileHolder(dir, 'x'), undefined);
  const lock = await lockByFile(dir, 'x');
  assert.deepEqual(await findFileHolder(dir, 'x'), { pid: process.pid });
  assert.ok('release' in lock);
  await lock.release();
  await writeFile(join(dir, '.presync-x.lock'), `${holder.child.pid}\n`);
  assert.equal(await findFileHolder(dir, 'x'), undefined, 'its process has ended');
});

test('locks of other names and of other folders do not meet', async (t) => {
  const dir = await scratch(t);
  const locks = [
    await acquireLock({ dir, name: 'restore', signal: NEVER }),
    await acquireLock({ dir, name: 'snapshot', signal: NEVER }),
    await acquireLock({ dir: join(dir, 'new'), name: 'restore', signal: NEVER }),
  ];
  for (const lock of locks) await lock.release();
});

test('every path to a folder gives the same lock', async (t) => {
  const dir = await scratch(t);
  await mkdir(join(dir, 'real'));
  await symlink('real', join(dir, 'link'));
  const lock = await acquireLock({ dir: join(dir, 'real'), name: 'x', signal: NEVER });
  await assert.rejects(acquireLock({ dir: join(dir, 'link'), name: 'x', signal: NEVER }), { code: 'LOCKED' });
  await lock.release();
});

test('a lock dies with its process, however that dies', async (t) => {
  const dir = await scratch(t);
  const holder = start('hold-lock.ts', [dir, 'x']);
  await holder.says('held');
  await assert.rejects(acquireLock({ dir, name: 'x', signal: NEVER }), {
    message: new RegExp(`process ${holder.child.pid}\\)`),
  });
  holder.child.kill('SIGKILL');
  await holder.ended;
  const lock = await acquireLock({ dir, name: 'x', signal: NEVER });
  await lock.release();
});

test('a holder that is stopped still holds, and its process stays unknown', async (t) => {
  if (process.platform !== 'linux') return;
  const dir = await scratch(t);
  const holder = start('hold-lock.ts', [dir, 'x']);
  await holder.says('held');
  holder.child.kill('SIGSTOP');
  try {
    await assert.rejects(acquireLock({ dir, name: 'x', signal: NEVER }), (error) => {
      assert.ok(isPresyncError(error, 'LOCKED'));
      assert.doesNotMatch(error.message, /process/);
      return true;
    });
  } finally {
    holder.child.kill('SIGKILL');
    await holder.ended;
  }
});

test('an aborted wait does not take the lock', async (t) => {
  const dir = await scratch(t);
  await assert.rejects(acquireLock({ dir, name: 'x', signal: AbortSignal.abort() }), { code: 'ABORTED' });
  const lock = await acquireLock({ dir, name: 'x', signal: NEVER });
  await lock.release();
});

test('of many processes one gets the lock', async (t) => {
  const dir = await scratch(t);
  const all = Array.from({ length: 6 }, () => start('hold-lock.ts', [dir, 'x']));
  const held = await Promise.all(
    all.map((program) =>
      Promise.race([program.says('held').then(() => true), program.ended.then(() => false)]).catch(
        () => false,
      ),
    ),
  );
  for (const program of all) program.child.kill('SIGKILL');
  await Promise.all(all.map((program) => program.ended));
  assert.equal(held.filter(Boolean).length, 1);
});

test('the file lock of other systems: second refused, dead holder replaced, living one kept', async (t) => {
  const dir = await scratch(t);
  const lock = await lockByFile(dir, 'x');
  assert.ok('release' in lock);
  assert.deepEqual(await lockByFile(dir, 'x'), { holder: process.pid });
  await lock.release();

  const dead = start('lifecycle.ts', ['nothing']);
  await dead.ended;
  await writeFile(join(dir, '.presync-x.lock'), `${dead.child.pid}\n`);
  const taken = await lockByFile(dir, 'x');
  assert.ok('release' in taken);
  await taken.release();
});

test('a lock that is waited for comes when it is free, and not after patience or signal have ended', async (t) => {
  const dir = await scratch(t);
  const lock = await acquireLock({ dir, name: 'x', signal: NEVER });
  const wanted = { dir, name: 'x', signal: NEVER };
  await assert.rejects(waitForLock({ ...wanted, patienceMs: 120 }), { code: 'LOCKED' });
  const signal = AbortSignal.timeout(120);
  await assert.rejects(waitForLock({ ...wanted, patienceMs: 60_000, signal }), { code: 'ABORTED' });
  const reasons: string[] = [];
  const waiting = waitForLock({
    ...wanted,
    patienceMs: 60_000,
    onWait: (reason) => {
      reasons.push(reason);
      setTimeout(() => void lock.release(), 120);
    },
  });
  await (await waiting).release();
  assert.equal(reasons.length, 1);
});
