import { execFileSync, spawn } from 'node:child_process';
import { networkInterfaces, setPriority } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectNode } from '@presync/node/rpc';
import { messageOf } from '@presync/runtime/errors';
import { RAISE_LOOPBACK } from './lib/isolation.ts';
import type { SupervisorMessage, SupervisorTask } from './proof-messages.ts';

/** The source node comes first. */
const NICENESS = 5;
const ASK_EVERY_MS = 500;
/** Of the node's log, the end is kept. */
const LOG_CHARACTERS = 8192;

/**
 * What presync does when it is started as the one that looks after a proof node (see `lib/run-proof-node.ts`): starts the node, asks it over loopback, and says what it
 * answered. It runs in the node's own network namespace, where the presync that started it is not. Its standard input is a pipe that only that one holds: when it
 * ends, that presync is gone or has seen enough, and the node is killed.
 */
export async function superviseProof(text: string): Promise<void> {
  const stop = new AbortController();
  const end = (): void => {
    stop.abort();
    killAll();
  };
  process.stdin.resume();
  process.stdin.once('end', end);
  process.stdin.once('error', end);
  process.stdout.once('error', end);
  try {
    const task: SupervisorTask = JSON.parse(text);
    if (task.ownNetwork) {
      const [program, ...args] = RAISE_LOOPBACK;
      execFileSync(program, args);
      const out = waysOut();
      if (out.length > 0) throw new Error(`there is a way out of its network namespace: ${out.join(', ')}`);
    }
    setPriority(NICENESS);
    startNode(task, stop);
    await ask(task, stop.signal);
  } catch (error) {
    say({ kind: 'refused', reason: messageOf(error) });
  }
}

function say(message: SupervisorMessage): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

/** Kills the node and whatever it has started. The first process of a namespace spares itself, and ends by itself when it has nothing left to do. */
function killAll(): void {
  process.kill(process.pid === 1 ? -1 : 0, 'SIGKILL');
}

/** Names of interfaces that lead anywhere. */
function waysOut(): string[] {
  return Object.entries(networkInterfaces())
    .filter(([, addresses]) => addresses?.some(({ internal }) => !internal))
    .map(([name]) => name);
}

function startNode(task: SupervisorTask, stop: AbortController): void {
  const [program = '', ...args] = task.command;
  let log = '';
  const keep = (text: string): void => {
    log = (log + text).slice(-LOG_CHARACTERS);
  };
  const child = spawn(program, args, {
    cwd: task.dir,
    env: { ...process.env, HOME: task.dir },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  child.stdout.setEncoding('utf8').on('data', keep);
  child.stderr.setEncoding('utf8').on('data', keep);
  child.once('error', (error) => {
    say({ kind: 'refused', reason: `${program} cannot be started: ${messageOf(error)}` });
    stop.abort();
  });
  child.once('close', (code, signal) => {
    if (stop.signal.aborted) return;
    say({ kind: 'ended', how: signal === null ? `with code ${code}` : `by ${signal}`, log });
    stop.abort();
  });
}

/** Asks until the node has answered once: what a database holds is known when it is open, and nothing can be added to it here. */
async function ask(task: SupervisorTask, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    try {
      const rpc = await connectNode(`http://127.0.0.1:${task.rpcPort}`, { signal });
      const anchorHash = task.anchor === null ? undefined : await rpc.blockHash(task.anchor);
      const best = await rpc.best();
      const { name, version } = await rpc.implementation();
      const genesis = await rpc.genesisHash();
      say({
        kind: 'answer',
        genesis,
        best,
        anchorHash: anchorHash ?? null,
        implementation: `${name} ${version}`,
      });
      return;
    } catch {
      // It does not answer yet, or never will: presync has a clock.
      await sleep(ASK_EVERY_MS, undefined, { signal }).catch(() => undefined);
    }
  }
}
