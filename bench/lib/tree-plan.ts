import type { BlockKind } from './blocks.ts';
import { createChoices } from './random.ts';

/** Which of the two databases a generated tree resembles. */
export type TreeKind = 'rocksdb' | 'paritydb';

/** One file of a generated tree, before it is written. */
export interface PlannedFile {
  name: string;
  /** Bytes, apparent. */
  size: number;
  kind: BlockKind | 'text';
  /** For `text`. */
  text?: string | undefined;
  /** Share of the 4 KiB pages that hold data; the others are holes. Default 1. */
  filled?: number | undefined;
}

export const MIB = 1024 * 1024;
export const PAGE = 4096;
/** ParityDB's tables grow in such steps (FACTS 1). */
export const TABLE_STEP = 256 * 1024;
/** RocksDB's target file size in a substrate node. */
const SST_BYTES = 64 * MIB;

/** Folder of the database under the base path, `/`-separated. */
export const DATABASE_FOLDERS: Record<TreeKind, string> = {
  rocksdb: 'chains/bench/db/full',
  paritydb: 'chains/bench/paritydb/full',
};

/** The files of a tree of about `size` bytes. Deterministic in all three. */
export function planTree(kind: TreeKind, size: number, seed: number): PlannedFile[] {
  return kind === 'rocksdb' ? planRocksDb(size, seed) : planParityDb(size, seed);
}

/** Size of a full SST: 64 MiB, or a sixteenth of a small tree. */
export function sstBytes(size: number): number {
  return Math.min(SST_BYTES, Math.max(MIB, Math.floor(size / 16 / MIB) * MIB));
}

export function sstName(number: number): string {
  return `${String(number).padStart(6, '0')}.sst`;
}

function planRocksDb(size: number, seed: number): PlannedFile[] {
  const choices = createChoices(seed, 'plan/rocksdb');
  const files: PlannedFile[] = [];
  const full = sstBytes(size);
  let number = 10;
  let left = size - Math.min(32 * MIB, Math.floor(size / 64));
  const wal = size - left;
  // Some 8 % of the bytes are in young files of the upper levels, which are smaller.
  let young = Math.floor(size * 0.08);
  while (young > 0) {
    const bytes = Math.min(
      Math.floor(full * (0.02 + choices.unit() * 0.6)) + choices.between(0, PAGE),
      young,
    );
    files.push({ name: sstName(number), size: bytes, kind: 'sst' });
    number += choices.between(1, 3);
    young -= bytes;
    left -= bytes;
  }
  while (left > 0) {
    // Real files end a little over or under the target size, never on a round number.
    const bytes = Math.min(full - choices.between(0, full >> 6), left);
    files.push({ name: sstName(number), size: bytes, kind: 'sst' });
    number += choices.between(1, 3);
    left -= bytes;
  }
  files.push({ name: `${String(number).padStart(6, '0')}.log`, size: wal, kind: 'wal' });
  files.push({ name: 'MANIFEST-000005', size: 48 * 1024 + files.length * 96, kind: 'slots' });
  files.push({ name: 'CURRENT', size: 16, kind: 'text', text: 'MANIFEST-000005\n' });
  files.push(textFile('OPTIONS-000007', optionsText()));
  files.push(textFile('IDENTITY', '5bd1f2a0-7c6e-4d1b-9a42-0c1de5a77e11'));
  files.push(textFile('db_version', '4'));
  return files;
}

function planParityDb(size: number, seed: number): PlannedFile[] {
  const choices = createChoices(seed, 'plan/paritydb');
  const files: PlannedFile[] = [];
  const salt = Array.from({ length: 32 }, () => choices.between(0, 255).toString(16).padStart(2, '0')).join(
    '',
  );
  const columns = Array.from({ length: 13 }, (_, column) => {
    const state = column === 1 || column === 11;
    return `col${column}=preimage: ${state}, uniform: ${state}, refc: ${state}, compression: ${state ? 1 : 0}, ordered: false`;
  });
  files.push(textFile('metadata', ['version=8', `salt=${salt}`, ...columns].join('\n')));

  // Index files hold 2^bits chunks of 512 bytes after 16 KiB of header; a node's smallest has 16 bits.
  const bits = Math.min(16, Math.max(8, Math.floor(Math.log2((size * 0.01) / 512))));
  let used = 0;
  const add = (file: PlannedFile): void => {
    files.push(file);
    used += file.size;
  };
  for (const [column, filled] of [0.02, 1, 0.01, 0.35, 0.02, 0.08].entries()) {
    // The state column's index has been rebuilt larger, twice, and is well used.
    const own = column === 1 ? bits + 2 : bits;
    add({
      name: `index_${two(column)}_${two(own)}`,
      size: 2 ** own * 512 + 16 * 1024,
      kind: 'index',
      filled,
    });
  }
  for (const log of [0, 1])
    add({ name: `log${log}`, size: Math.max(PAGE, Math.min(8 * MIB, size >> 9)) + 57, kind: 'wal' });

  // A few tables hold most of the bytes, as on a synced node: multi-part values, bodies, the commonest trie nodes.
  const rest = size - used;
  const large: Array<[string, number, BlockKind]> = [
    ['table_01_ff', 0.32, 'values'],
    ['table_05_ff', 0.26, 'values'],
    ['table_01_2a', 0.14, 'values'],
    ['table_01_35', 0.08, 'values'],
    ['table_04_40', 0.06, 'values'],
    ['table_01_7f', 0.04, 'slots'],
  ];
  for (const [name, share, kind] of large) add({ name, size: steps(rest * share), kind, filled: 0.995 });
  // The other tiers: many files of one step to some MiB, half used.
  for (let tier = 0x1a; tier < 0x7e && used < size; tier += 1) {
    if (tier === 0x2a || tier === 0x35) continue;
    const bytes = steps((rest * 0.1 * (0.2 + choices.unit() * 1.6)) / 96);
    add({ name: `table_01_${hex(tier)}`, size: bytes, kind: 'slots', filled: 0.3 + choices.unit() * 0.65 });
  }
  for (const name of ['table_00_00', 'table_00_18', 'table_02_03', 'table_03_1a', 'table_05_81'])
    add({ name, size: TABLE_STEP, kind: 'slots', filled: 0.4 });
  return files;
}

function textFile(name: string, text: string): PlannedFile {
  return { name, size: Buffer.byteLength(text), kind: 'text', text };
}

function two(number: number): string {
  return String(number).padStart(2, '0');
}

function hex(number: number): string {
  return number.toString(16).padStart(2, '0');
}

function steps(bytes: number): number {
  return Math.max(1, Math.round(bytes / TABLE_STEP)) * TABLE_STEP;
}

/** Much like the real file: about 70 KB of the same settings for each of 13 column families. */
function optionsText(): string {
  const settings = [
    'write_buffer_size=67108864',
    'compression=kLZ4Compression',
    'target_file_size_base=67108864',
    'num_levels=7',
    'level_compaction_dynamic_level_bytes=true',
  ];
  const families = Array.from({ length: 13 }, (_, family) =>
    [
      `[CFOptions "col${family}"]`,
      ...Array.from({ length: 36 }, (_unused, line) => `  ${settings[line % settings.length] ?? ''}`),
    ].join('\n'),
  );
  return `[Version]\n  rocksdb_version=8.10.0\n\n[DBOptions]\n  max_open_files=1024\n\n${families.join('\n\n')}\n`;
}
