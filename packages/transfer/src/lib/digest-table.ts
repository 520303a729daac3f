/**
 * A hash table from 32-byte digests to fixed-size values, in one flat buffer: a million chunks would take several hundred megabytes as
 * objects, and take 72 as rows here. Above its cap it takes no more entries: a miss then costs time, never correctness.
 */
export interface DigestTable {
  readonly size: number;
  /** The value's bytes, valid until the next `set`, or undefined. */
  get(digest: Buffer): Buffer | undefined;
  /** False when the table is full; an existing entry keeps its first value. */
  set(digest: Buffer, value: Buffer): boolean;
  /** The digests that begin with that byte, in order. */
  startingWith(byte: number): Buffer[];
}

const DIGEST_LENGTH = 32;
const FIRST_CAPACITY = 1024;

/** Entries; 72 bytes each with the values that presync uses, twice that while it grows. */
export const MAX_TABLE_ENTRIES = 1_000_000;

export function createDigestTable(valueLength: number, maxEntries = MAX_TABLE_ENTRIES): DigestTable {
  const row = DIGEST_LENGTH + valueLength;
  let capacity = FIRST_CAPACITY;
  let rows = Buffer.alloc(capacity * row);
  let used = new Uint8Array(capacity);
  let size = 0;

  /** Index of the digest's row, or of the free row where it belongs. Digests are uniform, so their first bytes are a hash. */
  function find(digest: Buffer): number {
    let index = digest.readUInt32LE(0) % capacity;
    while (used[index] === 1) {
      const at = index * row;
      if (rows.compare(digest, 0, DIGEST_LENGTH, at, at + DIGEST_LENGTH) === 0) return index;
      index = (index + 1) % capacity;
    }
    return index;
  }

  function grow(): void {
    const oldRows = rows;
    const oldUsed = used;
    const oldCapacity = capacity;
    capacity *= 2;
    rows = Buffer.alloc(capacity * row);
    used = new Uint8Array(capacity);
    for (let index = 0; index < oldCapacity; index++) {
      if (oldUsed[index] !== 1) continue;
      const entry = oldRows.subarray(index * row, (index + 1) * row);
      const place = find(entry);
      entry.copy(rows, place * row);
      used[place] = 1;
    }
  }

  return {
    get size() {
      return size;
    },
    get(digest) {
      const index = find(digest);
      if (used[index] !== 1) return undefined;
      return rows.subarray(index * row + DIGEST_LENGTH, (index + 1) * row);
    },
    set(digest, value) {
      const index = find(digest);
      if (used[index] === 1) return true;
      if (size >= maxEntries) return false;
      if (size * 4 >= capacity * 3) {
        grow();
        return this.set(digest, value);
      }
      digest.copy(rows, index * row, 0, DIGEST_LENGTH);
      value.copy(rows, index * row + DIGEST_LENGTH, 0, valueLength);
      used[index] = 1;
      size += 1;
      return true;
    },
    startingWith(byte) {
      const found: Buffer[] = [];
      for (let index = 0; index < capacity; index++) {
        const at = index * row;
        if (used[index] === 1 && rows[at] === byte)
          found.push(Buffer.from(rows.subarray(at, at + DIGEST_LENGTH)));
      }
      return found.sort(Buffer.compare);
    },
  };
}
