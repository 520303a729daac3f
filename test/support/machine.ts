/** A machine with a real systemd: a Debian tree, booted by systemd-nspawn with an overlay of its own and no network. */
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { findTool } from './tools.ts';

export interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

export interface Machine {
  /** Its root folder, as seen from outside. */
  root: string;
  /** Runs a command in it. */
  run(...command: string[]): Promise<Ran>;
  /** The same, and throws unless it exits with 0. Gives what it wrote to stdout. */
  ok(...command: string[]): Promise<string>;
  /** Starts a command in it that goes on until its caller, or the end of the machine, ends it. */
  start(...command: string[]): ChildProcess;
  /** Runs a program of this machine in that one's network, in which there is nothing but loopback. */
  inNetwork(...command: string[]): Promise<Ran>;
  /** The processes of a unit, by their numbers outside. */
  processes(unit: string): number[];
  /** SIGKILL to those of them that are meant, from outside, since a command would come too late. Tells how many there were. */
  kill(unit: string, which?: (pid: number) => boolean): number;
  /** True while systemd has frozen the unit, or its processes are stopped by a signal. */
  isPaused(unit: string): boolean;
  /** The journal of a unit since the boot, or all of it, one text for each entry. */
  journal(unit?: string): Promise<JournalEntry[]>;
  /** Shuts it down, forcing it after half a minute, and removes what it wrote. May be called twice. */
  end(): Promise<void>;
}

export interface JournalEntry {
  /** Seconds since the epoch, when journald took it. */
  at: number;
  unit: string;
  message: string;
}

export interface MachineOptions {
  /** Files and folders of this machine that are seen in that one. */
  binds?: readonly { from: string; to: string; readOnly?: boolean }[];
}

/** Ends the machine and takes its root away as soon as whoever started it lets go of the pipe, or is gone. */
const GUARD = `cat
echo 1 > "$1/cgroup.kill"
for n in 1 2 3 4 5 6 7 8 9 10; do
  grep -q 'populated 0' "$1/cgroup.events" && break
  sleep 0.2
done
umount --lazy "$2"
find "$1" -depth -type d -exec rmdir {} +`;

const TREE = 'machine-root-2';
const BOOT_MS = 120_000;
const SHUTDOWN_MS = 30_000;

function machineTree(): string | undefined {
  return findTool(TREE, 'PRESYNC_TEST_MACHINE_ROOT');
}

/** Whether a machine can be booted here: for `needs('root, systemd-nspawn and a Debian tree', hasMachine())`. */
export function hasMachine(): boolean {
  return (
    process.getuid?.() === 0 &&
    machineTree() !== undefined &&
    findTool('systemd-nspawn', 'PRESYNC_TEST_NSPAWN') !== undefined &&
    findTool('nsenter', 'PRESYNC_TEST_NSENTER') !== undefined
  );
}

export async function startMachine({ binds = [] }: MachineOptions = {}): Promise<Machine> {
  const tree = machineTree();
  if (tree === undefined) throw new Error('there is no Debian tree; scripts/install-test-tools.sh makes one');
  const scratch = await mkdtemp(join(tmpdir(), 'presync-machine-'));
  const root = join(scratch, 'root');
  for (const folder of ['root', 'upper', 'work']) await mkdir(join(scratch, folder));
  const layers = `lowerdir=${tree},upperdir=${join(scratch, 'upper')},workdir=${join(scratch, 'work')}`;
  execFileSync('mount', ['-t', 'overlay', 'overlay', '-o', layers, root]);
  // Programs that look names up want to find a server, even where nobody answers.
  await writeFile(join(root, 'etc/resolv.conf'), 'nameserver 127.0.0.1\n');
  // A cgroup of its own: machines that share one would see, and kill, each other's services.
  const cgroup = join(unifiedHierarchy(), `presync-${randomBytes(4).toString('hex')}`);
  const guard = spawn('sh', ['-c', GUARD, 'guard', cgroup, root], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  let container: ChildProcess | undefined;
  let leader: number | undefined;
  let console = '';
  let ending: Promise<void> | undefined;
  async function end(): Promise<void> {
    if (leader !== undefined && container !== undefined) {
      // SIGRTMIN+4 is systemd's own "power off", which needs no bus.
      tryKill(leader, 38);
      await Promise.race([closed(container), sleep(SHUTDOWN_MS, undefined, { ref: false })]);
    }
    guard.stdin.end();
    await closed(guard);
    await rm(scratch, { recursive: true, force: true });
  }
  try {
    container = spawn(
      'sh',
      [
        ...['-c', 'mkdir -p "$0" && echo $$ > "$0/cgroup.procs" && exec "$@"', cgroup],
        ...['systemd-nspawn', '--quiet', '--boot', `--directory=${root}`, `--machine=${basename(cgroup)}`],
        // There may be no systemd around it that could be told.
        ...['--register=no', '--keep-unit', '--private-network', '--link-journal=no', '--console=read-only'],
        ...['--resolv-conf=off', '--timezone=off'],
        ...binds.map(({ from, to, readOnly }) => `--bind${readOnly === true ? '-ro' : ''}=${from}:${to}`),
      ],
      { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: '1' } },
    );
    const keep = (text: string): void => {
      console = (console + text).slice(-16_384);
    };
    container.stdout?.setEncoding('utf8').on('data', keep);
    container.stderr?.setEncoding('utf8').on('data', keep);
    leader = await untilBooted(container, () => console);
  } catch (error) {
    await end();
    throw error;
  }
  const enter = ['--target', String(leader)];
  const slice = join(cgroup, 'payload/system.slice');
  const processes = (unit: string): number[] => linesOf(join(slice, unit, 'cgroup.procs')).map(Number);
  const entering = (command: readonly string[]): string[] => [
    ...[...enter, '--all', 'env', '-i', ...ENVIRONMENT],
    ...command,
  ];
  const inside = (command: readonly string[]): Promise<Ran> => capture('nsenter', entering(command));
  return {
    root,
    run: (...command) => inside(command),
    async ok(...command) {
      const { code, stdout, stderr } = await inside(command);
      if (code !== 0) throw new Error(`${command.join(' ')} ended with ${code}:\n${stdout}\n${stderr}`);
      return stdout;
    },
    start: (...command) => spawn('nsenter', entering(command), { stdio: ['ignore', 'pipe', 'inherit'] }),
    inNetwork: (...command) => capture('nsenter', [...enter, '--net', ...command]),
    processes,
    kill(unit, which = () => true) {
      const meant = processes(unit).filter(which);
      for (const pid of meant) tryKill(pid);
      return meant.length;
    },
    isPaused: (unit) =>
      linesOf(join(slice, unit, 'cgroup.events')).includes('frozen 1') ||
      processes(unit).some((pid) => /\) [Tt] /.test(linesOf(`/proc/${pid}/stat`).join(' '))),
    async journal(unit) {
      const { stdout } = await inside([
        ...['journalctl', '--no-pager', '--output=json', '--output-fields=MESSAGE,_SYSTEMD_UNIT,UNIT'],
        ...(unit === undefined ? [] : [`--unit=${unit}`]),
      ]);
      return stdout.split('\n').filter(Boolean).map(journalEntry);
    },
    end: () => {
      ending ??= end();
      return ending;
    },
  };
}

const ENVIRONMENT = [
  'PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin',
  'HOME=/root',
  'LC_ALL=C.UTF-8',
];

async function untilBooted(container: ChildProcess, said: () => string): Promise<number> {
  const deadline = performance.now() + BOOT_MS;
  let last = '';
  while (performance.now() < deadline) {
    if (container.exitCode !== null || container.signalCode !== null || container.pid === undefined)
      throw new Error(`the machine ended while it booted:\n${said()}`);
    const leader = firstChild(container.pid);
    if (leader !== undefined) {
      const state = await capture('nsenter', [
        '--target',
        String(leader),
        '--all',
        'systemctl',
        'is-system-running',
      ]);
      last = state.stdout.trim();
      if (last === 'running' || last === 'degraded') return leader;
    }
    await sleep(50);
  }
  throw new Error(`the machine did not boot in time (${last}):\n${said()}`);
}

/** systemd-nspawn's child is the first process of the machine. */
function firstChild(pid: number): number | undefined {
  const path = `/proc/${pid}/task/${pid}/children`;
  const first = existsSync(path) ? Number(readFileSync(path, 'utf8').split(' ')[0]) : 0;
  return first > 0 && readFileSync(`/proc/${first}/comm`, 'utf8').trim() === 'systemd' ? first : undefined;
}

/** Where cgroup v2 is mounted. */
function unifiedHierarchy(): string {
  const mount = linesOf('/proc/self/mountinfo').find((line) => line.includes(' - cgroup2 '));
  return mount?.split(' ')[4] ?? '/sys/fs/cgroup';
}

function closed(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => child.once('close', () => resolve()));
}

/** None where there is no such file any more. */
function linesOf(path: string): string[] {
  try {
    return readFileSync(path, 'utf8').split('\n').filter(Boolean);
  } catch {
    return [];
  }
}

function tryKill(pid: number, signal: NodeJS.Signals | number = 'SIGKILL'): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has ended.
  }
}

function capture(program: string, args: readonly string[]): Promise<Ran> {
  return new Promise((resolve) => {
    execFile(program, args, { maxBuffer: 1 << 28 }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1;
      resolve({ code, stdout, stderr: code === -1 ? `${stderr}${error?.message}` : stderr });
    });
  });
}

function journalEntry(line: string): JournalEntry {
  const { __REALTIME_TIMESTAMP: at, MESSAGE: message, UNIT, _SYSTEMD_UNIT } = JSON.parse(line);
  return {
    at: Number(at) / 1e6,
    unit: String(UNIT ?? _SYSTEMD_UNIT ?? ''),
    // Bytes that are no text come as numbers.
    message: Array.isArray(message) ? Buffer.from(message).toString() : String(message),
  };
}
