#!/usr/bin/env node
// The launcher: picks the runtime, sets what must be set before a process starts, and hands over to the program.
import { spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { runtimePath } from './runtime.mjs';
import { NODE_FLAGS, tunedEnvironment } from './tuning.mjs';

const main = join(dirname(fileURLToPath(import.meta.url)), '..', 'src', 'main.ts');
const argv = [...NODE_FLAGS, main, ...process.argv.slice(2)];
const env = tunedEnvironment(process.env);
const runtime = runtimePath();

if (typeof process.execve === 'function') {
  // Replaces this process, so that signals and process ids are those of the program.
  process.execve(runtime, [runtime, ...argv], env);
} else {
  // The channel tells the program that its launcher is gone (`kill -9`), so that it never outlives it.
  const child = spawn(runtime, argv, {
    env: { ...env, PRESYNC_LAUNCHED: '1' },
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  child.on('error', (error) => {
    process.stderr.write(`cannot start ${runtime}: ${error.message}\n`);
    process.exit(1);
  });
  child.on('exit', (code, signal) =>
    process.exit(code ?? (signal === 'SIGINT' ? 130 : signal === 'SIGTERM' ? 143 : 1)),
  );
}
