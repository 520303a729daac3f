import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { ThrottleCounters, ThrottleOptions } from './throttle.ts';

export interface ThrottleProcess {
  readonly port: number;
  readonly pid: number;
  counters(): Promise<ThrottleCounters>;
  close(): Promise<void>;
}

/** Starts the throttle in a process of its own. */
export async function startThrottleProcess(options: ThrottleOptions): Promise<ThrottleProcess> {
  const rate = Number.isFinite(options.bytesPerSecond) ? options.bytesPerSecond : 0;
  const child = fork(
    fileURLToPath(new URL('./throttle-main.ts', import.meta.url)),
    [String(options.upstreamPort), String(rate), String(options.firstByteMs)],
    { execArgv: [], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] },
  );
  const failed = once(child, 'exit').then(() => {
    throw new Error('the throttle process ended before it listened');
  });
  const [first] = await Promise.race([once(child, 'message'), failed]);
  failed.catch(() => undefined);
  const port = numberOf(first, 'port');
  if (child.pid === undefined) throw new Error('the throttle process has no pid');
  return {
    port,
    pid: child.pid,
    counters: async () => {
      const answer = once(child, 'message');
      child.send('counters');
      const [message] = await answer;
      return {
        sent: numberOf(message, 'sent'),
        received: numberOf(message, 'received'),
        connections: numberOf(message, 'connections'),
      };
    },
    close: async () => {
      if (child.exitCode !== null) return;
      const ended = once(child, 'exit');
      child.disconnect();
      await ended;
    },
  };
}

function numberOf(message: unknown, field: string): number {
  const value = typeof message === 'object' && message !== null ? Reflect.get(message, field) : undefined;
  if (typeof value !== 'number') throw new Error(`the throttle process answered without ${field}`);
  return value;
}
