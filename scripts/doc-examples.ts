// Runs the examples of README and docs. A block that opens with ```sh run is run with bash -euo pipefail, the blocks of
// one page in order and in one empty folder, with `presync` (and `npx presync`) being this checkout's. Other blocks are
// prose. A block that fails, or a page whose block does, makes this fail.
import { spawn } from 'node:child_process';
import { globSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';

const ROOT = join(import.meta.dirname, '..');

/** An example is short work; one that takes longer hangs. */
const BLOCK_TIMEOUT_MS = 300_000;

interface Block {
  page: string;
  line: number;
  script: string;
}

const scratch = await mkdtemp(join(tmpdir(), 'presync-docs-'));
try {
  const bin = await makeCommands(join(scratch, 'bin'));
  const pages = globSync(['README.md', 'docs/**/*.md', 'packages/*/README.md', 'deploy/**/*.md'], {
    cwd: ROOT,
    exclude: ['**/node_modules/**'],
  }).toSorted();
  let ran = 0;
  let failed = 0;
  for (const [index, page] of pages.entries()) {
    const work = join(scratch, `page-${index}`);
    await mkdir(work);
    for (const block of await blocksOf(page)) {
      ran++;
      if (await runBlock(block, work, bin)) continue;
      failed++;
      break;
    }
  }
  process.stdout.write(`documentation examples: ${ran} run, ${failed} failed\n`);
  process.exitCode = failed === 0 ? 0 : 1;
} finally {
  await rm(scratch, { recursive: true, force: true });
}

async function blocksOf(page: string): Promise<Block[]> {
  const blocks: Block[] = [];
  let open: { line: number; lines: string[] } | undefined;
  const lines = (await readFile(join(ROOT, page), 'utf8')).split('\n');
  for (const [index, line] of lines.entries()) {
    if (open === undefined) {
      if (/^```sh run\s*$/.test(line)) open = { line: index + 1, lines: [] };
    } else if (/^```\s*$/.test(line)) {
      blocks.push({ page, line: open.line, script: open.lines.join('\n') });
      open = undefined;
    } else {
      open.lines.push(line);
    }
  }
  if (open !== undefined) throw new Error(`${page}:${open.line}: the block does not end`);
  return blocks;
}

async function runBlock({ page, line, script }: Block, work: string, bin: string): Promise<boolean> {
  process.stdout.write(`${page}:${line}\n`);
  const child = spawn('bash', ['-euo', 'pipefail', '-c', script], {
    cwd: work,
    env: { ...process.env, HOME: work, PATH: `${bin}${delimiter}${process.env.PATH ?? ''}` },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: BLOCK_TIMEOUT_MS,
  });
  let output = '';
  const keep = (chunk: Buffer): void => {
    output = (output + chunk.toString()).slice(-8000);
  };
  child.stdout.on('data', keep);
  child.stderr.on('data', keep);
  const status = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  if (status !== 0) process.stderr.write(`${page}:${line} failed with ${status ?? 'a signal'}:\n${output}\n`);
  return status === 0;
}

/** `presync`, and an `npx` that knows only `npx presync`, so that no example can fetch anything. */
async function makeCommands(dir: string): Promise<string> {
  await mkdir(dir);
  const launcher = join(ROOT, 'packages/cli/bin/presync.mjs');
  const commands = {
    presync: `exec '${process.execPath}' '${launcher}' "$@"`,
    npx: `[ "$1" = presync ] || { echo "npx $1: examples may use presync only" >&2; exit 1; }\nshift\nexec presync "$@"`,
  };
  for (const [name, script] of Object.entries(commands)) {
    await writeFile(join(dir, name), `#!/bin/sh\n${script}\n`);
    await chmod(join(dir, name), 0o755);
  }
  return dir;
}
