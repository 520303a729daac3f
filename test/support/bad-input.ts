/** What every refusal has in common, and the scene for it: a source database, a store, a key, a state directory. */
import assert from 'node:assert/strict';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { formatPublicKey, generateKey, type PrivateKey } from '@presync/format/signature';
import { type PresyncOptions, type PresyncOutcome, startPresync } from './presync.ts';
import { DEV_GENESIS } from './real-node.ts';
import { listTree } from './tree.ts';

/** Lock and temporary folders of a file store: no part of what a store holds. */
export const STORE_INTERNALS = ['.tmp', '.locks'];

export interface Scene {
  dir: string;
  source: string;
  storeDir: string;
  store: string;
  target: string;
  stateDir: string;
  key: PrivateKey;
  keyFile: string;
  /** As `--trust` takes it. */
  trust: string;
  /** The arguments of a good snapshot. */
  snapshotArgs(...more: string[]): string[];
  /** The arguments of a good restore. */
  restoreArgs(...more: string[]): string[];
}

export interface TestScope {
  after(fn: () => Promise<void>): void;
}

/** A scratch folder that goes when the test ends. Every user may look into it. */
export async function scratchFolder(t: TestScope): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'presync-bad-input-'));
  await chmod(dir, 0o755);
  t.after(() => rm(dir, { recursive: true, force: true, maxRetries: 3 }));
  return dir;
}

/** Names of a scene in a scratch folder, and its key; the source is left to the test. */
export async function createScene(t: TestScope): Promise<Scene> {
  const dir = await scratchFolder(t);
  const key = generateKey();
  const keyFile = join(dir, 'signing-key.pem');
  await writeFile(keyFile, key.pem, { mode: 0o600 });
  const names = {
    source: join(dir, 'source'),
    storeDir: join(dir, 'store'),
    target: join(dir, 'target'),
    stateDir: join(dir, 'state'),
  };
  const store = pathToFileURL(names.storeDir).href;
  const trust = formatPublicKey(key);
  return {
    ...names,
    dir,
    store,
    key,
    keyFile,
    trust,
    snapshotArgs: (...more) => [
      ...[
        'snapshot',
        '--base-path',
        names.source,
        '--store',
        store,
        '--pause',
        'none',
        '--genesis',
        DEV_GENESIS,
      ],
      ...['--sign-key', keyFile, '--state-dir', names.stateDir, ...more],
    ],
    restoreArgs: (...more) => [
      ...[
        'restore',
        '--base-path',
        names.target,
        '--store',
        store,
        '--trust',
        trust,
        '--state-dir',
        names.stateDir,
      ],
      ...more,
    ],
  };
}

export interface Refusal {
  args: readonly string[];
  /** Stable error code, and the exit code that DESIGN 9 gives it. */
  code: string;
  exit: number;
  /** The message must hold each of these: the file, object or field. */
  names: readonly (string | RegExp)[];
  /** Folders in which nothing may change. */
  unchanged: readonly string[];
  /** Entries that may change in them. */
  ignore?: readonly string[] | undefined;
  options?: PresyncOptions | undefined;
}

export interface RefusalOutcome extends PresyncOutcome {
  message: string;
  /** Most memory that the program had resident, bytes; 0 where /proc does not tell. */
  peakBytes: number;
}

/** Runs the command with --json and asserts all that is promised of an error. */
export async function assertRefused(refusal: Refusal): Promise<RefusalOutcome> {
  const { args, code, exit, names, unchanged, ignore } = refusal;
  const before = await Promise.all(unchanged.map((dir) => listTree(dir, { ignore })));
  const running = startPresync([...args, '--json'], refusal.options);
  const peak = watchMemory(running.pid);
  const outcome = await running.done;
  const peakBytes = await peak.stop();
  const said = `presync ${args.join(' ')}\nended with ${outcome.code ?? outcome.signal}\nstdout: ${outcome.stdout}\nstderr: ${outcome.stderr}`;
  const { error } = asError(outcome.json, said);
  assert.equal(error.code, code, said);
  assert.equal(error.exitCode, exit, said);
  assert.equal(outcome.code, exit, said);
  for (const name of names) {
    const found = typeof name === 'string' ? error.message.includes(name) : name.test(error.message);
    assert.ok(found, `the message does not name ${name}: ${error.message}`);
  }
  assert.ok(typeof error.hint === 'string' && error.hint.length > 5, `no hint: ${said}`);
  assert.match(outcome.stderr, /^Try: /m, said);
  assert.doesNotMatch(outcome.stdout + outcome.stderr, /\n\s+at \S.*:\d+/, `a stack trace: ${said}`);
  for (const [index, dir] of unchanged.entries())
    assert.deepEqual(await listTree(dir, { ignore }), before[index], `${dir} was changed by:\n${said}`);
  return { ...outcome, message: error.message, peakBytes };
}

interface ErrorDocument {
  error: { code: string; message: string; hint?: unknown; exitCode: number };
}

function asError(json: unknown, said: string): ErrorDocument {
  assert.ok(isErrorDocument(json), `stdout is not one JSON document with an error: ${said}`);
  assert.deepEqual(Object.keys(json), ['error']);
  return json;
}

function isErrorDocument(json: unknown): json is ErrorDocument {
  if (typeof json !== 'object' || json === null || !('error' in json)) return false;
  const { error } = json;
  return (
    typeof error === 'object' &&
    error !== null &&
    'code' in error &&
    typeof error.code === 'string' &&
    'message' in error &&
    typeof error.message === 'string' &&
    'exitCode' in error &&
    typeof error.exitCode === 'number'
  );
}

/** Follows the high-water mark of a process's resident memory until it is stopped. */
export function watchMemory(pid: number): { stop(): Promise<number> } {
  let peakBytes = 0;
  let going = true;
  const done = (async () => {
    while (going) {
      try {
        const status = await readFile(`/proc/${pid}/status`, 'latin1');
        const kib = Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1] ?? 0);
        peakBytes = Math.max(peakBytes, kib * 1024);
      } catch {
        // The process has ended, or there is no /proc.
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  })();
  return {
    async stop() {
      going = false;
      await done;
      return peakBytes;
    },
  };
}
