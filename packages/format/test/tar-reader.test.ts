import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { readTar, safeEntryPath } from '@presync/format/tar-reader';
import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import fc from 'fast-check';
import { type Header, pack } from 'tar-stream';
import { collectBytes } from '../../../test/support/collect.ts';
import { hasProgram, needs } from '../../../test/support/needs.ts';
import { coded } from './support.ts';

const what = 'the archive';

async function* pieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function read(bytes: Uint8Array, size = 64 * 1024): Promise<Record<string, Buffer>> {
  const found: Record<string, Buffer> = {};
  for await (const file of readTar(pieces(bytes, size), { what })) {
    const content = await collectBytes(file.content);
    assert.equal(content.length, file.size);
    found[file.path] = content;
  }
  return found;
}

type Part = Partial<Header> & Pick<Header, 'name'> & { content?: Buffer | undefined };

/** An archive as tar-stream packs it, without its end when that is not wanted. */
async function tar(parts: readonly Part[], end = true): Promise<Buffer> {
  const archive = pack();
  for (const { content, ...header } of parts) {
    if (content === undefined) archive.entry(header);
    else archive.entry(header, content);
  }
  archive.finalize();
  const bytes = await collectBytes(archive);
  return end ? bytes : bytes.subarray(0, bytes.length - 1024);
}

const GOOD: Part[] = [
  { name: 'db/', type: 'directory' },
  { name: 'db/full/000001.sst', content: randomBytes(70_000) },
  { name: 'db/full/zeros', content: Buffer.alloc(5000) },
  { name: 'db/full/empty', content: Buffer.alloc(0) },
  { name: `db/full/${'long'.repeat(60)}`, content: Buffer.from('long') },
  { name: 'db/full/CURRENT', content: Buffer.from('MANIFEST-000001\n') },
];
const EXPECTED = Object.fromEntries(
  GOOD.flatMap(({ name, content }) => (content === undefined ? [] : [[name, content]])),
);

const scratch = mkdtempSync(join(tmpdir(), 'presync-tar-reader-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

test('the files of an archive are given with their content, in whatever pieces it comes', async () => {
  const bytes = await tar(GOOD);
  for (const size of [1, 511, 512, 513, 10_240, 1_000_000])
    assert.deepEqual(await read(bytes, size), EXPECTED);
});

test('content that nobody reads is passed over', async () => {
  const bytes = await tar(GOOD);
  const paths: string[] = [];
  for await (const { path } of readTar(pieces(bytes, 700), { what })) paths.push(path);
  assert.deepEqual(paths, Object.keys(EXPECTED));
});

for (const [name, program, args] of [
  ['GNU tar', 'tar', ['-cf', '-']],
  ['GNU tar, its own form', 'tar', ['--format=gnu', '-cf', '-']],
  ['GNU tar, POSIX', 'tar', ['--format=posix', '-cf', '-']],
  ['bsdtar', 'bsdtar', ['-cf', '-']],
  ['busybox tar', 'busybox', ['tar', '-cf', '-']],
] as const) {
  test(`what ${name} writes is read`, needs(name, hasProgram(program)), async () => {
    const dir = join(scratch, name.replaceAll(/\W/g, '-'));
    for (const [path, content] of Object.entries(EXPECTED)) {
      mkdirSync(dirname(join(dir, path)), { recursive: true });
      writeFileSync(join(dir, path), content);
    }
    for (const top of ['.', 'db']) {
      const { status, stdout } = spawnSync(program, [...args, '-C', dir, top], { maxBuffer: 2 ** 28 });
      assert.equal(status, 0);
      assert.deepEqual(await read(stdout), EXPECTED);
    }
  });
}

test('an archive that is cut short anywhere is refused', async () => {
  // The last file is all zeros, so that its end looks like the archive's.
  const bytes = await tar([...GOOD.slice(2, 4), { name: 'db/full/zeros2', content: Buffer.alloc(2048) }]);
  for (let length = 0; length < bytes.length; length += 256)
    await assert.rejects(
      read(bytes.subarray(0, length)),
      coded('FORMAT_INVALID'),
      `${length} of ${bytes.length}`,
    );
  for (const length of [1, 513, bytes.length - 1, bytes.length - 513, bytes.length - 1023])
    await assert.rejects(read(bytes.subarray(0, length)), coded('FORMAT_INVALID'), `${length}`);
});

test('what follows the end is refused, unless it is zeros', async () => {
  const bytes = await tar(GOOD);
  const more = await tar([{ name: 'more', content: Buffer.from('more') }]);
  assert.deepEqual(await read(Buffer.concat([bytes, Buffer.alloc(10_240)])), EXPECTED);
  const odd = Buffer.alloc(512);
  // tar-stream does not look at the checksum's own bytes of an empty block.
  odd[150] = 1;
  for (const tail of [
    Buffer.from('garbage'),
    randomBytes(512),
    randomBytes(5120),
    more,
    Buffer.concat([Buffer.alloc(512), more]),
    Buffer.alloc(100),
    odd,
    Buffer.concat([Buffer.alloc(512), odd, Buffer.alloc(512)]),
  ]) {
    for (const size of [512, 1000, 1_000_000])
      await assert.rejects(
        read(Buffer.concat([bytes, tail]), size),
        coded('FORMAT_INVALID'),
        `${tail.length}`,
      );
  }
  // Entries behind an end in the middle.
  const middle = Buffer.concat([await tar(GOOD.slice(0, 2), false), Buffer.alloc(1024), more]);
  for (const size of [100, 512, 4096, 1_000_000])
    await assert.rejects(read(middle, size), coded('FORMAT_INVALID'));
});

test('a bit of a header that is not what it was is seen', async () => {
  const bytes = await tar(GOOD.slice(1, 2));
  for (let bit = 0; bit < 512 * 8; bit++) {
    const damaged = Buffer.from(bytes);
    damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    try {
      // The checksum's own field has bytes that say nothing.
      assert.deepEqual(await read(damaged), await read(bytes), `bit ${bit}`);
      assert.ok(bit >> 3 >= 148 && bit >> 3 < 156, `bit ${bit}`);
    } catch (error) {
      coded('FORMAT_INVALID', 'ARCHIVE_UNFIT', 'PATH_UNSAFE')(error);
    }
  }
});

test('names that would leave the folder are refused', async () => {
  for (const name of [
    '../x',
    'a/../../x',
    '/etc/passwd',
    '//x',
    'a/..',
    '..',
    './../x',
    'db/full/../CURRENT',
    'a\0b',
  ])
    assert.throws(() => safeEntryPath(name, what), coded('PATH_UNSAFE'), name);
  for (const [name, path] of [
    ['./a//b/./c', 'a/b/c'],
    ['.', ''],
    ['./', ''],
    ['a/', 'a'],
    ['..a/b..', '..a/b..'],
  ] as const)
    assert.equal(safeEntryPath(name, what), path);
  for (const name of ['../CURRENT', '/CURRENT', 'db/../../CURRENT', `${'d/'.repeat(200)}../../x`])
    await assert.rejects(read(await tar([{ name, content: Buffer.from('x') }])), coded('PATH_UNSAFE'), name);
  await assert.rejects(read(await tar([{ name: '../dir', type: 'directory' }])), coded('PATH_UNSAFE'));
});

test('links, devices and forms of GNU tar are refused', async () => {
  for (const part of [
    { name: 'db/full/CURRENT', type: 'symlink', linkname: '/etc/passwd' },
    { name: 'db/full/CURRENT', type: 'link', linkname: '../../keystore/key' },
    { name: 'db/full/000001.sst', type: 'character-device', devmajor: 1, devminor: 8 },
    { name: 'db/full/000001.sst', type: 'block-device', devmajor: 8, devminor: 0 },
    { name: 'db/full/000001.log', type: 'fifo' },
    { name: 'a', content: Buffer.from('0\n'), pax: { 'GNU.sparse.major': '1' } },
  ] as const) {
    const bytes = await tar([...GOOD.slice(0, 2), part, ...GOOD.slice(2)]);
    await assert.rejects(read(bytes), coded('ARCHIVE_UNFIT'), part.name);
  }
});

test("a sparse file in GNU tar's form is refused", needs('GNU tar', hasProgram('tar')), async () => {
  const dir = join(scratch, 'sparse');
  mkdirSync(dir);
  const size = 4 << 20;
  const file = openSync(join(dir, 'table_00_00'), 'w');
  ftruncateSync(file, size);
  writeSync(file, 'something', 1 << 20);
  closeSync(file);
  for (const format of ['gnu', 'posix']) {
    const { stdout } = spawnSync('tar', ['-S', `--format=${format}`, '-cf', '-', '-C', dir, '.'], {
      maxBuffer: 2 ** 28,
    });
    // Where the file system has no holes, there is nothing to be seen.
    if (stdout.length > size) continue;
    await assert.rejects(read(stdout), coded('ARCHIVE_UNFIT'), format);
  }
});

test('sizes that cannot be are refused', async () => {
  for (const size of ['99999999999999999999', '-5', 'x', '1e3'])
    await assert.rejects(
      read(await tar([{ name: 'a', content: Buffer.from('abc'), pax: { size } }])),
      coded('FORMAT_INVALID'),
      size,
    );
});

test('what goes wrong at the source is passed on as it is', async () => {
  const bytes = await tar(GOOD);
  for (const at of [0, 100, 600, 30_000]) {
    const broken = async function* (): AsyncGenerator<Uint8Array> {
      yield bytes.subarray(0, at);
      throw new PresyncError('STORE_UNREACHABLE', 'gone');
    };
    await assert.rejects(
      (async () => {
        for await (const file of readTar(broken(), { what })) await collectBytes(file.content);
      })(),
      coded('STORE_UNREACHABLE'),
      `after ${at} bytes`,
    );
  }
});

test('a reader that has enough lets go of the source', async () => {
  const bytes = await tar(GOOD);
  let closed = false;
  const source = async function* (): AsyncGenerator<Uint8Array> {
    try {
      for (;;) yield bytes.subarray(0, bytes.length - 1024);
    } finally {
      closed = true;
    }
  };
  for await (const _ of readTar(source(), { what })) break;
  await new Promise((resolve) => setImmediate(resolve));
  assert.ok(closed);
});

const SEED = await tar(GOOD.slice(0, 4));

test('no bytes make it throw anything else, or hang', async () => {
  const blocks = fc.array(
    fc.oneof(
      fc.record({ kind: fc.constant('seed' as const), at: fc.nat(SEED.length), length: fc.nat(3000) }),
      fc.record({ kind: fc.constant('zero' as const), length: fc.nat(2000) }),
      fc.record({ kind: fc.constant('noise' as const), bytes: fc.uint8Array({ maxLength: 700 }) }),
      fc.record({ kind: fc.constant('header' as const), header: headers() }),
    ),
    { maxLength: 8 },
  );
  await fc.assert(
    fc.asyncProperty(blocks, fc.integer({ min: 1, max: 3000 }), async (parts, size) => {
      const bytes: Buffer[] = [];
      for (const part of parts) {
        if (part.kind === 'seed') bytes.push(SEED.subarray(part.at, part.at + part.length));
        else if (part.kind === 'zero') bytes.push(Buffer.alloc(part.length));
        else if (part.kind === 'noise') bytes.push(Buffer.from(part.bytes));
        else bytes.push(part.header);
      }
      try {
        await read(Buffer.concat(bytes), size);
      } catch (error) {
        assert.ok(
          isPresyncError(error) && ['FORMAT_INVALID', 'PATH_UNSAFE', 'ARCHIVE_UNFIT'].includes(error.code),
          String(error),
        );
      }
    }),
    { numRuns: 1500 },
  );
});

/** Header blocks with a right checksum and fields of any kind. */
function headers(): fc.Arbitrary<Buffer> {
  const field = (length: number): fc.Arbitrary<Buffer> =>
    fc.oneof(
      fc.uint8Array({ minLength: length, maxLength: length }).map((bytes) => Buffer.from(bytes)),
      fc
        .nat(5000)
        .map((n) => Buffer.from(`${n.toString(8).padStart(length - 1, '0')}\0`.slice(-length), 'latin1')),
      fc.constant(Buffer.alloc(length)),
    );
  return fc
    .record({
      name: fc.oneof(
        fc.string({ maxLength: 100 }),
        fc.constantFrom('a', '../a', '/a', 'db/full/CURRENT', './'),
      ),
      size: field(12),
      mtime: field(12),
      type: fc.constantFrom(...'01234567xgLKSVDMZ', '\0'),
      magic: fc.constantFrom('ustar\x0000', 'ustar  \0', '\0\0\0\0\0\0\0\0'),
      prefix: fc.string({ maxLength: 155 }),
    })
    .map(({ name, size, mtime, type, magic, prefix }) => {
      const block = Buffer.alloc(512);
      block.write(name, 0, 100);
      size.copy(block, 124);
      mtime.copy(block, 136);
      block.write(type, 156, 'latin1');
      block.write(magic, 257, 'latin1');
      block.write(prefix, 345, 155);
      block.fill(' ', 148, 156);
      const sum = block.reduce((total, byte) => total + byte, 0);
      block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
      return block;
    });
}
