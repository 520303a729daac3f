/** Faults of a file system, for the calls of this process on what lies below a folder. */
import fs from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { resolve, sep } from 'node:path';
import { seededRandom } from './corruption.ts';

export type DiskFault = 'EIO' | 'ENOSPC' | 'ESTALE' | 'short-read' | 'short-write' | 'torn-write';

export interface DiskFaults {
  /** Faults strike below this folder; undefined for nowhere. */
  dir: string | undefined;
  /** The share of calls that fail, 0 to 1. */
  rate: number;
  readonly calls: number;
  readonly injected: Map<DiskFault, number>;
}

/** Of the calls that take a path first; a name that is needed for data may find no room. */
const PATH_CALLS: Record<string, readonly DiskFault[]> = {
  link: ['EIO', 'ENOSPC', 'ESTALE'],
  lstat: ['EIO', 'ESTALE'],
  mkdir: ['EIO', 'ENOSPC', 'ESTALE'],
  opendir: ['EIO', 'ESTALE'],
  readdir: ['EIO', 'ESTALE'],
  readlink: ['EIO', 'ESTALE'],
  rename: ['EIO', 'ENOSPC', 'ESTALE'],
  rmdir: ['EIO', 'ESTALE'],
  stat: ['EIO', 'ESTALE'],
  symlink: ['EIO', 'ENOSPC', 'ESTALE'],
  truncate: ['EIO', 'ESTALE'],
  unlink: ['EIO', 'ESTALE'],
};

/** Of the calls on an open file. */
const HANDLE_CALLS: Record<string, readonly DiskFault[]> = {
  read: ['EIO', 'ESTALE', 'short-read'],
  stat: ['EIO', 'ESTALE'],
  sync: ['EIO', 'ENOSPC', 'ESTALE'],
  utimes: ['EIO', 'ESTALE'],
  write: ['EIO', 'ENOSPC', 'ESTALE', 'short-write', 'torn-write'],
};

const ERRNO = { EIO: -5, ENOSPC: -28, ESTALE: -116 } as const;
const TEXTS = { EIO: 'i/o error', ENOSPC: 'no space left on device', ESTALE: 'stale file handle' } as const;

type Method = (...args: unknown[]) => Promise<unknown>;

/** Replaces the calls of `node:fs/promises`, also for modules that have imported them by name. Nothing fails until `dir` and `rate` are set. */
export function installDiskFaults(seed: number): DiskFaults {
  const random = seededRandom(seed);
  const injected = new Map<DiskFault, number>();
  let calls = 0;
  const faults: DiskFaults = {
    dir: undefined,
    rate: 0,
    get calls() {
      return calls;
    },
    injected,
  };

  function choose(among: readonly DiskFault[]): DiskFault | undefined {
    calls += 1;
    if (random() >= faults.rate) return undefined;
    const chosen = among[Math.floor(random() * among.length)];
    if (chosen !== undefined) injected.set(chosen, (injected.get(chosen) ?? 0) + 1);
    return chosen;
  }

  const isStruck = (path: unknown): boolean =>
    faults.dir !== undefined &&
    typeof path === 'string' &&
    `${resolve(path)}${sep}`.startsWith(`${resolve(faults.dir)}${sep}`);

  for (const [name, among] of Object.entries(PATH_CALLS)) {
    const original = methodOf(fs, name);
    Reflect.set(fs, name, async (...args: unknown[]) => {
      // Of a symbolic link the text comes first, and its own place second.
      const path = name === 'symlink' ? args[1] : args[0];
      if (isStruck(path)) fail(choose(among), name, path);
      return Reflect.apply(original, fs, args);
    });
  }

  const open = methodOf(fs, 'open');
  Reflect.set(fs, 'open', async (...args: unknown[]) => {
    const [path, flags] = args;
    if (!isStruck(path)) return Reflect.apply(open, fs, args);
    const creates = typeof flags === 'string' && /[wa]/.test(flags);
    fail(choose(creates ? ['EIO', 'ENOSPC', 'ESTALE'] : ['EIO', 'ESTALE']), 'open', path);
    const handle: unknown = await Reflect.apply(open, fs, args);
    if (typeof handle !== 'object' || handle === null) throw new Error('open gave no handle');
    for (const [name, among] of Object.entries(HANDLE_CALLS)) {
      const original = methodOf(handle, name);
      Reflect.set(handle, name, async (...rest: unknown[]) => {
        const fault = choose(among);
        const [buffer, offset, length, ...more] = rest;
        if (fault === 'short-read' || fault === 'short-write' || fault === 'torn-write') {
          if (typeof length !== 'number' || length < 2) return Reflect.apply(original, handle, rest);
          const done = await Reflect.apply(original, handle, [buffer, offset, length >> 1, ...more]);
          if (fault === 'torn-write') fail('EIO', name, path);
          return done;
        }
        fail(fault, name, path);
        return Reflect.apply(original, handle, rest);
      });
    }
    return handle;
  });
  syncBuiltinESMExports();
  return faults;
}

function methodOf(object: object, name: string): Method {
  const found: unknown = Reflect.get(object, name);
  if (typeof found !== 'function') throw new Error(`there is no ${name}`);
  return (...args) => Reflect.apply(found, object, args);
}

/** Throws what the system's call would. */
function fail(fault: DiskFault | undefined, syscall: string, path: unknown): void {
  if (fault !== 'EIO' && fault !== 'ENOSPC' && fault !== 'ESTALE') return;
  const message = `${fault}: ${TEXTS[fault]}, ${syscall} '${String(path)}'`;
  throw Object.assign(new Error(message), { errno: ERRNO[fault], code: fault, syscall, path });
}
