/** Holes are looked for at this grain, bytes: the block of common file systems, so that a restored database takes no more room than its source. */
export const SPARSE_GRAIN = 4096;
const ZEROS = Buffer.alloc(SPARSE_GRAIN);

/** True when all of `bytes`, at most a grain of them, is zero. */
export function isZero(bytes: Uint8Array): boolean {
  return Buffer.compare(bytes, bytes.length === SPARSE_GRAIN ? ZEROS : ZEROS.subarray(0, bytes.length)) === 0;
}
