import { type ChildProcess, spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { isSea } from 'node:sea';
import { stripVTControlCharacters } from 'node:util';
import { processStatus } from '@presync/node/processes';
import { errnoOf, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import { SUPERVISE_PROOF, type SupervisorMessage, type SupervisorTask } from '../proof-messages.ts';
import { type Isolation, withoutNetwork } from './isolation.ts';
import { fillIn } from './proof-command.ts';
import { OWNER_FILE } from './proof-scratch.ts';

export interface ProofNodeOptions {
  command: readonly string[];
  isolation: Isolation;
  /** The folder of this proof, and the restored copy in it. */
  dir: string;
  basePath: string;
  genesisHash: string;
  anchor: { number: number; hash: string } | null;
  timeoutMs: number;
  log: Logger;
  signal: AbortSignal;
}

/** What of presync's environment the node gets: no credentials. */
const ENVIRONMENT = /^(?:PATH|LANG|LC_[A-Z]+|TZ|LD_LIBRARY_PATH|RUST_[A-Z_]+)$/;
/** In a network of its own every port is free. */
const OWN_NETWORK_PORT = 9944;

/**
 * Opens the restored copy with a node that nobody else can reach and that can reach nobody, and requires what the manifest promises: the chain's genesis, and the
 * anchor block under its hash. Rejects with PROOF_FAILED when the node shows something else, ends, or takes too long. The node is gone when
 * this ends, however it ends.
 */
export async function runProofNode(options: ProofNodeOptions): Promise<void> {
  const { isolation, dir, log, signal, timeoutMs } = options;
  throwIfAborted(signal);
  const rpcPort = isolation.ownNetwork ? OWN_NETWORK_PORT : await freePort();
  const filled = fillIn(options.command, { basePath: options.basePath, rpcPort });
  const task: SupervisorTask = {
    command: isolation.kind === 'flags' ? withoutNetwork(filled) : filled,
    dir,
    rpcPort,
    anchor: options.anchor?.number ?? null,
    ownNetwork: isolation.ownNetwork,
  };
  const [program = process.execPath, ...args] = [
    ...isolation.wrapper,
    ...ownProgram(),
    SUPERVISE_PROOF,
    JSON.stringify(task),
  ];
  const started = performance.now();
  // `detached` gives it a process group of its own, by which all of it is killed.
  const child = spawn(program, args, {
    detached: true,
    cwd: dir,
    env: Object.fromEntries(Object.entries(process.env).filter(([name]) => ENVIRONMENT.test(name))),
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const closed = new Promise<void>((resolve) => {
    child.once('close', () => resolve());
    child.once('error', () => resolve());
  });
  const timeout = AbortSignal.timeout(timeoutMs);
  try {
    await noteOwner(dir, child);
    log.info('proof.node_started', 'a node opens the restored copy', { isolation: isolation.kind });
    const message = await firstMessage(child, closed, AbortSignal.any([signal, timeout]));
    throwIfAborted(signal);
    judge(message, options, timeout.aborted);
    log.info('proof.node_passed', 'the node holds what the snapshot promises', {
      isolation: isolation.kind,
      best: message?.kind === 'answer' ? message.best.number : undefined,
      anchor: options.anchor?.number,
      implementation: message?.kind === 'answer' ? message.implementation : undefined,
      seconds: (performance.now() - started) / 1000,
    });
  } finally {
    child.stdin.destroy();
    killGroup(child);
    await closed;
  }
}

/** How this very presync is started: as one executable, or as a program for Node. */
function ownProgram(): string[] {
  const [, program = ''] = process.argv;
  return isSea() ? [process.execPath] : [process.execPath, program];
}

/** So that the next presync finds and ends what this one leaves when it is killed. */
async function noteOwner(dir: string, child: ChildProcess): Promise<void> {
  const status = child.pid === undefined ? undefined : processStatus(child.pid);
  if (status === undefined) return;
  await writeFile(join(dir, OWNER_FILE), `${status.pid} ${status.startTime}\n`);
}

/** The first thing that the supervisor says; undefined when it says nothing until it ends or the signal fires. */
async function firstMessage(
  child: ChildProcess & { stdout: NodeJS.ReadableStream; stderr: NodeJS.ReadableStream },
  closed: Promise<void>,
  signal: AbortSignal,
): Promise<SupervisorMessage | undefined> {
  let complaint = '';
  child.stderr.on('data', (data: Buffer) => {
    complaint = (complaint + data.toString()).slice(-2000);
  });
  const lines = createInterface({ input: child.stdout });
  const aborted = new Promise<undefined>((resolve) => {
    signal.addEventListener('abort', () => resolve(undefined), { once: true });
  });
  try {
    return await Promise.race([
      aborted,
      new Promise<SupervisorMessage>((resolve) => {
        lines.once('line', (line) => resolve(JSON.parse(line)));
        child.once('error', (error) => resolve({ kind: 'refused', reason: messageOf(error) }));
        void closed.then(() => {
          const reason = complaint.trim().split('\n').at(-1) ?? '';
          resolve({ kind: 'refused', reason: `what looks after it ended at once: ${reason}` });
        });
      }),
    ]);
  } finally {
    lines.close();
  }
}

function judge(
  message: SupervisorMessage | undefined,
  { genesisHash, anchor, timeoutMs, log }: ProofNodeOptions,
  timedOut: boolean,
): void {
  const failed = (why: string): PresyncError =>
    new PresyncError('PROOF_FAILED', `the node that opened the restored copy ${why}`, {
      hint: 'look at the database and the log of the source node; "presync list" shows the reason, and the next snapshot is proved anew',
    });
  if (message === undefined) {
    if (!timedOut) throw new PresyncError('INTERNAL', 'a proof that ended without a reason');
    throw failed(`did not answer within ${timeoutMs / 1000} s`);
  }
  if (message.kind === 'refused') {
    throw new PresyncError('NODE_START_FAILED', `the proof node was not started: ${message.reason}`, {
      hint: 'check --prove-command; the snapshot is stored, and stays in quarantine because it was not proved',
    });
  }
  if (message.kind === 'ended') {
    log.error('proof.node_log', 'the last words of the node that opened the restored copy', {
      log: message.log,
    });
    throw failed(`ended ${message.how}: ${lastWords(message.log)}`);
  }
  const { genesis, best, anchorHash } = message;
  if (genesis !== genesisHash)
    throw failed(`is on the chain with genesis ${genesis}, and the snapshot says ${genesisHash}`);
  if (anchor === null) return;
  if (anchorHash === null)
    throw failed(
      `holds blocks up to ${best.number}, and the snapshot promises block ${anchor.number}: it is an older state`,
    );
  if (anchorHash !== anchor.hash)
    throw failed(`has ${anchorHash} as block ${anchor.number}, and the snapshot promises ${anchor.hash}`);
  if (best.number < anchor.number)
    throw failed(`is at block ${best.number}, and the snapshot promises ${anchor.number}`);
}

/** The line of a log that tells most: the last that speaks of an error, or the last. */
function lastWords(log: string): string {
  const lines = stripVTControlCharacters(log)
    .split('\n')
    .filter((line) => line.trim() !== '');
  return (lines.findLast((line) => /error|corrupt|panick|mismatch/i.test(line)) ?? lines.at(-1) ?? '').trim();
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch (error) {
    if (errnoOf(error) !== 'ESRCH') throw error;
  }
}

/** A port of 127.0.0.1 that is free now. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (typeof address === 'object' && address !== null) return address.port;
  throw new PresyncError('INTERNAL', 'a server without a port');
}
