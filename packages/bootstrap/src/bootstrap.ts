import { messageOf } from '@presync/runtime/errors';
import {
  type RestoreDatabaseOptions,
  type RestoreDatabaseResult,
  restoreDatabase,
} from './restore-database.ts';
import { type StartedNode, startCommand, startUnit } from './start-node.ts';
import { type ReadyReport, type WaitReadyOptions, waitReady } from './wait-ready.ts';

export interface BootstrapOptions extends RestoreDatabaseOptions {
  /** The node: a command that becomes a child, or a systemd unit; neither when something else starts it. */
  start: { command: readonly string[] } | { unit: string } | undefined;
  ready: Omit<WaitReadyOptions, 'manifest' | 'log' | 'signal'>;
  /** Called once, when the node is ready. */
  onReady: (result: BootstrapResult) => Promise<void>;
}

export interface BootstrapResult {
  database: RestoreDatabaseResult;
  ready: ReadyReport;
  /** Seconds from the call until the node was ready. */
  seconds: number;
}

/**
 * Brings a node up from the newest fit snapshot: restore (or keep a whole database), start, wait until it is right, report. A node that was started as a
 * child is then looked after until it ends, and its exit code returned; a node that does not become ready is stopped.
 */
export async function bootstrap(options: BootstrapOptions): Promise<number> {
  const { signal, log } = options;
  const started = performance.now();
  const database = await restoreDatabase(options);
  const node = await start(options);
  try {
    const ready = await Promise.race([
      waitReady({ ...options.ready, manifest: database.snapshot.manifest, log, signal }),
      node?.ended ?? never(),
    ]);
    await options.onReady({ database, ready, seconds: (performance.now() - started) / 1000 });
    log.info('node.ready', 'the node is ready', { ...ready });
  } catch (error) {
    log.error('node.not_ready', 'the node did not become ready', { reason: messageOf(error) });
    await node?.stop();
    throw error;
  }
  if (node === undefined) return 0;
  const stop = (): void => {
    node
      .stop()
      .catch((error: unknown) =>
        log.error('node.stop_failed', 'the node could not be stopped', { reason: messageOf(error) }),
      );
  };
  if (signal.aborted) stop();
  else signal.addEventListener('abort', stop, { once: true });
  return node.wait();
}

async function start({ start: how, signal, log }: BootstrapOptions): Promise<StartedNode | undefined> {
  if (how === undefined) return undefined;
  const node = 'unit' in how ? await startUnit(how.unit, { signal }) : await startCommand(how.command);
  log.info('node.started', 'the node was started', { pid: node.pid ?? null });
  return node;
}

function never(): Promise<never> {
  return new Promise(() => {});
}
