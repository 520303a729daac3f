/**
 * A process that works on a file store, for the tests of what happens between processes.
 * Arguments: what to do, the folder, and a number. Results go to the parent as messages.
 */
import { mkdir, open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { errnoOf, isPresyncError } from '@presync/runtime/errors';
import { createFileStore } from '@presync/store/file';
import { withFileLock } from '../src/lib/file-lock.ts';

const [task = '', dir = '', number = '0'] = process.argv.slice(2);
const signal = AbortSignal.timeout(300_000);
const store = createFileStore({ dir });

/** Waits until the parent has all its processes, then tries to create ten objects and to replace one. */
async function race(): Promise<void> {
  const { version } = await store.read('counter', { maxBytes: 100, signal });
  process.send?.('ready');
  await new Promise((resolve) => process.once('message', resolve));
  const body = Buffer.from(number);
  const tries: Record<string, () => Promise<unknown>> = {
    replaced: () => store.put('counter', body, { condition: { ifVersion: version }, signal }),
  };
  for (let index = 0; index < 10; index++) {
    tries[`created ${index}`] = () =>
      store.put(`new/${index}`, body, { condition: { ifAbsent: true }, signal });
  }
  for (const [name, attempt] of Object.entries(tries)) {
    try {
      await attempt();
      process.send?.(name);
    } catch (error) {
      if (!isPresyncError(error, 'CONDITION_FAILED')) throw error;
    }
  }
}

/** Adds one to a counter, `number` times, each time by reading and replacing what was read. */
async function count(): Promise<void> {
  for (let done = 0; done < Number(number); ) {
    const { bytes, version } = await store.read('counter', { maxBytes: 100, signal });
    const next = Buffer.from(String(Number(Buffer.from(bytes).toString()) + 1));
    try {
      await store.put('counter', next, { condition: { ifVersion: version }, signal });
      done++;
    } catch (error) {
      if (!isPresyncError(error, 'CONDITION_FAILED')) throw error;
    }
  }
}

/** Puts objects of one byte, many times over, until it is killed: create-only, replacing, removing. */
async function put(): Promise<void> {
  process.send?.('ready');
  for (let round = 0; ; round++) {
    const bytes = Buffer.alloc(200_000 + (round % 7), round % 256);
    const { version } = await store.put('a/replaced', bytes, { signal });
    await store.put('a/replaced', bytes, { condition: { ifVersion: version }, signal }).catch(orLost);
    await store
      .put(`b/${round % 10}/created`, bytes, { condition: { ifAbsent: true }, signal })
      .catch(orLost);
    if (round % 3 === 0) await store.remove(`b/${(round + 5) % 10}/created`, { signal });
  }
}

function orLost(error: unknown): void {
  if (!isPresyncError(error, 'CONDITION_FAILED')) throw error;
}

/** Takes the lock and never gives it back. */
function hold(): Promise<void> {
  return withFileLock(dir, 'test', signal, async () => {
    process.send?.('holding');
    await delay(300_000);
  });
}

/** Takes the lock again and again, and tells the parent when it is not alone in there. */
async function exclude(): Promise<void> {
  await mkdir(join(dir, '.tmp'), { recursive: true });
  const marker = join(dir, 'marker');
  process.send?.('ready');
  for (;;) {
    await withFileLock(dir, 'test', signal, async () => {
      await mark(marker);
      await delay(Math.random() * 3);
      await rm(marker);
    });
    process.send?.('turn');
  }
}

async function mark(marker: string): Promise<void> {
  try {
    const handle = await open(marker, 'wx');
    await handle.write(String(process.pid));
    await handle.close();
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
    const other = Number(await readFile(marker, 'utf8').catch(() => '0'));
    if (other !== 0 && (await alive(other))) process.send?.(`not alone: ${other}`);
    await rm(marker, { force: true });
    await mark(marker);
  }
}

/** A killed process stays as a zombie until its parent takes notice. */
async function alive(pid: number): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => ') Z');
  return !/\) [ZX]/.test(stat);
}

/** Tries to write and to read where it may not. */
async function forbidden(): Promise<void> {
  const calls = [
    store.put('new', Buffer.from('x'), { signal }),
    store.read('secret', { maxBytes: 10, signal }),
    store.stat('closed/object', { signal }),
    store.list('', { signal })[Symbol.asyncIterator]().next(),
  ];
  for (const outcome of await Promise.allSettled(calls)) {
    process.send?.(
      outcome.status === 'rejected' && isPresyncError(outcome.reason) ? outcome.reason.code : 'done',
    );
  }
}

const tasks: Record<string, () => Promise<void>> = { race, count, put, hold, exclude, forbidden };
await tasks[task]?.();
process.disconnect?.();
