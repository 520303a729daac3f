import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Backend } from '@presync/node/layout';
import { assertWholeDatabase } from '@presync/node/whole';
import { isPresyncError } from '@presync/runtime/errors';

const SALT = 'ab'.repeat(32);
const METADATA = `version=8\nsalt=${SALT}\ncol0=preimage: false\n`;

function check(backend: Backend, files: Record<string, string>): Promise<void> {
  return assertWholeDatabase({
    backend,
    names: new Set(Object.keys(files)),
    read: async (name) => files[name] ?? assert.fail(`${name} was read`),
    what: 'the archive',
  });
}

async function refuse(backend: Backend, files: Record<string, string>, why: RegExp): Promise<void> {
  await assert.rejects(check(backend, files), (error) => {
    assert.ok(isPresyncError(error, 'DATABASE_INCOMPLETE'), String(error));
    assert.match(error.message, why);
    assert.ok(error.hint !== undefined);
    return true;
  });
}

test('a RocksDB needs CURRENT, the MANIFEST that it names, and db_version', async () => {
  const whole = { CURRENT: 'MANIFEST-000007\n', 'MANIFEST-000007': '', db_version: '5', '000001.sst': '' };
  await check('rocksdb', whole);
  for (const name of ['CURRENT', 'MANIFEST-000007', 'db_version'] as const) {
    const { [name]: _, ...rest } = whole;
    await refuse('rocksdb', rest, new RegExp(name));
  }
  for (const CURRENT of [
    '',
    'MANIFEST-000007',
    'MANIFEST-000008\n',
    '../MANIFEST-000007\n',
    'MANIFEST-000007\nx',
  ])
    await refuse('rocksdb', { ...whole, CURRENT }, /CURRENT/);
});

test('a ParityDB needs metadata and a table for each column that has an index', async () => {
  const whole = {
    metadata: METADATA,
    index_00_16: '',
    table_00_0a: '',
    table_03_00: '',
    index_03_18: '',
    log0: '',
  };
  await check('paritydb', whole);
  for (const metadata of [
    '',
    'version=8\n',
    `salt=${SALT}\n`,
    `version=x\nsalt=${SALT}\n`,
    'version=8\nsalt=12\n',
  ])
    await refuse('paritydb', { ...whole, metadata }, /metadata/);
  await refuse('paritydb', { metadata: METADATA, log0: '' }, /no tables/);
  const { table_03_00: _, ...without } = whole;
  await refuse('paritydb', without, /column 03/);
  const { metadata: __, ...unsealed } = whole;
  await refuse('paritydb', unsealed, /no metadata/);
});
