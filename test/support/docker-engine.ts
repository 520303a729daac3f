/**
 * A stand-in for the Docker engine, where there is none: the part of its HTTP API that presync uses, over a unix socket. Its containers are real
 * processes, which it really stops, continues, ends and starts. Pausing is by SIGSTOP, where the engine takes the freezer.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

export interface DockerEngine {
  readonly socket: string;
  /** Whole id of the one container. */
  readonly id: string;
  /** The container's process; undefined when it does not run. */
  pid(): number | undefined;
  isPaused(): boolean;
  /** Every request, as `POST /containers/node/pause`. */
  readonly requests: readonly string[];
  /** Answers everything with 500 from now on, or no more. */
  fail(failing: boolean): void;
  close(): Promise<void>;
}

/** One container, `name`, that runs. */
export async function startDockerEngine(options: {
  socket: string;
  name: string;
  /** What runs in it; or the process that is taken for it, which is then only paused. */
  command: readonly string[] | { pid: number };
}): Promise<DockerEngine> {
  const { socket, name } = options;
  const adopted = 'pid' in options.command ? options.command.pid : undefined;
  const [command = '', ...args] = 'pid' in options.command ? [] : options.command;
  const id = createHash('sha256').update(`${socket} ${name}`).digest('hex');
  const requests: string[] = [];
  let failing = false;
  let paused = false;
  let child: ChildProcess | undefined;
  const start = async (): Promise<void> => {
    const started = spawn(command, args, { stdio: ['ignore', 'ignore', 'ignore'] });
    await new Promise((resolve, reject) => started.once('spawn', resolve).once('error', reject));
    child = started;
    started.once('exit', () => {
      if (child !== started) return;
      child = undefined;
      paused = false;
    });
  };
  const stop = async (graceMs: number): Promise<void> => {
    const stopping = child;
    if (stopping === undefined) return;
    const gone = new Promise((resolve) => stopping.once('exit', resolve));
    stopping.kill('SIGTERM');
    stopping.kill('SIGCONT');
    const late = setTimeout(() => stopping.kill('SIGKILL'), graceMs);
    await gone;
    clearTimeout(late);
  };
  if (adopted === undefined) await start();
  const pid = () => adopted ?? child?.pid;

  const act = async (action: string, seconds: number): Promise<[status: number, message?: string]> => {
    switch (action) {
      case 'pause':
        if (pid() === undefined) return [409, `container ${id} is not running`];
        if (paused) return [409, `container ${id} is already paused`];
        paused = true;
        await signalAndWait(pid() ?? 0, 'SIGSTOP');
        return [204];
      case 'unpause':
        if (pid() === undefined || !paused) return [409, `Container ${id} is not paused`];
        await signalAndWait(pid() ?? 0, 'SIGCONT');
        paused = false;
        return [204];
      case 'stop':
        if (child === undefined) return [304];
        await stop(seconds * 1000);
        return [204];
      case 'start':
        if (child !== undefined) return [304];
        await start();
        return [204];
      default:
        return [404, 'page not found'];
    }
  };
  const answer = (response: ServerResponse, status: number, body?: object): void => {
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(body === undefined ? undefined : JSON.stringify(body));
  };
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://docker');
    requests.push(`${request.method} ${url.pathname}`);
    const [, asked, action = ''] = /^\/containers\/([^/]+)\/(\w+)$/.exec(url.pathname) ?? [];
    if (failing) answer(response, 500, { message: 'the engine is out of order' });
    else if (url.pathname === '/_ping') response.end('OK');
    else if (asked === undefined) answer(response, 404, { message: 'page not found' });
    else if (asked !== name && !(asked.length >= 12 && id.startsWith(asked)))
      answer(response, 404, { message: `No such container: ${asked}` });
    else if (request.method === 'GET' && action === 'json') {
      const Running = pid() !== undefined;
      const Status = paused ? 'paused' : Running ? 'running' : 'exited';
      answer(response, 200, {
        Id: id,
        Name: `/${name}`,
        State: { Status, Running, Paused: paused, Pid: pid() ?? 0 },
      });
    } else {
      void act(action, Number(url.searchParams.get('t') ?? 10)).then(([status, message]) =>
        answer(response, status, message === undefined ? undefined : { message }),
      );
    }
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ path: socket }, resolve);
  });
  const killAtExit = () => child?.kill('SIGKILL');
  process.once('exit', killAtExit);
  return {
    socket,
    id,
    requests,
    pid,
    isPaused: () => paused,
    fail: (now) => {
      failing = now;
    },
    close: async () => {
      process.off('exit', killAtExit);
      const ending = child;
      if (ending !== undefined) {
        const gone = new Promise((resolve) => ending.once('exit', resolve));
        ending.kill('SIGKILL');
        await gone;
      }
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** The engine answers when the container stands still, or runs. */
async function signalAndWait(pid: number, signal: 'SIGSTOP' | 'SIGCONT'): Promise<void> {
  process.kill(pid, signal);
  const isDone = (thread: string): boolean => {
    const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'latin1');
    return (stat.charAt(stat.lastIndexOf(')') + 2) === 'T') === (signal === 'SIGSTOP');
  };
  try {
    while (!readdirSync(`/proc/${pid}/task`).every(isDone)) await sleep(1);
  } catch {
    // It has ended, or one of its threads has.
  }
}
