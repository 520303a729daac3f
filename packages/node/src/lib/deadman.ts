import { type ChildProcess, spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { errnoOf, ioError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Emergency } from './hold.ts';
import type { ProcessId } from './proc.ts';
import { runProgram } from './run-program.ts';
import { systemctl, systemdRuns } from './systemctl.ts';

/**
 * The deadman: POSIX shell, so that it runs where presync runs and shares nothing with it. Arguments: intent file, presync pid and start time,
 * budget in hundredths of a second (`-` for none), and the strategy's own.
 *
 * It looks every 50 ms, and leaves when the intent is gone (presync brought the node back) or when nothing is left that could come back. When
 * the budget is over, or presync has ended (a zombie has), it brings the node back and then renames the intent. In this
 * order: presync tells a resumed node by its state, so a rename that fails or hangs costs nothing. It tries until it has succeeded.
 *
 * A deadman that finds the work done by another one does it once more, and leaves: a command that presync had begun, as `systemctl freeze`, may
 * outlive it and take effect after the first has looked. So the timer, which comes last, undoes what came late.
 *
 * Start times are compared, so a pid that was given to another process is never signalled. /proc/uptime serves as the
 * clock, since nobody can set it. TERM, INT and HUP are ignored, because systemd sends TERM to everything in a unit.
 */
function deadmanScript({ script, gone }: Emergency): string {
  return `
trap '' TERM INT HUP
intent=$1 owner=$2 owner_start=$3 budget=$4
shift 4

# Succeeds when process $1 with start time $2 exists and has not ended. Its name may hold blanks and newlines.
alive() {
  text=
  while IFS= read -r line || [ -n "$line" ]; do text="$text $line"; done 2>/dev/null <"/proc/$1/stat" || return 1
  wanted=$2
  set -f
  set -- \${text##*)}
  case $1 in Z | X | x | '') return 1 ;; esac
  [ "\${20}" = "$wanted" ]
}

now() {
  IFS='. ' read -r seconds hundredths rest </proc/uptime
  up=1$seconds$hundredths
}

over() {
  [ "$budget" != - ] || return 1
  now
  [ "$up" -ge "$end" ]
}

bring_back() {
${script}
}

gone() {
${gone ?? 'false'}
}

end=0
if [ "$budget" != - ]; then
  now
  end=$((up + budget))
fi
echo ready
exec >/dev/null
while [ -e "$intent" ]; do
  if over || ! alive "$owner" "$owner_start"; then
    if bring_back "$@"; then
      mv -f "$intent" "$intent.resumed-by-deadman"
      exit 0
    fi
    sleep 1
  fi
  if gone "$@"; then exit 0; fi
  sleep 0.05 2>/dev/null || sleep 1
done
if [ -e "$intent${DEADMAN_SUFFIX}" ]; then bring_back "$@"; fi
`;
}

/** Appended to an intent's file name by the deadman. */
export const DEADMAN_SUFFIX = '.resumed-by-deadman';
/** Appended to it, what systemd's timer runs. */
export const SCRIPT_SUFFIX = '.sh';

export interface Deadman {
  pid: number;
  /** Tells that the hold has succeeded: an endless one is watched by the process alone from now on. */
  held(): Promise<void>;
  /** Ends it, and resolves when it has ended. To be called when the intent is gone. */
  stop(): Promise<void>;
}

/** How long a shell may take to start. */
const START_TIMEOUT_MS = 10_000;

export interface DeadmanOptions {
  id: string;
  intentPath: string;
  emergency: Emergency;
  owner: ProcessId;
  budgetMs: number;
  /** True when only presync's end shall bring the node back once it is held, however long that takes. */
  endless: boolean;
  shell: readonly string[];
  signal: AbortSignal;
}

/**
 * Starts the deadman and waits until it watches: a process of its own, and, where systemd runs, a transient timer as well, since systemd may kill
 * everything that is left of a unit, that process with it.
 *
 * @throws NODE_PAUSE_FAILED when it does not start
 */
export async function startDeadman(options: DeadmanOptions): Promise<Deadman> {
  const watcher = await startWatcher(options);
  const timer = systemdRuns() ? await startTimer(options) : undefined;
  return {
    pid: watcher.pid,
    held: async () => {
      if (options.endless) await timer?.stop();
    },
    stop: async () => {
      await watcher.stop();
      await timer?.stop();
    },
  };
}

function argumentsOf({ intentPath, owner, emergency }: DeadmanOptions, budget: string): string[] {
  return [intentPath, String(owner.pid), owner.startTime, budget, ...emergency.args];
}

async function startWatcher(options: DeadmanOptions): Promise<{ pid: number; stop(): Promise<void> }> {
  const [command = 'sh', ...shellArguments] = options.shell;
  const budget = options.endless ? '-' : String(Math.ceil(options.budgetMs / 10));
  const child = spawn(
    command,
    [
      ...shellArguments,
      '-c',
      deadmanScript(options.emergency),
      'presync-deadman',
      ...argumentsOf(options, budget),
    ],
    // `detached` is setsid: a signal to presync's process group or terminal does not reach it.
    {
      detached: true,
      stdio: ['ignore', 'pipe', 'ignore'],
      cwd: '/',
      env: options.emergency.environment ?? minimalEnvironment(),
    },
  );
  const ended = new Promise<void>((resolve) => {
    child.once('close', () => resolve());
    child.once('error', () => resolve());
  });
  try {
    await ready(child, ended, options.signal);
  } catch (error) {
    killGroup(child);
    throw error;
  }
  child.stdout?.destroy();
  child.unref();
  return {
    pid: child.pid ?? 0,
    stop: async () => {
      killGroup(child);
      await ended;
    },
  };
}

function minimalEnvironment(): Record<string, string> {
  return { PATH: process.env.PATH ?? '/usr/sbin:/usr/bin:/sbin:/bin' };
}

/** How long systemd may take to take a timer, or to drop it. */
const SYSTEMD_TIMEOUT_MS = 10_000;

/** Undefined where systemd does not let this user start it: then the process must do alone. */
async function startTimer(options: DeadmanOptions): Promise<{ stop(): Promise<void> } | undefined> {
  const { id, intentPath, budgetMs, emergency, signal } = options;
  throwIfAborted(signal);
  // From a file: what stands in the command line of a unit is expanded, and again in another way when systemd reads all units anew.
  const file = `${intentPath}${SCRIPT_SUFFIX}`;
  const environment = Object.entries(emergency.environment ?? minimalEnvironment());
  const text = [
    ...environment.map(([name, value]) => `export ${name}=${quote(value)}`),
    `set -- ${argumentsOf(options, '0').map(quote).join(' ')}`,
    deadmanScript(emergency),
  ].join('\n');
  await writeFile(file, text, { mode: 0o600 }).catch((error: unknown) => {
    throw ioError(error, 'write', file);
  });
  const started = await runProgram(
    [
      ...['systemd-run', '--quiet', '--no-ask-password', '--collect', `--unit=${unitOf(id)}`],
      ...[`--on-active=${Math.ceil(budgetMs)}ms`, '--timer-property=AccuracySec=10ms'],
      ...['--description=presync brings the node back', '--property=StandardOutput=null'],
      ...['--', 'sh', file.replaceAll('$', '$$$$')],
    ],
    { timeoutMs: SYSTEMD_TIMEOUT_MS },
  );
  return started.ok ? { stop: () => stopTimer(id) } : undefined;
}

function unitOf(id: string): string {
  return `presync-deadman-${id}`;
}

/**
 * Takes away the timer that stands by for a pause, also one that an earlier presync has left. There need be none. It may have run by now, or be
 * running: then it finds no intent any more, and leaves.
 */
export async function stopTimer(id: string): Promise<void> {
  if (!systemdRuns()) return;
  await systemctl(['stop', '--', `${unitOf(id)}.timer`], { timeoutMs: SYSTEMD_TIMEOUT_MS });
}

/** For the shell. */
function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

async function ready(child: ChildProcess, ended: Promise<void>, signal: AbortSignal): Promise<void> {
  const deadline = AbortSignal.timeout(START_TIMEOUT_MS);
  await new Promise<void>((resolve, reject) => {
    const fail = (what: string, cause?: unknown) => {
      reject(
        new PresyncError('NODE_PAUSE_FAILED', `the process that resumes the node in an emergency ${what}`, {
          cause,
          hint: 'check that sh, sleep and mv are in the PATH; the node was not paused',
        }),
      );
    };
    child.stdout?.once('data', () => resolve());
    child.once('error', (error) => fail('could not be started', error));
    void ended.then(() => fail('ended at once'));
    deadline.addEventListener('abort', () => fail('did not start in time'), { once: true });
    signal.addEventListener('abort', () => fail('was no longer wanted', signal.reason), { once: true });
  });
}

/** Its whole process group, so that its `sleep` goes too. */
function killGroup(child: ChildProcess): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch (error) {
    if (errnoOf(error) !== 'ESRCH') throw error;
  }
}
