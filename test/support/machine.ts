/** A machine with a real systemd: a Debian tree, booted by systemd-nspawn with an overlay of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { capture, ENVIRONMENT, hasTree, mountOverlay, type Ran } from './debian-tree.ts';
import type { Host } from './network.ts';
import { findTool } from './tools.ts';

export interface Machine {
  /** Its root folder, as seen from outside. */
  root: string;
  /** Runs a command in it. */
  run(...command: string[]): Promise<Ran>;
  /** The same, and throws unless it exits with 0. Gives what it wrote to stdout. */
  ok(...command: string[]): Promise<string>;
  /** Starts a command in it that goes on until its caller, or the end of the machine, ends it. */
  start(...command: string[]): ChildProcess;
  /** Runs a program of this machine in that one's network. */
  inNetwork(...command: string[]): Promise<Ran>;
  /** The processes of a unit, by their numbers outside. */
  processes(unit: string): number[];
  /** SIGKILL to those of them that are meant, from outside, since a command would come too late. Tells how many there were. */
  kill(unit: string, which?: (pid: number) => boolean): number;
  /** True while systemd has frozen the unit, or its processes are stopped by a signal. */
  isPaused(unit: string): boolean;
  /** The journal of a unit since the boot, or all of it, one text for each entry. */
  journal(unit?: string): Promise<JournalEntry[]>;
  /** Shuts it down in an orderly way and boots it again. Resolves as `startMachine` does. */
  reboot(): Promise<void>;
  /** Kills all of it at once, as a loss of power would, except that what was written is there; and boots it again. */
  crash(): Promise<void>;
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
  /** Its network. Default: nothing but loopback. */
  host?: Host | undefined;
  /** Changes its root folder before it boots for the first time. */
  prepare?: ((root: string) => Promise<void>) | undefined;
  /** How far a boot has to be: all jobs done, or only so far that commands can be run. Default `done`. */
  until?: 'done' | 'reached' | undefined;
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

const BOOT_MS = 120_000;
const SHUTDOWN_MS = 30_000;

/** Whether a machine can be booted here: for `needs('root, systemd-nspawn and a Debian tree', hasMachine())`. */
export function hasMachine(): boolean {
  return (
    hasTree() &&
    findTool('systemd-nspawn', 'PRESYNC_TEST_NSPAWN') !== undefined &&
    findTool('nsenter', 'PRESYNC_TEST_NSENTER') !== undefined
  );
}

export async function startMachine(options: MachineOptions = {}): Promise<Machine> {
  const { scratch, root } = await mountOverlay();
  // Programs that look names up want to find a server, even where nobody answers.
  await writeFile(join(root, 'etc/resolv.conf'), 'nameserver 127.0.0.1\n');
  // A cgroup of its own: machines that share one would see, and kill, each other's services.
  const cgroup = join(unifiedHierarchy(), `presync-${randomBytes(4).toString('hex')}`);
  const guard = spawn('sh', ['-c', GUARD, 'guard', cgroup, root], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  let booted: Booted | undefined;
  let ending: Promise<void> | undefined;
  async function shutDown(signal: number): Promise<void> {
    if (booted === undefined) return;
    const { leader, container } = booted;
    // To systemd itself, which needs no bus for it.
    tryKill(leader, signal);
    await Promise.race([closed(container), sleep(SHUTDOWN_MS, undefined, { ref: false })]);
  }
  async function kill(): Promise<void> {
    await writeFile(join(cgroup, 'cgroup.kill'), '1');
    if (booted !== undefined) await closed(booted.container);
  }
  async function boot(): Promise<void> {
    booted = undefined;
    booted = await bootContainer(root, cgroup, options);
  }
  async function end(): Promise<void> {
    await shutDown(POWER_OFF);
    guard.stdin.end();
    await closed(guard);
    await rm(scratch, { recursive: true, force: true });
  }
  try {
    await options.prepare?.(root);
    await boot();
  } catch (error) {
    await end();
    throw error;
  }
  const enter = (): string[] => ['--target', String(booted?.leader)];
  const slice = join(cgroup, 'payload/system.slice');
  const processes = (unit: string): number[] => linesOf(join(slice, unit, 'cgroup.procs')).map(Number);
  const entering = (command: readonly string[]): string[] => [
    ...[...enter(), '--all', 'env', '-i', ...ENVIRONMENT],
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
    inNetwork: (...command) => capture('nsenter', [...enter(), '--net', ...command]),
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
    async reboot() {
      await shutDown(REBOOT);
      await kill();
      await boot();
    },
    async crash() {
      await kill();
      await boot();
    },
    end: () => {
      ending ??= end();
      return ending;
    },
  };
}

/** SIGRTMIN+4 and SIGRTMIN+5 of systemd(1). */
const POWER_OFF = 38;
const REBOOT = 39;

interface Booted {
  /** systemd-nspawn. It ends with each shutdown, also with one for a reboot. */
  container: ChildProcess;
  /** The first process of the machine, by its number outside. */
  leader: number;
}

async function bootContainer(
  root: string,
  cgroup: string,
  { binds = [], host, until = 'done' }: MachineOptions,
): Promise<Booted> {
  const container = spawn(
    'sh',
    [
      ...['-c', 'mkdir -p "$0" && echo $$ > "$0/cgroup.procs" && exec "$@"', cgroup],
      ...['systemd-nspawn', '--quiet', '--boot', `--directory=${root}`, `--machine=${basename(cgroup)}`],
      // There may be no systemd around it that could be told.
      ...['--register=no', '--keep-unit', '--link-journal=no', '--console=read-only'],
      host === undefined ? '--private-network' : `--network-namespace-path=${host.namespace}`,
      ...['--resolv-conf=off', '--timezone=off'],
      ...binds.map(({ from, to, readOnly }) => `--bind${readOnly === true ? '-ro' : ''}=${from}:${to}`),
    ],
    { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: '1' } },
  );
  let console = '';
  const keep = (text: string): void => {
    console = (console + text).slice(-16_384);
  };
  container.stdout.setEncoding('utf8').on('data', keep);
  container.stderr.setEncoding('utf8').on('data', keep);
  return { container, leader: await untilBooted(container, until, () => console) };
}

async function untilBooted(
  container: ChildProcess,
  until: 'done' | 'reached',
  said: () => string,
): Promise<number> {
  const deadline = performance.now() + BOOT_MS;
  const enough = until === 'done' ? ['running', 'degraded'] : ['starting', 'running', 'degraded'];
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
      if (enough.includes(last)) return leader;
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

function journalEntry(line: string): JournalEntry {
  const { __REALTIME_TIMESTAMP: at, MESSAGE: message, UNIT, _SYSTEMD_UNIT } = JSON.parse(line);
  return {
    at: Number(at) / 1e6,
    unit: String(UNIT ?? _SYSTEMD_UNIT ?? ''),
    // Bytes that are no text come as numbers.
    message: Array.isArray(message) ? Buffer.from(message).toString() : String(message),
  };
}
