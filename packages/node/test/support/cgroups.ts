import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Where a hierarchy with a freezer is mounted that this process may make cgroups in; undefined when there is none. */
export function freezerRoot(version: 1 | 2): string | undefined {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return undefined;
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  const mount = mounts.find((line) =>
    version === 2 ? / - cgroup2 /.test(line) : / - cgroup \S+ (?:\S+,)?freezer(?:,|$)/.test(line),
  );
  return mount?.split(' ')[4];
}

export interface TestCgroup {
  dir: string;
  add(pid: number): void;
  isFrozen(): boolean;
  thaw(): void;
  remove(): void;
}

export function makeCgroup(version: 1 | 2, name: string): TestCgroup {
  const dir = join(freezerRoot(version) ?? '', name);
  mkdirSync(dir);
  const control = join(dir, version === 2 ? 'cgroup.freeze' : 'freezer.state');
  return {
    dir,
    add: (pid) => writeFileSync(join(dir, 'cgroup.procs'), String(pid)),
    isFrozen: () => {
      if (!existsSync(control)) return false;
      return version === 2
        ? readFileSync(join(dir, 'cgroup.events'), 'utf8').includes('frozen 1')
        : readFileSync(control, 'utf8').trim() === 'FROZEN';
    },
    thaw: () => writeFileSync(control, version === 2 ? '0' : 'THAWED'),
    remove: () => rmdirSync(dir),
  };
}
