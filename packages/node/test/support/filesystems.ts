/**
 * Real file systems to test on: the machine's own, and xfs and btrfs in loop mounts where root and the tools are there.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hasCommand } from './processes.ts';

export interface TestFileSystem {
  dir: string;
  remove(): void;
}

export type FileSystemName = 'ext4' | 'xfs' | 'btrfs' | 'tmpfs';

export function hasFileSystem(name: FileSystemName): boolean {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return false;
  return name === 'tmpfs' || hasCommand(`mkfs.${name}`, '-V');
}

/** A fresh file system of that kind, some hundred megabytes large. */
export function makeFileSystem(name: FileSystemName): TestFileSystem {
  const root = mkdtempSync(join(tmpdir(), `presync-${name}-`));
  const dir = join(root, 'mnt');
  mkdirSync(dir);
  if (name === 'tmpfs') run('mount', '-t', 'tmpfs', '-o', 'size=256m', 'tmpfs', dir);
  else {
    const image = join(root, 'image');
    const fd = openSync(image, 'wx');
    // xfs wants 300 MB at least; the image is sparse.
    ftruncateSync(fd, 512 << 20);
    closeSync(fd);
    run(`mkfs.${name}`, '-q', image);
    run('mount', '-o', 'loop', image, dir);
  }
  return {
    dir,
    remove: () => {
      run('umount', dir);
      rmSync(root, { recursive: true, force: true });
    },
  };
}

function run(command: string, ...args: string[]): void {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? stderr}`);
}
