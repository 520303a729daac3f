import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { recognizeArchive } from '@presync/format/archive-stream';
import { isPresyncError } from '@presync/runtime/errors';
import fc from 'fast-check';
import { pack } from 'tar-stream';
import { collectBytes } from '../../../test/support/collect.ts';
import { hasProgram, needs } from '../../../test/support/needs.ts';
import { coded } from './support.ts';

async function* pieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function decode(bytes: Uint8Array, size = 64 * 1024): Promise<{ compression: unknown; plain: Buffer }> {
  const found = await recognizeArchive(pieces(bytes, size), { what: 'the archive' });
  return { compression: found.compression, plain: await collectBytes(found.plain()) };
}

async function tar(files: Record<string, Buffer>): Promise<Buffer> {
  const archive = pack();
  for (const [name, bytes] of Object.entries(files)) archive.entry({ name }, bytes);
  archive.finalize();
  return collectBytes(archive);
}

const PLAIN = await tar({ 'db/full/CURRENT': Buffer.from('MANIFEST-000001\n'), big: randomBytes(300_000) });
const [FIRST, SECOND] = [PLAIN.subarray(0, 100_000), PLAIN.subarray(100_000)];

function skippable(length: number): Buffer {
  const frame = Buffer.alloc(8 + length, 0xee);
  frame.writeUInt32LE(0x184d2a50 + (length % 16), 0);
  frame.writeUInt32LE(length, 4);
  return frame;
}

function lz4(plain: Buffer): Buffer {
  const { status, stdout } = spawnSync('lz4', ['-z', '-c'], { input: plain, maxBuffer: 2 ** 28 });
  assert.equal(status, 0);
  return stdout;
}

test('a tar archive is known by its bytes, in whatever pieces they come', async () => {
  for (const [compression, bytes] of [
    ['none', PLAIN],
    ['zstd', zstdCompressSync(PLAIN)],
    [
      'zstd',
      Buffer.concat([skippable(4), skippable(70_000), zstdCompressSync(FIRST), zstdCompressSync(SECOND)]),
    ],
    ['gzip', gzipSync(PLAIN)],
    ['gzip', Buffer.concat([gzipSync(FIRST), gzipSync(Buffer.alloc(0)), gzipSync(SECOND)])],
  ] as const) {
    for (const size of [997, 64 * 1024, 1_000_000]) {
      const found = await decode(bytes, size);
      assert.equal(found.compression, compression);
      assert.ok(found.plain.equals(PLAIN), `${compression} in pieces of ${size}`);
    }
  }
});

test('LZ4 is known, also behind frames that hold nothing', needs('lz4', hasProgram('lz4')), async () => {
  for (const bytes of [lz4(PLAIN), Buffer.concat([skippable(3), lz4(FIRST), lz4(SECOND)])]) {
    const found = await decode(bytes, 999);
    assert.equal(found.compression, 'lz4');
    assert.ok(found.plain.equals(PLAIN));
  }
});

test('what is none is named', async () => {
  for (const [bytes, name] of [
    [Buffer.alloc(0), /nothing at all/],
    [Buffer.from('<!DOCTYPE html><title>404'), /a web page/],
    [Buffer.from('\n <html>'), /a web page/],
    [Buffer.from('{"error": "no"}'), /JSON/],
    [Buffer.from('\xfd7zXZ\0xxxx', 'latin1'), /xz/],
    [Buffer.from('BZh91AY'), /bzip2/],
    [Buffer.from('PK\x03\x04'), /zip/],
    [Buffer.from('\x02\x21\x4c\x18', 'latin1'), /legacy form of LZ4/],
    [Buffer.from('some words'), /something else/],
    [Buffer.alloc(2000), /something else/],
  ] as const) {
    await assert.rejects(decode(bytes), (error) => {
      coded('FORMAT_INVALID')(error);
      assert.match(String(error), name);
      return true;
    });
  }
});

test('a gzip stream that is cut short, damaged, or goes on after its end is refused', async () => {
  const one = gzipSync(FIRST);
  const two = Buffer.concat([one, gzipSync(SECOND)]);
  for (const length of [
    1,
    5,
    11,
    100,
    one.length - 8,
    one.length - 1,
    one.length + 1,
    one.length + 9,
    two.length - 1,
  ]) {
    // The first bytes alone are not even known for gzip.
    for (const size of [997, 1_000_000])
      await assert.rejects(decode(two.subarray(0, length), size), coded('FORMAT_INVALID'), `${length} bytes`);
  }
  for (const tail of [Buffer.from('garbage'), Buffer.alloc(1), Buffer.alloc(512), Buffer.from([0, 1, 2])]) {
    const cut = [1_000_000, two.length, one.length, 4096];
    for (const size of cut)
      await assert.rejects(
        decode(Buffer.concat([two, tail]), size),
        coded('FORMAT_INVALID'),
        `${tail.length}, ${size}`,
      );
  }
  // The checksum and the length that follow the content.
  for (const back of [8, 5, 4, 1]) {
    const damaged = Buffer.from(one);
    damaged[one.length - back] = (damaged[one.length - back] ?? 0) ^ 1;
    await assert.rejects(decode(damaged), coded('FORMAT_INVALID'), `byte ${back} from the end`);
  }
});

test('what goes wrong at the source is passed on as it is', async () => {
  const broken = async function* (): AsyncGenerator<Uint8Array> {
    yield zstdCompressSync(PLAIN).subarray(0, 1000);
    throw Object.assign(new Error('no route'), { code: 'ENETUNREACH' });
  };
  const found = await recognizeArchive(broken(), { what: 'the archive' });
  await assert.rejects(collectBytes(found.plain()), /no route/);
});

test('no bytes make it throw anything else, or hang', async () => {
  const heads = [zstdCompressSync(FIRST), gzipSync(FIRST), PLAIN, skippable(5), Buffer.alloc(0)];
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...heads),
      fc.nat(600),
      fc.uint8Array({ maxLength: 300 }),
      fc.integer({ min: 1, max: 700 }),
      async (head, at, noise, size) => {
        try {
          await decode(Buffer.concat([head.subarray(0, at), noise]), size);
        } catch (error) {
          assert.ok(isPresyncError(error, 'FORMAT_INVALID'), String(error));
        }
      },
    ),
    { numRuns: 500 },
  );
});
