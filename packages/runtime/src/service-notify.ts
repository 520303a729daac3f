/**
 * Tells systemd of the state of a service (sd_notify(3)). The protocol is a datagram to a Unix socket, which Node cannot send, so systemd's own
 * `systemd-notify` does it; the unit therefore needs `NotifyAccess=all`. Outside of systemd all of it does nothing.
 */
import { spawn } from 'node:child_process';
import { messageOf } from './errors.ts';

export interface ServiceNotify {
  /** How often the watchdog wants to be fed, in milliseconds; undefined when there is none. */
  readonly watchdogMs: number | undefined;
  /** Sends assignments such as `READY=1`, after all that were sent before. Resolves when systemd has them; never rejects. */
  send(...assignments: string[]): Promise<void>;
}

export interface ServiceNotifyOptions {
  environment?: Readonly<Record<string, string | undefined>> | undefined;
  /** Told once when systemd cannot be reached. */
  onProblem: (reason: string) => void;
}

/** A systemd that takes longer is in trouble of its own. */
const TIMEOUT_MS = 10_000;

export function createServiceNotify(options: ServiceNotifyOptions): ServiceNotify {
  const environment = options.environment ?? process.env;
  if ((environment.NOTIFY_SOCKET ?? '') === '') {
    return { watchdogMs: undefined, send: () => Promise.resolve() };
  }
  let last: Promise<void> = Promise.resolve();
  let told = false;
  return {
    watchdogMs: watchdogOf(environment),
    send: (...assignments) => {
      last = last.then(async () => {
        try {
          await notify(assignments, environment);
        } catch (error) {
          if (!told) options.onProblem(messageOf(error));
          told = true;
        }
      });
      return last;
    },
  };
}

/** `RELOADING=1` with the time that systemd wants beside it. */
export function reloading(): string[] {
  return ['RELOADING=1', `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`];
}

function watchdogOf({
  WATCHDOG_USEC,
  WATCHDOG_PID,
}: Readonly<Record<string, string | undefined>>): number | undefined {
  // The variables of a service reach its children too.
  if (WATCHDOG_PID !== undefined && WATCHDOG_PID !== '' && Number(WATCHDOG_PID) !== process.pid)
    return undefined;
  const microseconds = Number(WATCHDOG_USEC ?? '');
  return Number.isFinite(microseconds) && microseconds > 0 ? microseconds / 1000 : undefined;
}

function notify(
  assignments: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn('systemd-notify', [...assignments], {
      env: { ...environment },
      stdio: ['ignore', 'ignore', 'pipe'],
      timeout: TIMEOUT_MS,
      killSignal: 'SIGKILL',
    });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(0, 500);
    });
    child.once('error', reject);
    child.once('close', (code, signal) => {
      if (code === 0) resolve();
      else reject(new Error(`systemd-notify ended with ${code ?? signal}: ${said.trim()}`));
    });
  });
}
