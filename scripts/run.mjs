// Runs a TypeScript program of this repository with the right runtime. Plain JavaScript, because it must work under
// any Node from version 20 on: it installs the workspace when that has not been done, finds a Node that is new enough
// (the running one, or the one that came with the install) and hands over to it.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

if (!existsSync(join(root, 'node_modules', '.package-lock.json'))) {
  process.stderr.write('Installing the dependencies (npm ci)…\n');
  const npm = spawnSync('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], {
    cwd: root,
    stdio: ['ignore', 2, 2],
  });
  if (npm.status !== 0) process.exit(npm.status ?? 1);
}

const { runtimePath } = await import(new URL('../packages/cli/bin/runtime.mjs', import.meta.url).href);
const [program, ...args] = process.argv.slice(2);
const child = spawn(runtimePath(), [join(root, program), ...args], {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, UV_THREADPOOL_SIZE: process.env.UV_THREADPOOL_SIZE ?? '16' },
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
child.on('error', (error) => {
  process.stderr.write(`cannot start ${runtimePath()}: ${error.message}\n`);
  process.exit(1);
});
child.on('exit', (code, signal) =>
  process.exit(code ?? (signal === 'SIGINT' ? 130 : signal === 'SIGTERM' ? 143 : 1)),
);
