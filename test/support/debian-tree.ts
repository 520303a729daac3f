/** The Debian tree that `scripts/install-test-tools.sh` makes, each time below an overlay of its own. */
import { execFile, execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findTool } from './tools.ts';

export interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

export interface Overlay {
  /** A folder beside the root, for what belongs to it. */
  scratch: string;
  /** The tree; what is written to it goes when the overlay goes. */
  root: string;
}

const TREE = 'machine-root-2';

export const ENVIRONMENT = [
  'PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin',
  'HOME=/root',
  'LC_ALL=C.UTF-8',
];

function treePath(): string | undefined {
  return findTool(TREE, 'PRESYNC_TEST_MACHINE_ROOT');
}

/** Whether there is a tree that can be used: for `needs('root and a Debian tree', hasTree())`. */
export function hasTree(): boolean {
  return process.getuid?.() === 0 && treePath() !== undefined;
}

/** Mounts an overlay. Whoever asks for it unmounts it and removes its scratch folder. */
export async function mountOverlay(): Promise<Overlay> {
  const tree = treePath();
  if (tree === undefined) throw new Error('there is no Debian tree; scripts/install-test-tools.sh makes one');
  const scratch = await mkdtemp(join(tmpdir(), 'presync-machine-'));
  const root = join(scratch, 'root');
  for (const folder of ['root', 'upper', 'work']) await mkdir(join(scratch, folder));
  const layers = `lowerdir=${tree},upperdir=${join(scratch, 'upper')},workdir=${join(scratch, 'work')}`;
  execFileSync('mount', ['-t', 'overlay', 'overlay', '-o', layers, root]);
  return { scratch, root };
}

export interface Tree extends Overlay {
  /** Runs a command of the tree, without booting it, in the network of whoever calls. */
  run(command: readonly string[], environment?: readonly string[]): Promise<Ran>;
  end(): Promise<void>;
}

/** A tree that is not booted. */
export async function openTree(): Promise<Tree> {
  const overlay = await mountOverlay();
  return {
    ...overlay,
    run: (command, environment = []) =>
      capture('chroot', [overlay.root, 'env', '-i', ...ENVIRONMENT, ...environment, ...command]),
    async end() {
      execFileSync('umount', ['--lazy', overlay.root]);
      await rm(overlay.scratch, { recursive: true, force: true });
    },
  };
}

/** Runs a program to its end. */
export function capture(program: string, args: readonly string[]): Promise<Ran> {
  return new Promise((resolve) => {
    execFile(program, args, { maxBuffer: 1 << 28 }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1;
      resolve({ code, stdout, stderr: code === -1 ? `${stderr}${error?.message}` : stderr });
    });
  });
}
