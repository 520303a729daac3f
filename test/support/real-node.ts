/**
 * The real node, and databases that it wrote, for tests.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createReadStream, createWriteStream, existsSync } from 'node:fs';
import { chmod, mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join, resolve, sep } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { createZstdDecompress } from 'node:zlib';
import { extract } from 'tar-stream';
import { freePorts } from './ports.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const FIXTURES = join(ROOT, 'test/fixtures');
const CACHE = join(ROOT, '.cache/tools');
const SHARED_NODE = join(ROOT, '../shared/node/polkadot-omni-node.zst');

export type FixtureBackend = 'rocksdb' | 'paritydb';

/** Genesis of the development chain. */
export const DEV_GENESIS = '0xfb32d43abdcef96898750c21ff3c6bfd2165c9385d0a85fb2d01eb1de29ba3f2';

export interface StartNodeOptions {
  basePath: string;
  backend: FixtureBackend;
  /** Milliseconds between two blocks; 0 makes none. Default 500. */
  blockTimeMs?: number | undefined;
  /** Default: the development chain of the fixtures. */
  chainSpec?: string | undefined;
  /** Kills the node. */
  signal?: AbortSignal | undefined;
}

export interface RealNode {
  pid: number;
  rpcUrl: string;
  wsUrl: string;
  /** One JSON-RPC call. */
  call(method: string, ...params: unknown[]): Promise<unknown>;
  /** The best block's number. */
  best(): Promise<number>;
  bestHash(): Promise<string>;
  /** The end of its log. */
  log(): string;
  /** Ends it in an orderly way, killing it after 30 s. May be called twice. */
  stop(): Promise<void>;
  /** SIGKILL. May be called twice. */
  kill(): Promise<void>;
}

/** Whether there is an executable node: for `needs('a node', hasNode())`. */
export function hasNode(): boolean {
  const given = process.env.PRESYNC_NODE_BIN;
  if (given !== undefined && given !== '') return existsSync(given);
  return (
    process.platform === 'linux' &&
    process.arch === 'x64' &&
    (existsSync(SHARED_NODE) || existsSync(cachedNode()))
  );
}

let unpacking: Promise<string> | undefined;

/** The node's executable, unpacked on the first call. */
export function nodeExecutable(): Promise<string> {
  const given = process.env.PRESYNC_NODE_BIN;
  if (given !== undefined && given !== '') return Promise.resolve(resolve(given));
  unpacking ??= unpackOnce(SHARED_NODE, cachedNode(), 0o755);
  return unpacking;
}

/** The development chain's specification, unpacked. */
export function devChainSpec(): Promise<string> {
  return unpackOnce(join(FIXTURES, 'dev-chain-spec.json.zst'), join(CACHE, 'dev-chain-spec.json'), 0o644);
}

/** The development chain's specification, in a new file, which says of the chain that it is a live one. */
export async function liveChainSpec(dir: string): Promise<string> {
  const spec: Record<string, unknown> = JSON.parse(await readFile(await devChainSpec(), 'utf8'));
  const path = join(dir, 'live-spec.json');
  await writeFile(path, JSON.stringify({ ...spec, chainType: 'Live' }));
  return path;
}

function cachedNode(): string {
  return join(CACHE, 'polkadot-omni-node');
}

async function unpackOnce(source: string, target: string, mode: number): Promise<string> {
  if (existsSync(target)) return target;
  await mkdir(dirname(target), { recursive: true });
  // Several test processes may come here at once; each renames a whole file into place.
  const temporary = `${target}.${process.pid}`;
  try {
    await pipeline(
      createReadStream(source),
      createZstdDecompress({ chunkSize: 1 << 20 }),
      createWriteStream(temporary),
    );
    await chmod(temporary, mode);
    await rename(temporary, target);
  } finally {
    await rm(temporary, { force: true });
  }
  return target;
}

/** How long the node may take until its RPC answers: it compiles the runtime first. */
const START_MS = 600_000;
const LOG_CHARACTERS = 16_384;

/** Starts a node on free ports of 127.0.0.1, without peers, and waits until its RPC answers. */
export async function startNode(options: StartNodeOptions): Promise<RealNode> {
  const { basePath, backend, signal } = options;
  const executable = await nodeExecutable();
  const chainSpec = options.chainSpec ?? (await devChainSpec());
  const [rpcPort, p2pPort] = await freePorts(2);
  await mkdir(basePath, { recursive: true });
  const blockTime = options.blockTimeMs ?? 500;
  const child = spawn(
    executable,
    [
      ...['--chain', chainSpec, '--dev', '--base-path', basePath, '--database', backend],
      // A node that shall make no blocks is given a block time that no test lives to see.
      ...['--dev-block-time', String(blockTime === 0 ? 86_400_000 : blockTime)],
      ...['--pool-type', 'single-state', '--state-pruning', 'archive', '--blocks-pruning', 'archive'],
      ...['--rpc-port', String(rpcPort), '--listen-addr', `/ip4/127.0.0.1/tcp/${p2pPort}`],
      ...['--reserved-only', '--no-mdns', '--no-telemetry', '--no-prometheus', '--disable-log-color'],
    ],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
      ...(signal === undefined ? {} : { signal, killSignal: 'SIGKILL' as const }),
    },
  );
  let log = '';
  const keep = (text: string) => {
    log = (log + text).slice(-LOG_CHARACTERS);
  };
  child.stdout.setEncoding('utf8').on('data', keep);
  child.stderr.setEncoding('utf8').on('data', keep);
  const ended = new Promise<void>((done) => {
    child.once('close', () => done());
    child.once('error', (error) => {
      keep(`\n${error.message}\n`);
      done();
    });
  });
  const killAtExit = () => child.kill('SIGKILL');
  process.once('exit', killAtExit);
  void ended.then(() => process.off('exit', killAtExit));

  const rpcUrl = `http://127.0.0.1:${rpcPort}`;
  const call = (method: string, ...params: unknown[]) => jsonRpc(rpcUrl, method, params);
  const node: RealNode = {
    pid: child.pid ?? 0,
    rpcUrl,
    wsUrl: `ws://127.0.0.1:${rpcPort}`,
    call,
    best: async () => numberOf(await call('chain_getHeader')),
    bestHash: async () => String(await call('chain_getBlockHash')),
    log: () => log,
    stop: async () => {
      if (!hasEnded(child)) child.kill('SIGINT');
      const late = setTimeout(() => child.kill('SIGKILL'), 30_000);
      await ended;
      clearTimeout(late);
    },
    kill: async () => {
      if (!hasEnded(child)) child.kill('SIGKILL');
      await ended;
    },
  };
  try {
    await untilReady(child, node, signal);
    return node;
  } catch (error) {
    await node.kill();
    throw error;
  }
}

async function untilReady(
  child: ChildProcess,
  node: RealNode,
  signal: AbortSignal | undefined,
): Promise<void> {
  const deadline = performance.now() + START_MS;
  for (;;) {
    signal?.throwIfAborted();
    if (hasEnded(child)) throw new Error(`the node ended early; the end of its log:\n${node.log()}`);
    try {
      await node.call('system_health');
      return;
    } catch (error) {
      if (performance.now() > deadline) {
        throw new Error(`the node did not answer in time; the end of its log:\n${node.log()}`, {
          cause: error,
        });
      }
    }
    await sleep(200);
  }
}

function hasEnded(child: ChildProcess): boolean {
  return child.pid === undefined || child.exitCode !== null || child.signalCode !== null;
}

/** One JSON-RPC call over HTTP. */
export async function jsonRpc(url: string, method: string, params: readonly unknown[]): Promise<unknown> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }),
    signal: AbortSignal.timeout(10_000),
  });
  const answer: unknown = await response.json();
  if (typeof answer === 'object' && answer !== null && 'result' in answer) return answer.result;
  throw new Error(`${method}: ${JSON.stringify(answer)}`);
}

function numberOf(header: unknown): number {
  if (typeof header === 'object' && header !== null && 'number' in header) return Number(header.number);
  throw new Error(`not a header: ${JSON.stringify(header)}`);
}

/** Unpacks a database fixture below a base path, with holes kept. */
export async function unpackFixture(backend: FixtureBackend, basePath: string): Promise<void> {
  const unpack = extract();
  const packed = createReadStream(join(FIXTURES, `${backend}.tar.zst`));
  const done = pipeline(packed, createZstdDecompress({ chunkSize: 1 << 20 }), unpack);
  for await (const entry of unpack) {
    const { name, type, size = 0, mode = 0o644 } = entry.header;
    const path = resolve(basePath, name);
    if (path !== resolve(basePath) && !path.startsWith(resolve(basePath) + sep))
      throw new Error(`${name} leaves ${basePath}`);
    if (type === 'directory') await mkdir(path, { recursive: true });
    else if (type === 'file') await writeSparse(path, Readable.from(entry), size, mode);
    else throw new Error(`${name} is a ${type}`);
    entry.resume();
  }
  await done;
}

async function writeSparse(path: string, content: Readable, size: number, mode: number): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await using file = await open(path, 'wx', mode);
  await file.truncate(size);
  let offset = 0;
  for await (const chunk of content) {
    if (!Buffer.isBuffer(chunk)) throw new Error('not bytes');
    for (const [start, end] of dataRuns(chunk)) await file.write(chunk, start, end - start, offset + start);
    offset += chunk.length;
  }
  if (offset !== size) throw new Error(`${path} has ${offset} bytes, not ${size}`);
}

const PAGE = 4096;
const ZEROS = Buffer.alloc(PAGE);

/** Start and end of each run of pages that are not all zeros. */
function* dataRuns(chunk: Buffer): Generator<[start: number, end: number]> {
  let start = -1;
  for (let at = 0; at < chunk.length; at += PAGE) {
    const piece = chunk.subarray(at, at + PAGE);
    const isHole = piece.equals(ZEROS.subarray(0, piece.length));
    if (!isHole && start < 0) start = at;
    if (isHole && start >= 0) {
      yield [start, at];
      start = -1;
    }
  }
  if (start >= 0) yield [start, chunk.length];
}
