import { createByteStream, createChoices } from './random.ts';

/**
 * What a stretch of a file is made of. The shares were set so that zstd -3 gives the ratio (stored ÷ plain) that it
 * gives on the databases in `test/fixtures`, or, for the value tables, on a synced chain as FACTS 1 tells.
 *
 * - `sst`: entries as in a substrate SST (LZ4 blocks, hashes as keys): fixture 0.71.
 * - `wal`: a write-ahead log of uncompressed batches: fixture 0.23.
 * - `values`: full slots of ParityDB's value tables (compressed values and hashes): fixture 0.98 for the largest table,
 *   110/114 published for whole databases: 0.96.
 * - `slots`: small fixed-size slots that are partly padding: fixtures 0.10 to 0.88, weighted 0.47.
 * - `index`: ParityDB index chunks of 64 entries of 8 bytes, partly used.
 */
export type BlockKind = 'sst' | 'wal' | 'values' | 'slots' | 'index';

interface Mix {
  /** Bytes of one record. */
  record: number;
  /** Share of each record that is random; the rest comes from a small dictionary. */
  random: number;
  /** Share of records that are all random. */
  solid: number;
  /** Bytes at the end of each record that are zero. */
  padding: number;
}

const MIXES: Record<BlockKind, Mix> = {
  sst: { record: 120, random: 0.675, solid: 0, padding: 0 },
  wal: { record: 256, random: 0.2, solid: 0, padding: 0 },
  values: { record: 4096, random: 0.96, solid: 0, padding: 160 },
  slots: { record: 256, random: 0.42, solid: 0, padding: 80 },
  index: { record: 512, random: 0.4, solid: 0, padding: 304 },
};

const DICTIONARY_BYTES = 16 * 1024;

/** A deterministic stream of plaintext of one kind. Each call returns a fresh buffer of `length` bytes. */
export function createBlockStream(kind: BlockKind, seed: number, label: string): (length: number) => Buffer {
  const mix = MIXES[kind];
  const bytes = createByteStream(seed, `${label}/${kind}`);
  const choices = createChoices(seed, `${label}/${kind}`);
  const dictionary = createByteStream(seed, `dictionary/${kind}`)(DICTIONARY_BYTES + mix.record);
  const randomBytes = Math.round(mix.record * mix.random);
  const repeated = mix.record - randomBytes - mix.padding;
  return (length) => {
    const buffer = bytes(length);
    for (let start = 0; start + mix.record <= length; start += mix.record) {
      if (mix.solid > 0 && choices.unit() < mix.solid) continue;
      const at = start + randomBytes;
      if (repeated > 0) {
        const from = choices.between(0, DICTIONARY_BYTES / 16 - 1) * 16;
        dictionary.copy(buffer, at, from, from + repeated);
      }
      if (mix.padding > 0) buffer.fill(0, start + mix.record - mix.padding, start + mix.record);
    }
    return buffer;
  };
}
