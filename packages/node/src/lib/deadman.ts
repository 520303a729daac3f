import { type ChildProcess, spawn } from 'node:child_process';
import { errnoOf, PresyncError } from '@presync/runtime/errors';
import type { ProcessId } from './proc.ts';

/**
 * The deadman: POSIX shell, so that it runs where presync runs and shares nothing with it. Arguments: intent file, node
 * pid and start time, presync pid and start time, budget in hundredths of a second.
 *
 * It looks every 50 ms, and leaves when the intent is gone (presync resumed the node) or when the node has ended. When
 * the budget is over, or presync has ended (a zombie has), it resumes the node and then renames the intent. In this
 * order: presync tells a resumed node by its state, so a rename that fails or hangs costs nothing.
 * Start times are compared, so a pid that was given to another process is never signalled. /proc/uptime serves as the
 * clock, since nobody can set it. TERM, INT and HUP are ignored, because systemd sends TERM to everything in a unit.
 */
const SCRIPT = `
trap '' TERM INT HUP
intent=$1 node=$2 node_start=$3 owner=$4 owner_start=$5 budget=$6

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
  read -r up rest </proc/uptime
  up=1\${up%.*}\${up#*.}
}

now
end=$((up + budget))
echo ready
exec >/dev/null
while [ -e "$intent" ]; do
  now
  if [ "$up" -ge "$end" ] || ! alive "$owner" "$owner_start"; then
    if alive "$node" "$node_start"; then kill -s CONT "$node"; fi
    mv -f "$intent" "$intent.resumed-by-deadman"
    exit 0
  fi
  alive "$node" "$node_start" || exit 0
  sleep 0.05 2>/dev/null || sleep 1
done
`;

/** Appended to an intent's file name by the deadman. */
export const DEADMAN_SUFFIX = '.resumed-by-deadman';

export interface Deadman {
  pid: number;
  /** Ends it, and resolves when it has ended. */
  stop(): Promise<void>;
}

/** How long a shell may take to start. */
const START_TIMEOUT_MS = 10_000;

/**
 * Starts the deadman and waits until it watches.
 *
 * @throws NODE_PAUSE_FAILED when it does not start
 */
export async function startDeadman(options: {
  intentPath: string;
  node: ProcessId;
  owner: ProcessId;
  budgetMs: number;
  shell: readonly string[];
  signal: AbortSignal;
}): Promise<Deadman> {
  const { node, owner } = options;
  const [command = 'sh', ...shellArguments] = options.shell;
  const child = spawn(
    command,
    [
      ...shellArguments,
      '-c',
      SCRIPT,
      'presync-deadman',
      options.intentPath,
      String(node.pid),
      node.startTime,
      String(owner.pid),
      owner.startTime,
      String(Math.ceil(options.budgetMs / 10)),
    ],
    // `detached` is setsid: a signal to presync's process group or terminal does not reach it.
    {
      detached: true,
      stdio: ['ignore', 'pipe', 'ignore'],
      cwd: '/',
      env: { PATH: process.env.PATH ?? '/usr/bin:/bin' },
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
