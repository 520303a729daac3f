#!/usr/bin/env node
// The launcher: picks the runtime, sets what must be set before a process starts, and hands over to the program.
import { spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { runtimePath } from './runtime.mjs';

const main = join(dirname(fileURLToPath(import.meta.url)), '..', 'src', 'main.ts');
// With a heap of some 30 MB, marking it bit by bit beside the work costs more than marking it at once (decision 9).
const argv = ['--no-incremental-marking', main, ...process.argv.slice(2)];
// File system calls, zstd and SHA-256 share libuv's pool, whose size is read once, at start; four threads starve it.
const env = { ...process.env, UV_THREADPOOL_SIZE: process.env.UV_THREADPOOL_SIZE ?? '16' };
// Chunk buffers are mapped one by one, in huge pages, and go back to the system when they are freed; by default glibc would keep
// them in arenas that only grow (decision 9). The program takes both out again, since a node that it starts would inherit them.
if (env.GLIBC_TUNABLES === undefined) {
  env.GLIBC_TUNABLES = 'glibc.malloc.mmap_threshold=1048576:glibc.malloc.hugetlb=1';
  env.PRESYNC_TUNED = '1';
}
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
