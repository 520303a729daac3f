import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  encodeDocument,
  isChunkSize,
  parseLatest,
  parseLease,
  parseProof,
  parseRepository,
} from '@presync/format/documents';
import { MAX_DOCUMENT_SIZE } from '@presync/format/limits';
import { checkManifest, encodeManifest, type Manifest, parseManifest } from '@presync/format/manifest';
import { assertSafePath, isChannel, isSafePath } from '@presync/format/paths';
import fc from 'fast-check';
import { coded } from './support.ts';

const digest = 'ab'.repeat(32);
const hash = `0x${'cd'.repeat(32)}`;
const id = 'a3bb189e-8bf9-4888-9912-ace4e6543002';
const time = '2026-01-01T00:00:00Z';

const repository = { presync: 'repository', version: 1, id, chunkSize: 4_194_304, created: time };
const latest = {
  presync: 'latest',
  version: 1,
  channel: 'polkadot/archive',
  sequence: 7,
  manifest: { size: 900, sha256: digest },
};
const proof = {
  presync: 'proof',
  version: 1,
  channel: 'dev/rocksdb',
  sequence: 7,
  manifest: { size: 1234, sha256: 'ab'.repeat(32) },
  state: 'failed',
  checks: ['sample', 'restore', 'node'],
  failure: { code: 'PROOF_FAILED', reason: 'it ended' },
  changed: '2026-01-31T12:00:00.000Z',
};

const lease = {
  presync: 'lease',
  version: 1,
  kind: 'reader',
  id: 'r1',
  channel: 'polkadot/archive',
  sequence: 7,
  holder: 'host 42',
  created: time,
  expires: time,
};
const manifest: Manifest = {
  presync: 'manifest',
  format: { version: 1, minReader: 1, features: [] },
  repository: { id, sha256: digest },
  channel: 'polkadot/archive',
  sequence: 7,
  previous: { sequence: 6, sha256: digest },
  created: time,
  expires: '2026-02-01T00:00:00Z',
  chain: {
    specId: 'polkadot',
    name: 'Polkadot',
    genesisHash: hash,
    anchor: { number: 5, hash },
    head: { number: 9, hash },
    blockTimeMs: 6000,
  },
  node: {
    implementation: 'Parity Polkadot',
    version: '1.2.3',
    statePruning: 'archive',
    blocksPruning: 'archive',
    parts: [
      {
        role: 'main',
        backend: 'rocksdb',
        path: 'chains/polkadot/db/full',
        databaseVersion: '4',
        identity: 'x',
      },
    ],
  },
  totals: { files: 1, chunks: 2, bytes: 3, unique: 4, stored: 5, added: 6 },
  pause: { strategy: 'freeze', seconds: 0.4 },
  index: { size: 100, sha256: digest, length: 200 },
};

const kinds: {
  name: string;
  sample: object;
  parse: (bytes: Uint8Array) => unknown;
  encode: (value: unknown) => Buffer;
}[] = [
  {
    name: 'presync.json',
    sample: repository,
    parse: (bytes) => parseRepository(bytes, 'd'),
    encode: encodeDocument,
  },
  { name: 'latest.json', sample: latest, parse: (bytes) => parseLatest(bytes, 'd'), encode: encodeDocument },
  { name: 'a proof', sample: proof, parse: (bytes) => parseProof(bytes, 'd'), encode: encodeDocument },
  { name: 'a lease', sample: lease, parse: (bytes) => parseLease(bytes, 'd'), encode: encodeDocument },
  {
    name: 'a manifest',
    sample: manifest,
    parse: (bytes) => parseManifest(bytes, 'd'),
    encode: (value) => Buffer.from(JSON.stringify(value)),
  },
];

type Path = (string | number)[];

/** Paths of all values below `value`, with `value` itself first. */
function pathsOf(value: unknown, at: Path = []): Path[] {
  if (typeof value !== 'object' || value === null) return [at];
  return [at, ...Object.entries(value).flatMap(([key, item]) => pathsOf(item, [...at, key]))];
}

/** A copy of `value` in which what lies at `path` was changed. */
function withChange(value: unknown, path: Path, change: (item: unknown) => unknown): unknown {
  const [key, ...rest] = path;
  if (key === undefined) return change(value);
  if (Array.isArray(value))
    return value.map((item, i) => (String(i) === String(key) ? withChange(item, rest, change) : item));
  const entries = Object.entries(value as object).map(([name, item]) => [
    name,
    name === key ? withChange(item, rest, change) : item,
  ]);
  return Object.fromEntries(entries.filter(([, item]) => item !== undefined));
}

for (const { name, sample, parse, encode } of kinds) {
  test(`${name}: round trip`, () => {
    assert.deepEqual(parse(encode(sample)), sample);
  });

  test(`${name}: any field that is missing, of another type, or unknown is refused`, () => {
    for (const path of pathsOf(sample)) {
      const changes: [string, (item: unknown) => unknown][] = [
        ['of another type', (item) => (typeof item === 'string' ? 1 : 'x\u0000')],
        ['a nested array', () => [[]]],
      ];
      if (path.length > 0 && !Number.isInteger(Number(path.at(-1))))
        changes.push(['missing', () => undefined]);
      for (const [what, change] of changes) {
        assert.throws(
          () => parse(encode(withChange(sample, path, change))),
          coded('FORMAT_INVALID'),
          `${path.join('.')} ${what}`,
        );
      }
      const isObject = (item: unknown): item is object =>
        typeof item === 'object' && item !== null && !Array.isArray(item);
      let extended = false;
      const unknown = withChange(sample, path, (item) => {
        extended = isObject(item);
        return isObject(item) ? { ...item, surprise: 1 } : item;
      });
      if (extended)
        assert.throws(
          () => parse(encode(unknown)),
          coded('FORMAT_INVALID'),
          `${path.join('.')} with an unknown field`,
        );
    }
  });

  test(`${name}: negative, fractional, huge and non-finite numbers are refused`, () => {
    for (const path of pathsOf(sample)) {
      const values: number[] = [];
      withChange(sample, path, (item) => {
        if (typeof item === 'number') values.push(-1, 2 ** 60);
        if (Number.isInteger(item)) values.push(1.5);
        return item;
      });
      const real = path.join('.') === 'chain.blockTimeMs' || path.join('.') === 'pause.seconds';
      for (const value of values) {
        if (real && value > 0) continue;
        assert.throws(
          () => parse(encode(withChange(sample, path, () => value))),
          coded('FORMAT_INVALID', 'FORMAT_TOO_NEW'),
          `${path.join('.')} ${value}`,
        );
      }
    }
    const infinite = encode(sample)
      .toString()
      .replace(/(: ?)\d+(?=[,}\n])/, '$11e999');
    assert.throws(() => parse(Buffer.from(infinite)), coded('FORMAT_INVALID'));
  });

  test(`${name}: arbitrary bytes, arbitrary JSON and mutations cause nothing but a PresyncError`, () => {
    const valid = encode(sample);
    const input = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.json().map((text) => Buffer.from(text)),
      fc.tuple(fc.nat(valid.length - 1), fc.nat(255)).map(([at, value]) => {
        const bytes = Buffer.from(valid);
        bytes[at] = value;
        return bytes;
      }),
      fc
        .constantFrom(...pathsOf(sample))
        .chain((path) => fc.jsonValue().map((item) => encode(withChange(sample, path, () => item)))),
    );
    fc.assert(
      fc.property(input, (bytes) => {
        try {
          parse(bytes);
        } catch (error) {
          coded('FORMAT_INVALID', 'FORMAT_TOO_NEW')(error);
        }
      }),
      { numRuns: 1500 },
    );
  });

  test(`${name}: too large, a byte order mark, another kind, and bytes that are not UTF-8 are refused`, () => {
    const valid = encode(sample);
    const wrong = [
      Buffer.concat([valid, Buffer.alloc(MAX_DOCUMENT_SIZE, ' ')]),
      Buffer.concat([Buffer.from('\ufeff'), valid]),
      Buffer.concat([valid.subarray(0, -2), Buffer.from([0xff]), valid.subarray(-2)]),
      encode({ ...sample, presync: 'other' }),
      Buffer.from('null'),
      Buffer.alloc(0),
    ];
    for (const bytes of wrong) assert.throws(() => parse(bytes), coded('FORMAT_INVALID'));
  });
}

test('a newer version is FORMAT_TOO_NEW, whatever else changed in the document', () => {
  for (const { sample, parse, encode } of kinds.slice(0, 3)) {
    assert.throws(() => parse(encode({ ...sample, version: 2, surprise: 1 })), coded('FORMAT_TOO_NEW'));
  }
  const formats = [
    { version: 2, minReader: 1, features: [] },
    { version: 1, minReader: 2, features: [] },
    { version: 1, minReader: 1, features: ['packs'] },
    { version: 2, minReader: 2, features: ['packs'], more: 1 },
  ];
  for (const format of formats) {
    const bytes = Buffer.from(JSON.stringify({ ...manifest, format, sequence: 'x', surprise: 1 }));
    assert.throws(() => parseManifest(bytes, 'm'), coded('FORMAT_TOO_NEW'), JSON.stringify(format));
  }
});

test('small documents have one spelling: white space, key order and escapes cannot vary', () => {
  const text = encodeDocument(repository).toString();
  const spellings = [
    JSON.stringify(repository),
    `${text}\n`,
    text.replace('"repository"', '"\\u0072epository"'),
    encodeDocument(Object.fromEntries(Object.entries(repository).reverse())).toString(),
    text.replace('"version": 1', '"version": 1, "version": 1'),
  ];
  for (const spelling of spellings)
    assert.throws(() => parseRepository(Buffer.from(spelling), 'd'), coded('FORMAT_INVALID'));
});

test('chunk sizes are powers of two from 64 KiB to 64 MiB', () => {
  for (let size = 1; size <= 2 ** 30; size *= 2) {
    assert.equal(isChunkSize(size), size >= 65_536 && size <= 67_108_864);
    assert.equal(isChunkSize(size + 1), false);
  }
});

test('two parts never share a folder, in any letter case', () => {
  const [part] = manifest.node.parts;
  assert.ok(part);
  const node = { ...manifest.node, parts: [part, { ...part, path: part.path.toUpperCase() }] };
  assert.throws(
    () => parseManifest(Buffer.from(JSON.stringify({ ...manifest, node })), 'm'),
    coded('FORMAT_INVALID'),
  );
});

test('a manifest that does not follow the format is not written', () => {
  assert.throws(() => encodeManifest({ ...manifest, sequence: 0 }), coded('FORMAT_INVALID'));
  assert.deepEqual(parseManifest(encodeManifest(manifest), 'm'), manifest);
});

const expected = {
  now: new Date('2026-01-15T00:00:00Z'),
  repository: { id, sha256: digest },
  channel: manifest.channel,
  sequence: 7,
  sequenceFloor: 7,
  genesisHash: hash,
};

test('a manifest is accepted only where, when and for what it was made', () => {
  checkManifest(manifest, expected);
  checkManifest(
    { ...manifest, expires: null },
    { ...expected, now: new Date('2099-01-01T00:00:00Z'), genesisHash: undefined },
  );
  const other = `0x${'00'.repeat(32)}`;
  assert.throws(
    () => checkManifest(manifest, { ...expected, repository: { id: 'other', sha256: digest } }),
    coded('MANIFEST_CORRUPT'),
  );
  assert.throws(
    () => checkManifest(manifest, { ...expected, repository: { id, sha256: 'other' } }),
    coded('MANIFEST_CORRUPT'),
  );
  assert.throws(
    () => checkManifest(manifest, { ...expected, channel: 'polkadot/pruned' }),
    coded('MANIFEST_CORRUPT'),
  );
  assert.throws(() => checkManifest(manifest, { ...expected, sequence: 8 }), coded('MANIFEST_CORRUPT'));
  assert.throws(
    () => checkManifest(manifest, { ...expected, genesisHash: other }),
    coded('MANIFEST_FOREIGN'),
  );
  assert.throws(
    () => checkManifest(manifest, { ...expected, now: new Date('2026-02-01T00:00:00Z') }),
    coded('MANIFEST_EXPIRED'),
  );
  checkManifest(manifest, { ...expected, now: new Date('2026-01-31T23:59:59.999Z') });
  assert.throws(
    () => checkManifest(manifest, { ...expected, sequenceFloor: 8 }),
    coded('MANIFEST_ROLLED_BACK'),
  );
});

test('every time that the format accepts is an instant, so that no expiry is void', () => {
  const digits = (length: number): fc.Arbitrary<string> =>
    fc.stringMatching(new RegExp(`^[0-9]{${length}}$`));
  const text = fc
    .tuple(
      digits(4),
      digits(2),
      digits(2),
      digits(2),
      digits(2),
      fc.constantFrom('', ':00', ':59', ':60', ':00.5', `:00.${'9'.repeat(40)}`),
    )
    .map(([y, mo, d, h, mi, s]) => `${y}-${mo}-${d}T${h}:${mi}${s}Z`);
  const edge = fc.constantFrom(
    '2026-02-29T00:00:00Z',
    '2024-02-29T00:00:00Z',
    '2026-12-31T24:00:00Z',
    '0000-01-01T00:00:00Z',
  );
  fc.assert(
    fc.property(fc.oneof(text, edge), (expires) => {
      try {
        parseManifest(Buffer.from(JSON.stringify({ ...manifest, expires })), 'm');
      } catch (error) {
        coded('FORMAT_INVALID')(error);
        return;
      }
      assert.ok(Number.isFinite(Date.parse(expires)), expires);
    }),
    { numRuns: 3000 },
  );
});

test('paths and channels hold nothing that anything could read in a second way', () => {
  const bad = [
    '',
    '/',
    'a/',
    '/a',
    'a//b',
    '.',
    '..',
    'a/../b',
    './a',
    '-a',
    'a\\b',
    'a\u0000',
    'a b',
    'a\n',
    'é',
    'a:b',
    'a%2e',
    '~a',
    `${'a/'.repeat(128)}b`,
    'a'.repeat(129),
  ];
  for (const path of bad) {
    assert.equal(isSafePath(path), false, JSON.stringify(path));
    assert.throws(() => assertSafePath(path, 'p'), coded('PATH_UNSAFE'));
  }
  for (const path of ['a', 'a/b.c', 'a..b', '_/000123.sst', 'a'.repeat(128)])
    assert.equal(isSafePath(path), true, path);
  for (const channel of ['a', 'a/b/c', 'a/', '../b', 'a/..'])
    assert.equal(isChannel(channel), false, channel);
});
