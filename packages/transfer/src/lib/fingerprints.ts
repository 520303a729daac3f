/**
 * A set of chunks by 64 bits of their digest, in 8 bytes a slot: ten million chunks take 134 MB. Two chunks that look the same here make a collector keep
 * what it could remove, never the other way round.
 */
export interface Fingerprints {
  readonly size: number;
  add(sha256: string): void;
  has(sha256: string): boolean;
}

const FIRST_CAPACITY = 256;

export function createFingerprints(): Fingerprints {
  let capacity = FIRST_CAPACITY;
  let high = new Uint32Array(capacity);
  let low = new Uint32Array(capacity);
  let size = 0;

  /** The slot of the chunk, or the free one where it belongs. Digests are uniform, so a part of one is a hash. */
  function find(a: number, b: number): number {
    let index = b & (capacity - 1);
    while (high[index] !== 0 && (high[index] !== a || low[index] !== b)) index = (index + 1) & (capacity - 1);
    return index;
  }

  function grow(): void {
    const [oldHigh, oldLow] = [high, low];
    capacity *= 2;
    high = new Uint32Array(capacity);
    low = new Uint32Array(capacity);
    for (let index = 0; index < oldHigh.length; index++) {
      const [a = 0, b = 0] = [oldHigh[index], oldLow[index]];
      if (a === 0) continue;
      const place = find(a, b);
      high[place] = a;
      low[place] = b;
    }
  }

  return {
    get size() {
      return size;
    },
    add(sha256) {
      if (size * 4 >= capacity * 3) grow();
      const [a, b] = [firstWord(sha256), secondWord(sha256)];
      const index = find(a, b);
      if (high[index] !== 0) return;
      high[index] = a;
      low[index] = b;
      size += 1;
    },
    has: (sha256) => high[find(firstWord(sha256), secondWord(sha256))] !== 0,
  };
}

/** Never 0, which stands for a free slot. */
function firstWord(sha256: string): number {
  return Number.parseInt(sha256.slice(8, 16), 16) || 1;
}

function secondWord(sha256: string): number {
  return Number.parseInt(sha256.slice(16, 24), 16);
}
