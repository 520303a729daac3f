import { createHash, hash } from 'node:crypto';

/** A SHA-256 digest in lower-case hexadecimal, 64 characters. */
export type Sha256 = string;

export const SHA256_PATTERN = /^[0-9a-f]{64}$/;

/** Below this a call into the thread pool costs more than the hashing does. */
const SMALL = 32 * 1024;

/** SHA-256 of bytes in memory. Large inputs are hashed in the thread pool, off the event loop. */
export async function sha256(bytes: Uint8Array): Promise<Sha256> {
  if (bytes.length <= SMALL) return hash('sha256', bytes, 'hex');
  // A view on shared memory is refused by WebCrypto; presync never makes one.
  const digest = await crypto.subtle.digest('SHA-256', bytes as Uint8Array<ArrayBuffer>);
  return Buffer.from(digest).toString('hex');
}

/** An incremental SHA-256, for streams. */
export function createSha256(): { update(bytes: Uint8Array): void; digest(): Sha256 } {
  const state = createHash('sha256');
  return {
    update(bytes) {
      state.update(bytes);
    },
    digest: () => state.digest('hex'),
  };
}

const zeroDigests = new Map<number, Sha256>();

/** SHA-256 of `length` zero bytes; computed once for each length that is asked for by a repository's chunk size. */
export function zeroDigest(length: number): Sha256 {
  let digest = zeroDigests.get(length);
  if (digest === undefined) {
    digest = hash('sha256', Buffer.alloc(length), 'hex');
    zeroDigests.set(length, digest);
  }
  return digest;
}
