/**
 * A machine of its own in which a real systemd runs: a copy-on-write layer over this one's files, booted by systemd-nspawn with cgroup v2. What is
 * written in it is gone with it, but for the folders that are shared.
 */
import { spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const ROOT = resolve(import.meta.dirname, '../..');
const BOOT_TIMEOUT_MS = 180_000;

export interface Machine {
  /** Runs a command in it, as root, and gives its exit code and what it said. */
  run(argv: readonly string[]): Promise<{ code: number | null; output: string }>;
  /** Ends it and all that runs in it. */
  stop(): Promise<void>;
}

export function canBootMachine(): boolean {
  return (
    process.platform === 'linux' &&
    process.getuid?.() === 0 &&
    ['systemd-nspawn', 'nsenter'].every((command) => spawnSync(command, ['--version']).error === undefined) &&
    existsSync('/lib/systemd/systemd') &&
    readFileSync('/proc/self/mountinfo', 'utf8').includes(' - cgroup2 ')
  );
}

/** The project's folder is there under its own path, and so is each of `shared`, which can be written. */
export async function bootMachine(options: { shared?: readonly string[] } = {}): Promise<Machine> {
  const dir = mkdtempSync(join(tmpdir(), 'presync-machine-'));
  const [layer, root] = [join(dir, 'layer'), join(dir, 'root')];
  mkdirSync(layer);
  mkdirSync(root);
  // An upper layer may not lie on the file system that it covers.
  must('mount', '-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', layer);
  mkdirSync(join(layer, 'upper'));
  mkdirSync(join(layer, 'work'));
  const layers = `lowerdir=/,upperdir=${join(layer, 'upper')},workdir=${join(layer, 'work')}`;
  must('mount', '-t', 'overlay', '-o', layers, 'overlay', root);
  rmSync(join(root, 'etc/machine-id'), { force: true });
  writeFileSync(join(root, 'etc/machine-id'), '');
  const log = join(dir, 'log');
  const out = openSync(log, 'w');
  // In cgroups of its own: two machines that were started in the same one would share everything below it.
  const cgroups = cgroupRoots().map((path) => join(path, `presync-machine-${process.pid}`));
  for (const path of cgroups) mkdirSync(path, { recursive: true });
  const child = spawn(
    'sh',
    [
      ...['-c', 'for dir in $1; do echo $$ >"$dir/cgroup.procs"; done; shift; exec "$@"', 'sh'],
      ...[cgroups.join(' '), 'systemd-nspawn'],
      ...['-D', root, '-M', `presync-${process.pid}`, '--register=no', '--keep-unit', '--quiet'],
      ...['--bind', ROOT, ...(options.shared ?? []).flatMap((path) => ['--bind', path])],
      ...['-b', 'systemd.unit=basic.target', 'systemd.journald.forward_to_console=0'],
    ],
    {
      stdio: ['ignore', out, out],
      env: { ...process.env, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: '1' },
    },
  );
  closeSync(out);
  const ended = new Promise<void>((done) => child.once('exit', () => done()));
  let init: number | undefined;
  const stop = async (): Promise<void> => {
    // SIGKILL to the first process of a PID namespace ends all that is in it.
    if (init !== undefined && existsSync(`/proc/${init}`)) process.kill(init, 'SIGKILL');
    child.kill('SIGTERM');
    await Promise.race([ended, sleep(10_000)]);
    child.kill('SIGKILL');
    await ended;
    spawnSync('umount', ['-l', root]);
    spawnSync('umount', ['-l', layer]);
    // A cgroup is no folder that could be emptied: the innermost goes first.
    for (const path of cgroups)
      spawnSync('find', [path, '-depth', '-type', 'd', '-exec', 'rmdir', '{}', ';']);
    rmSync(dir, { recursive: true, force: true });
  };
  const killAtExit = () => {
    if (init !== undefined) spawnSync('kill', ['-KILL', String(init)]);
    child.kill('SIGKILL');
    spawnSync('umount', ['-l', root]);
    spawnSync('umount', ['-l', layer]);
  };
  process.once('exit', killAtExit);
  const run: Machine['run'] = async (argv) => {
    const entering = spawn('nsenter', ['-t', String(init), '-m', '-p', '-C', '-u', '-i', '--', ...argv], {
      stdio: ['ignore', 'pipe', 'pipe'],
      cwd: '/',
      // A test runner in there is one of its own.
      env: { ...process.env, NODE_TEST_CONTEXT: undefined },
    });
    let output = '';
    entering.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
    entering.stderr.setEncoding('utf8').on('data', (text: string) => (output += text));
    const code = await new Promise<number | null>((done) => entering.once('close', done));
    return { code, output };
  };
  try {
    const deadline = performance.now() + BOOT_TIMEOUT_MS;
    for (;;) {
      init ??= childOf(child.pid ?? 0);
      if (init !== undefined) {
        const { output } = await run(['systemctl', 'is-active', 'basic.target']);
        if (output.trim() === 'active') break;
      }
      if (child.exitCode !== null || performance.now() > deadline)
        throw new Error(`the machine does not boot: ${readFileSync(log, 'utf8').slice(-3000)}`);
      await sleep(200);
    }
    return {
      run,
      stop: async () => {
        process.off('exit', killAtExit);
        await stop();
      },
    };
  } catch (error) {
    process.off('exit', killAtExit);
    await stop();
    throw error;
  }
}

/** Where the hierarchies are that systemd sorts its processes in. */
function cgroupRoots(): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => / - cgroup2 | - cgroup .*name=systemd/.test(line))
    .flatMap((line) => line.split(' ')[4] ?? []);
}

/** The child that runs as the machine's first process. */
function childOf(parent: number): number | undefined {
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      if (Number(fields[1]) !== parent) continue;
      const inner = /^NSpid:\s*\d+\s+1$/m.test(readFileSync(`/proc/${name}/status`, 'utf8'));
      if (inner) return Number(name);
    } catch {
      // It has just ended.
    }
  }
  return undefined;
}

function must(command: string, ...args: string[]): void {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? stderr}`);
}
