/** Holes are looked for at this grain, bytes: a multiple of every file system's block, and large enough to keep writes few. */
export const SPARSE_GRAIN = 64 * 1024;
const ZEROS = Buffer.alloc(SPARSE_GRAIN);

/** True when all of `bytes`, at most a grain of them, is zero. */
export function isZero(bytes: Uint8Array): boolean {
  return Buffer.compare(bytes, bytes.length === SPARSE_GRAIN ? ZEROS : ZEROS.subarray(0, bytes.length)) === 0;
}
