import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { constants, zstdCompressSync } from 'node:zlib';
import { decodeZstd } from '@presync/format/zstd-stream';
import { isPresyncError } from '@presync/runtime/errors';
import fc from 'fast-check';

const CHECKSUM = { params: { [constants.ZSTD_c_checksumFlag]: 1 } };

async function* pieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function decode(bytes: Uint8Array, size = 64 * 1024): Promise<Buffer> {
  const found: Uint8Array[] = [];
  for await (const piece of decodeZstd(pieces(bytes, size), { what: 'the stream' })) found.push(piece);
  return Buffer.concat(found);
}

/** A frame that decoders pass over: pzstd writes them. */
function skippable(length: number): Buffer {
  const frame = Buffer.alloc(8 + length, 0xee);
  frame.writeUInt32LE(0x184d2a50 + (length % 16), 0);
  frame.writeUInt32LE(length, 4);
  return frame;
}

test('every frame of a stream is decoded, whatever the pieces', async () => {
  const parts = [
    randomBytes(300_000),
    Buffer.alloc(1_000_000),
    Buffer.from('text '.repeat(50_000)),
    Buffer.alloc(0),
    Buffer.from('x'),
  ];
  const frames = parts.flatMap((part, index) => [
    zstdCompressSync(part, index % 2 === 0 ? CHECKSUM : {}),
    skippable(index * 7),
  ]);
  const expected = Buffer.concat(parts);
  for (const size of [1009, 64 * 1024, 10_000_000])
    assert.ok((await decode(Buffer.concat(frames), size)).equals(expected), `pieces of ${size}`);
  assert.equal((await decode(Buffer.alloc(0))).length, 0);
});

test('a stream that is cut short, or is none, is refused', async () => {
  const stream = Buffer.concat([
    zstdCompressSync(Buffer.from('first '.repeat(100)), CHECKSUM),
    zstdCompressSync(randomBytes(500), CHECKSUM),
  ]);
  const first = zstdCompressSync(Buffer.from('first '.repeat(100)), CHECKSUM).length;
  for (let length = 1; length < stream.length; length++) {
    if (length === first) continue;
    await assert.rejects(
      decode(stream.subarray(0, length), 7),
      (error) => isPresyncError(error, 'FORMAT_INVALID'),
      `${length}`,
    );
  }
  await assert.rejects(decode(Buffer.concat([stream, Buffer.from('junk')])), { code: 'FORMAT_INVALID' });
  const damaged = Buffer.from(stream);
  damaged[stream.length - 20] = (damaged[stream.length - 20] ?? 0) ^ 1;
  await assert.rejects(decode(damaged), { code: 'FORMAT_INVALID' });
});

test('no bytes make it throw anything else, or hang', async () => {
  const prefix = zstdCompressSync(Buffer.from('something'), CHECKSUM);
  await fc.assert(
    fc.asyncProperty(
      fc.uint8Array({ maxLength: 300 }),
      fc.nat(40),
      fc.integer({ min: 1, max: 50 }),
      async (noise, at, size) => {
        const bytes = Buffer.concat([prefix.subarray(0, at), noise]);
        try {
          await decode(bytes, size);
        } catch (error) {
          assert.ok(isPresyncError(error, 'FORMAT_INVALID'), String(error));
        }
      },
    ),
    { numRuns: 500 },
  );
});

test('a frame that asks for more memory than allowed is refused', async () => {
  // Window_Descriptor 0xa8: exponent 21, a window of 2 GiB.
  const header = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00]);
  await assert.rejects(decode(header), { code: 'FORMAT_INVALID' });
});
