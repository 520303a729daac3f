import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { zstdDecompressSync } from 'node:zlib';
import { type Codec, createNativeCodec, createWasmCodec } from '@presync/format/codec';
import { inspectFrame } from '@presync/format/frame';
import fc from 'fast-check';
import { coded, KIB } from './support.ts';

const native = createNativeCodec();
const wasm = await createWasmCodec();
const codecs = [native, wasm];
const MIB = KIB * KIB;
const WINDOW_128K = 7 << 3;

const refuses = (codec: Codec, frame: Uint8Array, length: number): Promise<void> =>
  assert.rejects(codec.decode(frame, { length, what: 'chunk c' }), coded('CHUNK_CORRUPT'));

/** A frame header that is not single-segment, with a four-byte content size. */
function header(contentSize: number, window = WINDOW_128K): Buffer {
  const bytes = Buffer.alloc(10);
  bytes.writeUInt32LE(0xfd2fb528, 0);
  bytes.writeUInt8(0x80, 4);
  bytes.writeUInt8(window, 5);
  bytes.writeUInt32LE(contentSize, 6);
  return bytes;
}

function block(type: 0 | 1 | 2 | 3, size: number, last: boolean, body: Uint8Array): Buffer {
  const head = Buffer.alloc(3);
  head.writeUIntLE((size << 3) | (type << 1) | (last ? 1 : 0), 0, 3);
  return Buffer.concat([head, body]);
}

/** Blocks of 131,071 bytes each in eight bytes of frame: RLE literals and no sequences (RFC 8878, 3.1.1.3.1). */
const UNFOLDED = 131_071;
function compressedBlocks(count: number): Buffer {
  const body = Buffer.alloc(5);
  body.writeUIntLE((UNFOLDED << 4) | (3 << 2) | 1, 0, 3);
  body.writeUInt8(65, 3);
  return Buffer.concat(Array.from({ length: count }, (_, i) => block(2, body.length, i === count - 1, body)));
}

const plaintexts: Record<string, Buffer> = {
  empty: Buffer.alloc(0),
  'one byte': Buffer.from('x'),
  text: Buffer.from('presync '.repeat(5000)),
  zeros: Buffer.alloc(4 * MIB),
  random: randomBytes(3 * 128 * KIB + 17),
  'one block of random bytes': randomBytes(128 * KIB),
  'more random bytes than the memory of the WebAssembly codec': randomBytes(20 * MIB),
};

for (const [what, plain] of Object.entries(plaintexts)) {
  for (const encoder of codecs) {
    test(`${what}: a frame by ${encoder.name} is sound and is read by both codecs and by zlib`, async () => {
      const frame = await encoder.encode(plain, { level: 3 });
      assert.equal(inspectFrame(frame, 'frame').contentSize, plain.length);
      for (const decoder of codecs) {
        const decoded = await decoder.decode(frame, { length: plain.length, what: 'frame' });
        assert.equal(Buffer.compare(decoded, plain), 0, decoder.name);
      }
      assert.equal(Buffer.compare(zstdDecompressSync(frame), plain), 0);
    });
  }
}

test('frames of any bytes round trip through both codecs', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.uint8Array({ maxLength: 5000 }),
      fc.constantFrom(...codecs),
      fc.constantFrom(...codecs),
      async (plain, a, b) => {
        const frame = await a.encode(plain, { level: 3 });
        assert.deepEqual(
          Buffer.from(await b.decode(frame, { length: plain.length, what: 'frame' })),
          Buffer.from(plain),
        );
      },
    ),
  );
});

test('what compressing does not shrink by 3 % becomes raw blocks; native frames carry a checksum', async () => {
  const random = randomBytes(300 * KIB);
  for (const codec of codecs) {
    const frame = Buffer.from(await codec.encode(random, { level: 3 }));
    assert.ok(frame.includes(random.subarray(0, 128 * KIB)), codec.name);
    assert.ok(frame.length - random.length <= 10 + 3 * 3 + 4);
    assert.equal(inspectFrame(frame, 'frame').checksum, codec === native);
  }
  assert.equal(inspectFrame(await native.encode(Buffer.alloc(1000), { level: 3 }), 'frame').checksum, true);
});

for (const codec of codecs) {
  test(`${codec.name}: every flip of a bit in a small frame is CHUNK_CORRUPT, or leaves a plaintext of the right length`, async () => {
    for (const plain of [Buffer.from('presync '.repeat(40)), randomBytes(200)]) {
      const frame = await native.encode(plain, { level: 3 });
      for (let bit = 0; bit < frame.length * 8; bit++) {
        const flipped = Buffer.from(frame);
        flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        try {
          const decoded = await codec.decode(flipped, { length: plain.length, what: 'frame' });
          // The frame's checksum sees changed content; a flip may still turn it off or leave the content alone.
          if (inspectFrame(flipped, 'frame').checksum)
            assert.equal(Buffer.compare(decoded, plain), 0, `bit ${bit}`);
          assert.equal(decoded.length, plain.length);
        } catch (error) {
          coded('CHUNK_CORRUPT')(error);
        }
      }
    }
  });

  test(`${codec.name}: a frame cut short at any byte, or followed by anything, is CHUNK_CORRUPT`, async () => {
    const plain = Buffer.from('presync '.repeat(40));
    const frame = await codec.encode(plain, { level: 3 });
    for (let length = 0; length < frame.length; length++)
      await refuses(codec, frame.subarray(0, length), plain.length);
    const skippable = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9]);
    for (const tail of [Buffer.from([0]), frame, skippable]) {
      await refuses(codec, Buffer.concat([frame, tail]), plain.length);
      await refuses(codec, Buffer.concat([frame, tail]), plain.length * 2);
    }
    await refuses(codec, skippable, 1);
    await refuses(codec, Buffer.concat([skippable, frame]), plain.length);
  });

  test(`${codec.name}: frames that lie about their content size, or state none, are CHUNK_CORRUPT`, async () => {
    const body = block(0, 5, true, Buffer.from('hello'));
    assert.equal(
      Buffer.from(await codec.decode(Buffer.concat([header(5), body]), { length: 5, what: 'f' })).toString(),
      'hello',
    );
    for (const [stated, asked] of [
      [4, 4],
      [6, 6],
      [5, 4],
      [5, 6],
      [0, 0],
      [0xffffffff, 5],
    ] as const) {
      await refuses(codec, Buffer.concat([header(stated), body]), asked);
    }
    const unstated = Buffer.concat([Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, WINDOW_128K]), body]);
    await refuses(codec, unstated, 5);
    const huge = Buffer.concat([Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0xe0]), Buffer.alloc(8, 0xff), body]);
    await refuses(codec, huge, 5);
  });

  test(`${codec.name}: dictionaries, reserved bits and reserved blocks are CHUNK_CORRUPT`, async () => {
    const body = block(0, 5, true, Buffer.from('hello'));
    for (const flag of [1, 2, 3, 8]) {
      const head = header(5);
      head.writeUInt8(0x80 | flag, 4);
      await refuses(codec, Buffer.concat([head, body]), 5);
      await refuses(
        codec,
        Buffer.concat([head.subarray(0, 6), Buffer.alloc(flag === 3 ? 4 : flag), head.subarray(6), body]),
        5,
      );
    }
    await refuses(codec, Buffer.concat([header(5), block(3, 5, true, Buffer.from('hello'))]), 5);
    await refuses(codec, Buffer.concat([header(MIB), block(1, 128 * KIB + 1, true, Buffer.from('x'))]), MIB);
  });

  test(`${codec.name}: a window of any size costs no more memory than the content`, async () => {
    for (let exponent = 8; exponent < 32; exponent++) {
      const frame = Buffer.concat([header(5, exponent << 3), block(0, 5, true, Buffer.from('hello'))]);
      const before = process.memoryUsage().rss;
      try {
        assert.equal((await codec.decode(frame, { length: 5, what: 'f' })).length, 5);
      } catch (error) {
        coded('CHUNK_CORRUPT')(error);
      }
      assert.ok(process.memoryUsage().rss - before < 100 * MIB, `window 2^${exponent + 10}`);
    }
  });

  test(`${codec.name}: a frame that unfolds to gigabytes stops at the stated length`, async () => {
    const claim = 32 * UNFOLDED;
    const bombs = {
      rle: Buffer.concat([
        header(claim),
        ...Array.from({ length: 20_000 }, (_, i) => block(1, 128 * KIB, i === 19_999, Buffer.from('A'))),
      ]),
      compressed: Buffer.concat([header(claim), compressedBlocks(20_000)]),
    };
    const honest = Buffer.concat([header(claim), compressedBlocks(32)]);
    assert.equal((await codec.decode(honest, { length: claim, what: 'f' })).length, claim);
    for (const [kind, bomb] of Object.entries(bombs)) {
      const before = process.memoryUsage().rss;
      await refuses(codec, bomb, claim);
      const grown = process.memoryUsage().rss - before;
      assert.ok(grown < 150 * MIB, `${kind}: ${grown} bytes`);
    }
  });

  test(`${codec.name}: arbitrary bytes never cause anything but CHUNK_CORRUPT, and the codec works on after`, async () => {
    const magic = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);
    const bytes = fc.uint8Array({ maxLength: 200 });
    const input = fc.oneof(
      bytes,
      bytes.map((rest) => Buffer.concat([magic, rest])),
      bytes.map((rest) => Buffer.concat([header(100), block(2, rest.length, true, rest)])),
    );
    await fc.assert(
      fc.asyncProperty(input, async (frame) => {
        await codec.decode(frame, { length: 100, what: 'f' }).then(
          (plain) => assert.equal(plain.length, 100),
          (error: unknown) => void coded('CHUNK_CORRUPT')(error),
        );
      }),
      { numRuns: 1000 },
    );
    const plain = Buffer.from('still works');
    const frame = await codec.encode(plain, { level: 3 });
    assert.deepEqual(Buffer.from(await codec.decode(frame, { length: plain.length, what: 'f' })), plain);
  });
}

test('what a frame may not be is seen without decoding it', () => {
  const body = block(0, 5, true, Buffer.from('hello'));
  const flagged = header(5);
  flagged.writeUInt8(0x81, 4);
  const withDictionary = Buffer.concat([flagged.subarray(0, 6), Buffer.alloc(1), flagged.subarray(6), body]);
  assert.throws(() => inspectFrame(withDictionary, 'f'), /dictionary/);
  const runs = Array.from({ length: 3 }, (_, i) => block(1, 128 * KIB, i === 2, Buffer.from('A')));
  assert.equal(inspectFrame(Buffer.concat([header(3 * 128 * KIB), ...runs]), 'f').contentSize, 3 * 128 * KIB);
  assert.throws(() => inspectFrame(Buffer.concat([header(2 * 128 * KIB), ...runs]), 'f'), /unfolds to more/);
  assert.throws(() => inspectFrame(Buffer.concat([header(4), body]), 'f'), /unfolds to more/);
});
