import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type ErrorCode, isPresyncError } from '@presync/runtime/errors';
import {
  type ArchiveDatabase,
  type ArchiveSorter,
  type ArchiveSorterOptions,
  createArchiveSorter,
} from '../src/lib/archive-sorter.ts';

function sorterOf(options: Partial<ArchiveSorterOptions> = {}): ArchiveSorter {
  return createArchiveSorter({ what: 'the archive', ...options });
}

function refused(code: ErrorCode, work: () => unknown, message: RegExp): void {
  assert.throws(work, (error) => {
    assert.ok(isPresyncError(error, code), String(error));
    assert.match(error.message, message);
    assert.ok(error.hint !== undefined);
    return true;
  });
}

const ROCKSDB = [
  '000123.sst',
  '000124.log',
  'MANIFEST-000007',
  'OPTIONS-000008',
  'IDENTITY',
  'db_version',
  'CURRENT',
];
const PARITYDB = ['table_00_0a', 'index_00_16', 'log3', 'metadata'];

test('a database is found wherever archives have it', () => {
  for (const [prefix, chainId] of [
    ['chains/ksmcc3/', 'ksmcc3'],
    ['data/chains/rococo_local_testnet/', 'rococo_local_testnet'],
    ['home/polkadot/.local/share/polkadot/chains/polkadot/', 'polkadot'],
    ['', undefined],
    ['polkadot/', undefined],
    ['a/b/c/', undefined],
  ] as const) {
    for (const [folder, backend, names] of [
      ['db', 'rocksdb', ROCKSDB],
      ['paritydb', 'paritydb', PARITYDB],
    ] as const) {
      const sorter = sorterOf();
      for (const name of names) assert.equal(sorter.sort(`${prefix}${folder}/full/${name}`)?.name, name);
      assert.deepEqual(sorter.finish(), {
        dir: `${prefix}${folder}/full`,
        backend,
        chainId,
      } satisfies ArchiveDatabase);
      assert.equal(sorter.skipped.count, 0);
    }
  }
  for (const dir of ['', 'full/', 'snapshot/full/']) {
    for (const [backend, names] of [
      ['rocksdb', ROCKSDB],
      ['paritydb', PARITYDB],
    ] as const) {
      const sorter = sorterOf();
      for (const name of names) assert.ok(sorter.sort(dir + name) !== undefined, dir + name);
      assert.equal(sorter.finish().backend, backend);
      assert.equal(sorter.finish().chainId, undefined);
    }
  }
});

test('what is no file of the database is left out and told', () => {
  const sorter = sorterOf();
  const others = [
    'chains/dev/keystore/6173',
    'chains/dev/network/secret_ed25519',
    'chains/dev/db/full/LOCK',
    'chains/dev/db/full/LOG',
    'chains/dev/db/full/LOG.old.123',
    'chains/dev/db/full/unknown.txt',
    'chains/dev/db/full/metadata',
    'chains/dev/db/full/parachains/db/CURRENT',
    'chains/dev/db/full/parachains/db/000001.sst',
    'chains/dev/paritydb/parachains/metadata',
    'chains/dev/frontier/db/CURRENT',
    'README.md',
    'etc/passwd',
  ];
  for (const path of others) assert.equal(sorter.sort(path), undefined, path);
  assert.equal(sorter.found, undefined);
  assert.deepEqual(sorter.sort('chains/dev/db/full/CURRENT'), { name: 'CURRENT', class: 'seal' });
  for (let n = 0; n < 30; n++) sorter.sort(`chains/dev/network/${n}`);
  assert.equal(sorter.skipped.count, others.length + 30);
  assert.deepEqual(sorter.skipped.names.slice(0, others.length), others);
  assert.equal(sorter.skipped.names.length, 20);
});

test('two databases are an error that names both', () => {
  for (const [one, two, hint] of [
    ['chains/polkadot/db/full/CURRENT', 'chains/statemint/db/full/CURRENT', /--chain/],
    ['chains/dev/db/full/CURRENT', 'chains/dev/paritydb/full/metadata', /--backend/],
    ['chains/dev/db/full/CURRENT', 'old/chains/dev/db/full/000001.sst', /ask/],
    ['full/CURRENT', 'full/metadata', /--backend/],
    ['CURRENT', 'metadata', /--backend/],
    ['db/full/CURRENT', 'CURRENT', /ask/],
  ] as const) {
    const sorter = sorterOf();
    sorter.sort(one);
    refused('ARCHIVE_UNFIT', () => sorter.sort(two), /several databases/);
    try {
      sorter.sort(two);
    } catch (error) {
      assert.ok(isPresyncError(error));
      assert.match(error.hint ?? '', hint);
    }
  }
});

test('of two databases the wanted one is taken', () => {
  const told: ArchiveDatabase[] = [];
  const sorter = sorterOf({ chainId: 'statemint', onOther: (other) => told.push(other) });
  assert.equal(sorter.sort('polkadot/chains/polkadot/db/full/000001.sst'), undefined);
  assert.equal(sorter.sort('polkadot/chains/polkadot/db/full/CURRENT'), undefined);
  assert.ok(sorter.sort('chains/statemint/db/full/CURRENT') !== undefined);
  assert.equal(sorter.finish().chainId, 'statemint');
  assert.deepEqual(
    told.map(({ chainId }) => chainId),
    ['polkadot'],
  );
  const byBackend = sorterOf({ backend: 'paritydb' });
  assert.equal(byBackend.sort('chains/dev/db/full/CURRENT'), undefined);
  assert.ok(byBackend.sort('chains/dev/paritydb/full/metadata') !== undefined);
  assert.equal(byBackend.finish().backend, 'paritydb');
});

test('none, or not the wanted one, is an error that says what there was', () => {
  refused('ARCHIVE_UNFIT', () => sorterOf().finish(), /no file at all/);
  const empty = sorterOf();
  empty.sort('blocks/000001.dat');
  empty.sort('state.json');
  refused('ARCHIVE_UNFIT', () => empty.finish(), /2 other files: "blocks\/000001.dat", "state.json"/);
  const kusama = sorterOf({ chainId: 'kusama' });
  kusama.sort('chains/ksmcc3/db/full/CURRENT');
  refused('MANIFEST_FOREIGN', () => kusama.finish(), /of chain ksmcc3 .* no database of chain kusama/);
  const paritydb = sorterOf({ chainId: 'ksmcc3', backend: 'paritydb' });
  paritydb.sort('chains/ksmcc3/db/full/CURRENT');
  refused('TARGET_BACKEND', () => paritydb.finish(), /rocksdb .* no paritydb database/);
});

test('a chain that cannot be a folder is refused', () => {
  for (const chain of ['-rf', '.hidden', 'a b', '\u001b[2J'])
    refused('PATH_UNSAFE', () => sorterOf().sort(`chains/${chain}/db/full/CURRENT`), /names no chain/);
});
