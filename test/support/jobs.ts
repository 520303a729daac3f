/** Work in a process of its own, so that what hangs can be ended, and what crashes takes nothing with it. */
import { type ChildProcess, fork } from 'node:child_process';

/** How a job ended: with a value, not in time, or with the process. */
export type JobEnd<V> =
  | { kind: 'done'; value: V; seconds: number }
  | { kind: 'hang' | 'crash'; seconds: number; said: string };

export interface JobProcess<J, V> {
  /** One job at a time. After a hang or crash the next one has a new process. */
  run(job: J, limitMs: number): Promise<JobEnd<V>>;
  stop(): Promise<void>;
}

/** What is kept of what a process wrote to its standard error. */
const KEPT_CHARACTERS = 8000;
/** How long a process that hangs may take to say what it waits for. */
const LAST_WORDS_MS = 1000;

/** `program` is a module that calls `answerJobs`. It has this process's environment, but for presync's own variables, and `env`. */
export function createJobProcess<J extends object, V>(
  program: string,
  env: Record<string, string> = {},
): JobProcess<J, V> {
  let child: ChildProcess | undefined;
  let said = '';

  function start(): ChildProcess {
    said = '';
    const inherited = Object.entries(process.env).filter(
      ([name]) => !/^PRESYNC_|^NODE_TEST_CONTEXT$/.test(name),
    );
    const started = fork(program, [], {
      execArgv: [],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      env: { ...Object.fromEntries(inherited), UV_THREADPOOL_SIZE: '16', ...env },
    });
    started.stderr?.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-KEPT_CHARACTERS);
    });
    return started;
  }

  async function end(): Promise<void> {
    const ending = child;
    child = undefined;
    if (ending === undefined || ending.exitCode !== null || ending.signalCode !== null) return;
    const gone = new Promise((resolve) => ending.once('exit', resolve));
    ending.kill('SIGKILL');
    await gone;
  }

  return {
    async run(job, limitMs) {
      child ??= start();
      const running = child;
      const began = performance.now();
      const seconds = (): number => (performance.now() - began) / 1000;
      const ended = await new Promise<JobEnd<V>>((resolve) => {
        const timer = setTimeout(() => {
          running.kill('SIGUSR2');
          setTimeout(() => resolve({ kind: 'hang', seconds: seconds(), said }), LAST_WORDS_MS);
        }, limitMs);
        const onMessage = (value: unknown): void => {
          running.off('close', onClose);
          clearTimeout(timer);
          // The program answers with what its jobs give.
          resolve({ kind: 'done', value: value as V, seconds: seconds() });
        };
        const onClose = (code: number | null, signal: string | null): void => {
          running.off('message', onMessage);
          clearTimeout(timer);
          resolve({ kind: 'crash', seconds: seconds(), said: `ended with ${code ?? signal}: ${said}` });
        };
        running.once('message', onMessage);
        running.once('close', onClose);
        running.send(job);
      });
      if (ended.kind !== 'done') await end();
      return ended;
    },
    stop: end,
  };
}

/**
 * For the program: answers each job with what `work` gives. What it throws ends the process, as does the end of its parent. `pending` says
 * what is under way, for a job that does not end.
 */
export function answerJobs<J>(work: (job: J) => Promise<object>, pending: () => string[] = () => []): void {
  // The parent sends what the program's jobs are.
  process.on('message', (job) => {
    void work(job as J).then((value) => process.send?.(value));
  });
  process.on('disconnect', () => process.exit(0));
  process.on('SIGUSR2', () => {
    process.stderr.write(`waits for ${[...pending(), ...process.getActiveResourcesInfo()].join(', ')}\n`);
  });
}

/** Runs `work` for the numbers from 1 to `count`, each worker taking the next one when it has done with the last. */
export async function shareOut<W>(
  workers: readonly W[],
  count: number,
  work: (worker: W, number: number) => Promise<void>,
): Promise<void> {
  let next = 1;
  await Promise.all(
    workers.map(async (worker) => {
      while (next <= count) await work(worker, next++);
    }),
  );
}
