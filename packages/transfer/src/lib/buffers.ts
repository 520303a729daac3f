/** Reusable buffers, so that work on a stream of chunks allocates a fixed amount of memory. */
export interface BufferPool {
  /** Runs `work` with a buffer that nobody else has, and takes it back after. */
  use<T>(work: (buffer: Buffer) => Promise<T>): Promise<T>;
}

/** Buffers of `size` bytes; as many as are in use at once, which the caller's concurrency bounds. */
export function createBufferPool(size: number): BufferPool {
  const free: Buffer[] = [];
  return {
    async use(work) {
      const buffer = free.pop() ?? Buffer.allocUnsafeSlow(size);
      try {
        return await work(buffer);
      } finally {
        free.push(buffer);
      }
    },
  };
}
