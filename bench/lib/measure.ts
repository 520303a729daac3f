import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Measurement {
  /** From start to end of the command, in seconds. */
  wallSeconds: number;
  /** How long `sync` of the file system took after it, in seconds; 0 when there was nothing to sync. */
  syncSeconds: number;
  /** CPU time in user mode of the command and all descendants that it waited for, in seconds. */
  userSeconds: number;
  /** The same in the kernel. */
  systemSeconds: number;
  /** Highest sum of resident bytes over the command's processes, sampled ten times a second. */
  peakRssBytes: number;
  /** Highest resident bytes of any one of them, as the kernel recorded it (VmHWM). */
  largestProcessBytes: number;
}

export interface MeasureOptions {
  env: Record<string, string>;
  cwd: string;
  /** A path on the file system to sync after the command. */
  syncPath?: string | undefined;
  signal: AbortSignal;
}

const SAMPLE_MS = 100;

/** bash's `time` uses wait4's figures: every descendant that was waited for counts, as in a pipeline. */
const WRAPPER =
  'TIMEFORMAT="%3R %3U %3S"; { time bash -o pipefail -ec "$BENCH_SCRIPT" 2>&4; } 4>&2 2>"$BENCH_TIMES"; ' +
  'status=$?; exit $status';

/** Runs a bash script and measures it with all its descendants. Rejects with its last output when it fails. */
export async function measure(script: string, options: MeasureOptions): Promise<Measurement> {
  const folder = await mkdtemp(join(tmpdir(), 'presync-bench-'));
  const times = join(folder, 'times');
  try {
    await writeFile(times, '');
    const child = spawn('bash', ['-c', WRAPPER], {
      cwd: options.cwd,
      env: { ...options.env, BENCH_SCRIPT: script, BENCH_TIMES: times },
      stdio: ['ignore', 'pipe', 'pipe'],
      signal: options.signal,
    });
    const tail = lastOutput();
    child.stdout.on('data', tail.add);
    child.stderr.on('data', tail.add);
    const memory = watchMemory(child.pid ?? 0);
    const [code] = await once(child, 'close');
    const peaks = memory.stop();
    if (code !== 0) throw new Error(`exit code ${String(code)} from: ${script}\n${tail.text()}`);
    const [wall, user, system] =
      (await readFile(times, 'utf8')).trim().split('\n').at(-1)?.split(' ').map(Number) ?? [];
    if (wall === undefined || user === undefined || system === undefined || Number.isNaN(wall))
      throw new Error(`bash printed no times for: ${script}`);
    const before = performance.now();
    if (options.syncPath !== undefined) await run('sync', ['-f', options.syncPath], options.signal);
    const syncSeconds = options.syncPath === undefined ? 0 : (performance.now() - before) / 1000;
    return { wallSeconds: wall, syncSeconds, userSeconds: user, systemSeconds: system, ...peaks };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Runs a program that is not measured. Returns its stdout. */
export async function run(
  program: string,
  args: string[],
  signal: AbortSignal,
  env?: Record<string, string>,
): Promise<string> {
  const child = spawn(program, args, {
    signal,
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(env === undefined ? {} : { env }),
  });
  let output = '';
  const tail = lastOutput();
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
    tail.add(text);
  });
  child.stderr.on('data', tail.add);
  const [code] = await once(child, 'close');
  if (code !== 0)
    throw new Error(`exit code ${String(code)} from ${program} ${args.join(' ')}\n${tail.text()}`);
  return output;
}

/** CPU seconds that a process has used so far, without its children. Linux only. */
export function cpuSecondsOf(pid: number): number {
  const fields = statFields(pid);
  // utime and stime, in ticks of 10 ms on every Linux that Node runs on.
  return fields === undefined ? 0 : (Number(fields[11]) + Number(fields[12])) / 100;
}

/** CPU seconds that the whole machine has been busy since it started, or undefined where that cannot be read. */
export function machineBusySeconds(): number | undefined {
  const fields = /^cpu +([\d ]+)/.exec(readProc('stat'))?.[1]?.split(' ').map(Number);
  if (fields === undefined) return undefined;
  // user, nice, system, (idle, iowait,) irq, softirq, steal; guests are in user already.
  return [0, 1, 2, 5, 6, 7].reduce((sum, field) => sum + (fields[field] ?? 0), 0) / 100;
}

function watchMemory(root: number): { stop(): { peakRssBytes: number; largestProcessBytes: number } } {
  let peakRssBytes = 0;
  let largestProcessBytes = 0;
  const sample = (): void => {
    let sum = 0;
    for (const pid of descendants(root)) {
      const status = readProc(`${pid}/status`);
      sum += kilobytes(status, 'VmRSS') * 1024;
      largestProcessBytes = Math.max(largestProcessBytes, kilobytes(status, 'VmHWM') * 1024);
    }
    peakRssBytes = Math.max(peakRssBytes, sum);
  };
  const timer = setInterval(sample, SAMPLE_MS);
  return {
    stop: () => {
      clearInterval(timer);
      return { peakRssBytes, largestProcessBytes };
    },
  };
}

function descendants(root: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const parent = Number(statFields(pid)?.[1] ?? -1);
    const siblings = children.get(parent);
    if (siblings === undefined) children.set(parent, [pid]);
    else siblings.push(pid);
  }
  const found: number[] = [];
  const next = [root];
  for (let pid = next.pop(); pid !== undefined; pid = next.pop()) {
    found.push(pid);
    next.push(...(children.get(pid) ?? []));
  }
  return found;
}

/** The fields of /proc/PID/stat after the command's name, which may hold anything: [0] is the state, [1] the parent. */
function statFields(pid: number): string[] | undefined {
  const text = readProc(`${pid}/stat`);
  return text === '' ? undefined : text.slice(text.lastIndexOf(')') + 2).split(' ');
}

function readProc(path: string): string {
  try {
    return readFileSync(`/proc/${path}`, 'utf8');
  } catch {
    // The process has ended since it was listed.
    return '';
  }
}

function kilobytes(status: string, field: string): number {
  return Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0);
}

function lastOutput(): { add(chunk: Buffer | string): void; text(): string } {
  let text = '';
  return {
    add: (chunk) => {
      text = (text + chunk.toString()).slice(-4000);
    },
    text: () => text,
  };
}
