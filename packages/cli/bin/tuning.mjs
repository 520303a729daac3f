// What must be set before a process starts. Plain JavaScript, because it must load under any Node from version 20 on.

/** With a heap of some 30 MB, marking it bit by bit beside the work costs more than marking it at once (decision 9). */
export const NODE_FLAGS = ['--no-incremental-marking'];

/** The environment that presync needs, made of the one that there is. */
export function tunedEnvironment(given) {
  // File system calls, zstd and SHA-256 share libuv's pool, whose size is read once, at start; four threads starve it.
  const env = { ...given, UV_THREADPOOL_SIZE: given.UV_THREADPOOL_SIZE ?? '16' };
  // Chunk buffers are mapped one by one, in huge pages, and go back to the system when they are freed; by default glibc would keep
  // them in arenas that only grow (decision 9). The program takes both out again, since a node that it starts would inherit them.
  if (env.GLIBC_TUNABLES === undefined) {
    env.GLIBC_TUNABLES = 'glibc.malloc.mmap_threshold=1048576:glibc.malloc.hugetlb=1';
    env.PRESYNC_TUNED = '1';
  }
  return env;
}
