import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { isPresyncError } from '@presync/runtime/errors';
import fc from 'fast-check';
import { unpackFixture } from '../../../test/support/real-node.ts';
import {
  classifyFile,
  databasePath,
  findDatabase,
  findDatabases,
  isPartPath,
  readDatabaseIdentity,
  scanDatabase,
} from '../src/layout.ts';

const { signal } = new AbortController();
let root = '';
before(() => {
  root = mkdtempSync(join(tmpdir(), 'presync-layout-'));
});
after(() => rmSync(root, { recursive: true, force: true }));

/** Makes a base path with the given database folders, each with these empty files. */
function basePath(name: string, folders: string[], files: string[] = []): string {
  const base = join(root, name);
  mkdirSync(base, { recursive: true });
  for (const folder of folders) {
    mkdirSync(join(base, folder), { recursive: true });
    for (const file of files) writeFileSync(join(base, folder, file), 'x');
  }
  return base;
}

describe('findDatabase', () => {
  test('finds the only database and names it as the archive does', async () => {
    const base = basePath('one', [
      'chains/ksmcc3/paritydb/full',
      'chains/ksmcc3/keystore',
      'chains/ksmcc3/network',
    ]);
    const layout = await findDatabase({ basePath: base, signal });
    assert.deepEqual(
      { ...layout, dir: undefined },
      {
        basePath: base,
        chainId: 'ksmcc3',
        backend: 'paritydb',
        archivePrefix: 'chains/ksmcc3/paritydb/full',
        dir: undefined,
      },
    );
    assert.equal(layout.dir, join(base, 'chains/ksmcc3/paritydb/full'));
  });

  test('follows symbolic links between the base path and the database', async () => {
    const base = basePath('linked', []);
    const disk = basePath('disk', ['dev/db/full']);
    symlinkSync(disk, join(base, 'chains'));
    const layout = await findDatabase({ basePath: base, signal });
    assert.equal(layout.dir, join(disk, 'dev/db/full'));
    assert.equal(layout.archivePrefix, 'chains/dev/db/full');
  });

  test('asks which chain is meant, and names them', async () => {
    const base = basePath('several', ['chains/dev/db/full', 'chains/polkadot/db/full']);
    await assert.rejects(findDatabase({ basePath: base, signal }), (error) => {
      assert.ok(isPresyncError(error, 'NODE_LAYOUT_AMBIGUOUS'));
      assert.match(error.message, /dev, polkadot/);
      assert.match(error.hint ?? '', /--chain/);
      return true;
    });
    assert.equal((await findDatabase({ basePath: base, chainId: 'polkadot', signal })).chainId, 'polkadot');
  });

  test('a stale sibling of the other backend is never passed over silently', async () => {
    const base = basePath('both', ['chains/dev/db/full', 'chains/dev/paritydb/full']);
    await assert.rejects(findDatabase({ basePath: base, signal }), (error) => {
      assert.ok(isPresyncError(error, 'NODE_LAYOUT_AMBIGUOUS'));
      assert.match(error.hint ?? '', /opens RocksDB first/);
      return true;
    });
    assert.equal((await findDatabase({ basePath: base, backend: 'paritydb', signal })).backend, 'paritydb');
  });

  test('says what to give instead of a path that is no base path', async () => {
    const base = basePath('hints', ['chains/dev/db/full']);
    const cases: [string, string | undefined, RegExp][] = [
      [join(base, 'chains/dev/db/full'), undefined, new RegExp(`seems to be ${base}$`)],
      [join(base, 'chains'), undefined, new RegExp(`seems to be ${base}$`)],
      [join(base, 'nowhere'), undefined, /there is no folder/],
      [base, 'Development', /the chains there are: dev/],
    ];
    for (const [path, chainId, hint] of cases) {
      await assert.rejects(findDatabase({ basePath: path, chainId, signal }), (error) => {
        assert.ok(isPresyncError(error, 'NODE_LAYOUT_NOT_FOUND'));
        assert.match(error.hint ?? '', hint);
        return true;
      });
    }
  });

  test('a chain id that would leave the base path is refused', () => {
    for (const id of ['', '.', '..', '../x', 'a/b', 'a\\b', 'a\0b', 'a\nb', 'x'.repeat(256)]) {
      assert.throws(
        () => databasePath(id, 'rocksdb'),
        (error) => isPresyncError(error, 'CONFIG_INVALID'),
        JSON.stringify(id),
      );
    }
    assert.equal(databasePath('dev', 'rocksdb'), 'chains/dev/db/full');
    assert.equal(databasePath('dev', 'paritydb'), 'chains/dev/paritydb/full');
  });
});

describe('classifyFile', () => {
  const known = {
    rocksdb: {
      immutable: ['000040.sst', '1234567.sst', '000001.blob'],
      mutable: ['000053.log', 'MANIFEST-000054', 'OPTIONS-000056', 'IDENTITY', 'db_version'],
      seal: ['CURRENT'],
      skip: [
        'LOCK',
        'LOG',
        'LOG.old.1700000000000000',
        '000054.dbtmp',
        'OPTIONS-000056.dbtmp',
        '000040.sst.trash',
      ],
    },
    paritydb: {
      mutable: ['log0', 'log17', 'index_00_16', 'table_01_ff', 'table_12_0a', 'refcount_01_16'],
      seal: ['metadata'],
      skip: ['lock', 'stats.txt'],
    },
  } as const;

  test('knows what each backend writes', () => {
    for (const [backend, classes] of Object.entries(known)) {
      for (const [fileClass, names] of Object.entries(classes)) {
        for (const name of names) {
          assert.equal(classifyFile(backend === 'rocksdb' ? 'rocksdb' : 'paritydb', name), fileClass, name);
        }
      }
    }
  });

  test('knows nothing else: keys, look-alikes, other backends’ files', () => {
    const unknown = [
      ...[
        'secret_ed25519',
        'secret',
        'node.pem',
        'id_rsa',
        '.env',
        '',
        '.',
        '..',
        'keystore',
        '000040.sst\n',
        '\n000040.sst',
      ],
      ...[
        '000040.sst.bak',
        '40.sst',
        '000040.SST',
        'x000040.sst',
        'CURRENT~',
        'current',
        'MANIFEST',
        'IDENTITY.pem',
        'db_version.json',
      ],
      ...[
        'metadata.bak',
        'log',
        'log-1',
        'log0.pem',
        'index_0_16',
        'table_01_FF',
        'table_01_fff',
        'LOG.pem',
        'LOG.old.pem',
        'lost+found',
      ],
    ];
    for (const name of unknown) {
      assert.equal(classifyFile('rocksdb', name), undefined, name);
      assert.equal(classifyFile('paritydb', name), undefined, name);
    }
    for (const name of Object.values(known.paritydb).flat())
      assert.equal(classifyFile('rocksdb', name), undefined, name);
    for (const name of Object.values(known.rocksdb).flat())
      assert.equal(classifyFile('paritydb', name), undefined, name);
  });

  test('a known name with anything added is unknown or skipped', () => {
    const names = [...Object.values(known.rocksdb).flat(), ...Object.values(known.paritydb).flat()];
    fc.assert(
      fc.property(
        fc.constantFrom(...names),
        fc.string({ minLength: 1, maxLength: 4 }).filter((s) => /[^0-9a-f]/.test(s)),
        (name, tail) => {
          for (const backend of ['rocksdb', 'paritydb'] as const) {
            const added = classifyFile(backend, name + tail);
            assert.ok(added === undefined || added === 'skip', name + tail);
          }
        },
      ),
    );
  });
});

describe('a real database', () => {
  for (const backend of ['rocksdb', 'paritydb'] as const) {
    test(`${backend}: every file is known, skipped ones are left out, identity is read`, async () => {
      const base = join(root, `real-${backend}`);
      await unpackFixture(backend, base);
      const layout = await findDatabase({ basePath: base, signal });
      assert.equal(layout.backend, backend);
      const files = await scanDatabase(layout, { signal });
      const names = files.map((file) => file.name);
      assert.ok(!names.some((name) => /^(LOCK|LOG.*|lock|stats\.txt)$/.test(name)));
      assert.deepEqual(
        files.filter((file) => file.class === 'seal').map((file) => file.name),
        [backend === 'rocksdb' ? 'CURRENT' : 'metadata'],
      );
      const paths = files.map((file) => file.archivePath);
      assert.deepEqual(
        paths,
        [...paths].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))),
      );
      assert.ok(paths.every((path) => path.startsWith(`${layout.archivePrefix}/`)));
      const identity = await readDatabaseIdentity(layout, { signal });
      assert.deepEqual(
        identity,
        backend === 'rocksdb'
          ? { identity: '6e569645-ff33-4976-95bf-e5ae02c045a7', version: '4' }
          : { identity: '017904e624397c134b50fa31043b28c2a3ed37b891c22fb24ed742c4fe4a01a7', version: '8' },
      );
      if (backend === 'paritydb')
        assert.ok(
          files.some((file) => file.allocated < file.size / 2),
          'holes were kept',
        );
    });
  }
});

describe('scanDatabase', () => {
  const scan = async (base: string) =>
    scanDatabase(await findDatabase({ basePath: base, signal }), { signal });

  test('never sees what lies beside the database', async () => {
    const base = basePath('secrets', ['chains/dev/db/full'], ['CURRENT', '000001.sst']);
    for (const [folder, file] of [
      ['keystore', '61757261d43593'],
      ['network', 'secret_ed25519'],
      ['db', 'secret'],
    ] as const) {
      mkdirSync(join(base, 'chains/dev', folder), { recursive: true });
      writeFileSync(join(base, 'chains/dev', folder, file), 'secret');
    }
    assert.deepEqual(
      (await scan(base)).map((file) => file.name),
      ['000001.sst', 'CURRENT'],
    );
  });

  test('refuses whatever it does not know, with its name', async () => {
    const cases: [string, (path: string) => void][] = [
      ['secret_ed25519', (path) => writeFileSync(path, 'k')],
      ['server.pem', (path) => writeFileSync(path, 'k')],
      ['keystore', (path) => mkdirSync(path)],
      // A right name does not help a folder or a link.
      ['000009.sst', (path) => mkdirSync(path)],
      ['000010.sst', (path) => symlinkSync('/etc/hostname', path)],
      ['LOG', (path) => symlinkSync('/etc/hostname', path)],
      ['.hidden', (path) => writeFileSync(path, 'k')],
    ];
    for (const [index, [name, make]] of cases.entries()) {
      const base = basePath(`unknown-${index}`, ['chains/dev/db/full'], ['CURRENT']);
      make(join(base, 'chains/dev/db/full', name));
      await assert.rejects(scan(base), (error) => {
        assert.ok(isPresyncError(error, 'NODE_UNKNOWN_FILE'), name);
        assert.ok(error.message.includes(name));
        return true;
      });
    }
  });

  test('stops when the signal has fired', async () => {
    const base = basePath('aborted', ['chains/dev/db/full'], ['CURRENT']);
    const layout = await findDatabase({ basePath: base, signal });
    await assert.rejects(scanDatabase(layout, { signal: AbortSignal.abort() }), (error) =>
      isPresyncError(error, 'ABORTED'),
    );
  });
});

describe('the databases of a node', () => {
  test('are found where each kind of node keeps them', async () => {
    const base = basePath('all', [
      'chains/para/paritydb/full',
      'chains/para/keystore',
      'polkadot/chains/polkadot/db/full/parachains/db',
      'polkadot/chains/polkadot/keystore',
    ]);
    const found = await findDatabases({ basePath: base, signal });
    assert.deepEqual(
      found.map(({ role, archivePrefix, backend }) => [role ?? 'main', archivePrefix, backend]),
      [
        ['main', 'chains/para/paritydb/full', 'paritydb'],
        ['relay', 'polkadot/chains/polkadot/db/full', 'rocksdb'],
        ['relay-parachains', 'polkadot/chains/polkadot/db/full/parachains/db', 'rocksdb'],
      ],
    );
    const relay = basePath('relay', ['chains/ksmcc3/paritydb/full', 'chains/ksmcc3/paritydb/parachains']);
    assert.deepEqual(
      (await findDatabases({ basePath: relay, signal })).map(({ role }) => role ?? 'main'),
      ['main', 'parachains'],
    );
    const elsewhere = await findDatabases({ basePath: base, relayBasePath: relay, signal });
    assert.deepEqual(
      elsewhere.map(({ archivePrefix, dir }) => [archivePrefix, dir.startsWith(relay)]),
      [
        ['chains/para/paritydb/full', false],
        ['polkadot/chains/ksmcc3/paritydb/full', true],
        ['polkadot/chains/ksmcc3/paritydb/parachains', true],
      ],
    );
    await assert.rejects(
      findDatabases({ basePath: base, relayBasePath: join(base, 'no'), signal }),
      (error) => isPresyncError(error, 'NODE_LAYOUT_NOT_FOUND'),
    );
  });

  test('a part is taken only at the place where a node of its role looks for it', () => {
    const main = { role: 'main', backend: 'rocksdb', path: 'chains/para/db/full' } as const;
    const relay = { role: 'relay', backend: 'paritydb', path: 'polkadot/chains/dot/paritydb/full' } as const;
    const good = [
      main,
      relay,
      { role: 'parachains', backend: 'rocksdb', path: 'chains/para/db/full/parachains/db' },
      { role: 'relay-parachains', backend: 'paritydb', path: 'polkadot/chains/dot/paritydb/parachains' },
    ] as const;
    for (const part of good) assert.equal(isPartPath(part, 'para', good), true, part.role);
    const bad = [
      { ...main, path: 'chains/other/db/full' },
      { ...main, path: 'chains/para/keystore' },
      { ...relay, path: 'chains/dot/paritydb/full' },
      { ...relay, path: 'polkadot/chains/dot/db/full' },
      { ...relay, path: 'polkadot/chains/dot/keystore' },
      { ...relay, path: 'polkadot/chains' },
      { role: 'parachains', backend: 'paritydb', path: 'chains/para/paritydb/parachains' },
      { role: 'relay-parachains', backend: 'paritydb', path: 'polkadot/chains/other/paritydb/parachains' },
      { role: 'keys', backend: 'rocksdb', path: 'chains/para/keystore' },
    ] as const;
    for (const part of bad) {
      const others = good.filter(({ role }) => role !== part.role);
      assert.equal(isPartPath(part, 'para', [...others, part]), false, part.path);
    }
    // None comes twice, and none without what it belongs to.
    const twin = { ...relay, path: 'polkadot/chains/second/paritydb/full' } as const;
    assert.equal(isPartPath(twin, 'para', [...good, twin]), false);
    assert.equal(isPartPath(good[3], 'para', [main, good[3]]), false);
  });
});
