import { mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { throwIfAborted } from '@presync/runtime/errors';

/** A tree of files that looks like a database, for what only counts and moves files. */
export interface PauseTree {
  backend: 'rocksdb' | 'paritydb';
  /** SSTs or tables; a handful of others come on top. */
  files: number;
  /** Apparent bytes of each. */
  fileBytes: number;
  /** Bytes at the beginning of each that are on the disk; the rest is a hole. */
  filledBytes: number;
}

/** Of block-based tables (RocksDB `table/block_based`): what tells a finished SST. */
const SST_MAGIC = 0x88e241b785f4cff7n;

/** The hot files that a node of each backend writes all the time. */
export const HOT_FILES = {
  rocksdb: ['MANIFEST-000005', '000007.log'],
  paritydb: ['log0', 'log1', 'table_00_00', 'table_01_00', 'index_00_16', 'index_01_16'],
} as const;

export async function makePauseTree(base: string, tree: PauseTree, signal: AbortSignal): Promise<void> {
  const rocksdb = tree.backend === 'rocksdb';
  const dir = join(base, 'chains/bench', rocksdb ? 'db' : 'paritydb', 'full');
  await mkdir(dir, { recursive: true });
  const filling = Buffer.alloc(tree.filledBytes, 0x5a);
  const footer = Buffer.alloc(8);
  footer.writeBigUInt64LE(SST_MAGIC);
  for (let index = 0; index < tree.files; index++) {
    throwIfAborted(signal);
    const name = rocksdb
      ? `${String(index + 100).padStart(6, '0')}.sst`
      : `table_${String(index >> 8).padStart(2, '0')}_${(index & 255).toString(16).padStart(2, '0')}`;
    await using file = await open(join(dir, name), 'wx');
    await file.write(filling, 0, filling.length, 0);
    await file.truncate(tree.fileBytes);
    if (rocksdb) await file.write(footer, 0, footer.length, tree.fileBytes - footer.length);
  }
  const small = rocksdb
    ? { CURRENT: 'MANIFEST-000005\n', IDENTITY: 'bench', 'OPTIONS-000006': 'x', LOCK: '', db_version: '4' }
    : {
        metadata:
          'version=8\nsalt=0000000000000000000000000000000000000000000000000000000000000000\nsizes=[]\n',
        lock: '',
      };
  const made = Object.entries<string>(small);
  for (const [name, text] of made) {
    await using file = await open(join(dir, name), 'w');
    await file.writeFile(text);
  }
  for (const name of HOT_FILES[tree.backend]) {
    await using file = await open(join(dir, name), 'a');
    if ((await file.stat()).size === 0) await file.truncate(64 * 1024 * 1024);
  }
}
