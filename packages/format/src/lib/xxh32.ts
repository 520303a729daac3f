/** XXH32 with seed 0 (github.com/Cyan4973/xxHash, doc/xxhash_spec.md), as the LZ4 frame format uses it. */

const P1 = 0x9e3779b1;
const P2 = 0x85ebca77;
const P3 = 0xc2b2ae3d;
const P4 = 0x27d4eb2f;
const P5 = 0x165667b1;
const STRIPE = 16;

const rotate = (value: number, bits: number): number => (value << bits) | (value >>> (32 - bits));
const round = (lane: number, input: number): number =>
  Math.imul(rotate((lane + Math.imul(input, P2)) | 0, 13), P1);

export interface Xxh32 {
  update(bytes: Uint8Array): void;
  /** To be called once, at the end. */
  digest(): number;
}

export function createXxh32(): Xxh32 {
  let [a, b, c, d] = [(P1 + P2) | 0, P2 | 0, 0, -P1 | 0];
  const rest = Buffer.alloc(STRIPE);
  let held = 0;
  let total = 0;

  function stripes(bytes: Buffer, end: number): void {
    for (let at = 0; at < end; at += STRIPE) {
      a = round(a, bytes.readInt32LE(at));
      b = round(b, bytes.readInt32LE(at + 4));
      c = round(c, bytes.readInt32LE(at + 8));
      d = round(d, bytes.readInt32LE(at + 12));
    }
  }

  return {
    update(input) {
      let bytes = Buffer.from(input.buffer, input.byteOffset, input.byteLength);
      total += bytes.length;
      if (held > 0) {
        const taken = Math.min(STRIPE - held, bytes.length);
        rest.set(bytes.subarray(0, taken), held);
        held += taken;
        bytes = bytes.subarray(taken);
        if (held < STRIPE) return;
        stripes(rest, STRIPE);
        held = 0;
      }
      const whole = bytes.length - (bytes.length % STRIPE);
      stripes(bytes, whole);
      rest.set(bytes.subarray(whole), 0);
      held = bytes.length - whole;
    },
    digest() {
      let hash = total >= STRIPE ? (rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18)) | 0 : P5 | 0;
      hash = (hash + total) | 0;
      let at = 0;
      for (; at + 4 <= held; at += 4)
        hash = Math.imul(rotate((hash + Math.imul(rest.readInt32LE(at), P3)) | 0, 17), P4);
      for (; at < held; at++) hash = Math.imul(rotate((hash + Math.imul(rest[at] ?? 0, P5)) | 0, 11), P1);
      hash = Math.imul(hash ^ (hash >>> 15), P2);
      hash = Math.imul(hash ^ (hash >>> 13), P3);
      return (hash ^ (hash >>> 16)) >>> 0;
    },
  };
}

export function xxh32(bytes: Uint8Array): number {
  const hash = createXxh32();
  hash.update(bytes);
  return hash.digest();
}
