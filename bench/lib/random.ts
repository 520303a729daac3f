import { createCipheriv, createHash } from 'node:crypto';

const BLOCK = 1024 * 1024;
const ZEROS = Buffer.alloc(BLOCK);

/** A small deterministic generator (mulberry32) for choices; `fillRandom` is the one for bytes. */
export interface Choices {
  /** A whole number from `min` to `max`, both included. */
  between(min: number, max: number): number;
  /** A number in [0, 1). */
  unit(): number;
}

/** The same `seed` and `label` always give the same choices. */
export function createChoices(seed: number, label: string): Choices {
  let state = createHash('sha256').update(`${seed}/${label}`).digest().readUInt32LE(0);
  const unit = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
  return { unit, between: (min, max) => min + Math.floor(unit() * (max - min + 1)) };
}

/** An endless deterministic stream of bytes that no codec makes smaller (AES-128-CTR over zeros, some 2 GB/s). */
export function createByteStream(seed: number, label: string): (length: number) => Buffer {
  const digest = createHash('sha256').update(`bytes/${seed}/${label}`).digest();
  const cipher = createCipheriv('aes-128-ctr', digest.subarray(0, 16), digest.subarray(16, 32));
  return (length) => {
    if (length <= BLOCK) return cipher.update(ZEROS.subarray(0, length));
    const parts: Buffer[] = [];
    for (let left = length; left > 0; left -= BLOCK)
      parts.push(cipher.update(ZEROS.subarray(0, Math.min(left, BLOCK))));
    return Buffer.concat(parts);
  };
}
