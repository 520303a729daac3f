/** The version of a node's executable, as the executable itself tells it. */
import { stat } from 'node:fs/promises';
import { runProgram } from './lib/run-program.ts';

export interface NodeVersion {
  /** `polkadot`. */
  name: string;
  /** As it was told, `1.25.1-3f8d2a`. */
  text: string;
  numbers: readonly [number, number, number];
}

/** It prints a line, and loads nothing; a busy machine may take its time to load the executable. */
const TIMEOUT_MS = 20_000;

/**
 * Runs `EXECUTABLE --version`, which clap's programs answer with their name and version. Undefined, with the reason, when it cannot be asked: an
 * executable that others than root and this user may change is not run.
 */
export async function executableVersion(
  path: string,
  { signal }: { signal: AbortSignal },
): Promise<NodeVersion | { why: string }> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) return { why: `there is no ${path}` };
  if ((found.mode & 0o022) !== 0 || (found.uid !== 0 && found.uid !== process.getuid?.()))
    return { why: `${path} can be changed by others, and is not run` };
  const outcome = await runProgram([path, '--version'], { timeoutMs: TIMEOUT_MS, signal });
  if (!outcome.ok) return { why: `${path} --version ${outcome.why}` };
  const line = outcome.stdout.split('\n', 1)[0]?.trim() ?? '';
  const [, name, text = ''] = /^(\S.*?)\s+v?(\d+\.\d+\.\d+\S*)$/.exec(line) ?? [];
  const numbers = versionNumbers(text);
  if (name === undefined || numbers === undefined)
    return { why: `${path} --version answers ${JSON.stringify(line.slice(0, 100))}` };
  return { name, text, numbers };
}

/** The three numbers that a version begins with. */
export function versionNumbers(text: string): readonly [number, number, number] | undefined {
  const [, major, minor, patch] = /^v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?!\d)/.exec(text) ?? [];
  if (major === undefined) return undefined;
  return [Number(major), Number(minor), Number(patch)];
}

/** Negative when the first is older. */
export function compareVersions(
  a: readonly [number, number, number],
  b: readonly [number, number, number],
): number {
  return a[0] - b[0] || a[1] - b[1] || a[2] - b[2];
}
