import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { decodeLz4 } from '@presync/format/lz4-stream';
import { isPresyncError } from '@presync/runtime/errors';
import fc from 'fast-check';
import { needs } from '../../../test/support/needs.ts';
import { xxh32 } from '../src/lib/xxh32.ts';

const HAS_LZ4 = spawnSync('lz4', ['--version']).status === 0;

/** A frame as the lz4 command writes it, frozen so that the tests do without the command: 64 KiB blocks, linked, with content checksum. */
const FROZEN = Buffer.from('BCJNGGRApw8AAABpaGVsbG8gBgBQZWxsbwoAAAAA4v8DQg==', 'base64');

async function* pieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function decode(bytes: Uint8Array, size = 64 * 1024): Promise<Buffer> {
  const found: Uint8Array[] = [];
  for await (const piece of decodeLz4(pieces(bytes, size), { what: 'the stream' })) found.push(piece);
  return Buffer.concat(found);
}

function lz4(plain: Buffer, args: string[]): Buffer {
  const { status, stdout } = spawnSync('lz4', ['-z', '-c', ...args], { input: plain, maxBuffer: 2 ** 28 });
  assert.equal(status, 0);
  return stdout;
}

test('XXH32 is that of its specification', () => {
  assert.equal(xxh32(Buffer.alloc(0)), 0x02cc5d05);
  assert.equal(xxh32(Buffer.from('a')), 0x550d7456);
  assert.equal(xxh32(Buffer.from('abc')), 0x32d153ff);
  assert.equal(xxh32(Buffer.from('Nobody inspects the spammish repetition')), 0xe2293b2f);
});

test('a frame that the lz4 command wrote is read', async () => {
  assert.equal((await decode(FROZEN, 3)).toString(), 'hello hello hello hello\n');
});

test('what the lz4 command writes is read, in each of its forms', needs('lz4', HAS_LZ4), async () => {
  const plains = [
    Buffer.alloc(0),
    Buffer.from('hello hello hello hello\n'),
    Buffer.alloc(5_000_000),
    randomBytes(700_000),
    Buffer.from('block 0x1234 of the chain; '.repeat(100_000)),
    Buffer.concat([randomBytes(70_000), Buffer.alloc(70_000, 7), randomBytes(10)]),
  ];
  for (const args of [[], ['-9'], ['-B4'], ['-B4', '-BD'], ['-BX'], ['--no-frame-crc'], ['-BD', '-9']]) {
    for (const plain of plains) {
      const frames = Buffer.concat([lz4(plain, args), lz4(Buffer.from('tail'), args)]);
      const expected = Buffer.concat([plain, Buffer.from('tail')]);
      for (const size of [997, 1_000_000])
        assert.ok((await decode(frames, size)).equals(expected), `${args.join(' ')}, ${plain.length} bytes`);
    }
  }
});

test('a stream that is cut short or damaged is refused', needs('lz4', HAS_LZ4), async () => {
  const stream = lz4(Buffer.from('some text that repeats, some text that repeats, '.repeat(20)), ['-BX']);
  for (let length = 1; length < stream.length; length++)
    await assert.rejects(
      decode(stream.subarray(0, length)),
      (error) => isPresyncError(error, 'FORMAT_INVALID'),
      `${length}`,
    );
  for (let at = 0; at < stream.length; at++) {
    const damaged = Buffer.from(stream);
    damaged[at] = (damaged[at] ?? 0) ^ 0x10;
    await assert.rejects(decode(damaged), (error) => isPresyncError(error, 'FORMAT_INVALID'), `byte ${at}`);
  }
});

test('a match that reaches before the beginning is refused, also where no checksum would tell', async () => {
  const flags = Buffer.from([0x60, 0x40]);
  // One literal, a match of four bytes at the distance, and the five literals that end every block.
  const frame = (distance: number): Buffer => {
    const block = Buffer.from([0x10, 0x61, distance, 0x00, 0x50, 0x62, 0x62, 0x62, 0x62, 0x62]);
    const size = Buffer.alloc(4);
    size.writeUInt32LE(block.length);
    const header = [Buffer.from([0x04, 0x22, 0x4d, 0x18]), flags, Buffer.from([(xxh32(flags) >>> 8) & 0xff])];
    return Buffer.concat([...header, size, block, Buffer.alloc(4)]);
  };
  assert.equal((await decode(frame(1))).toString(), 'aaaaabbbbb');
  for (const distance of [0, 2, 200])
    await assert.rejects(decode(frame(distance)), { code: 'FORMAT_INVALID' });
});

test('no bytes make it throw anything else, or hang', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), fc.nat(FROZEN.length), async (noise, at) => {
      try {
        await decode(Buffer.concat([FROZEN.subarray(0, at), noise]), 13);
      } catch (error) {
        assert.ok(isPresyncError(error, 'FORMAT_INVALID'), String(error));
      }
    }),
    { numRuns: 1000 },
  );
});
