import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { zstdDecompressSync } from 'node:zlib';
import { createNativeCodec, createWasmCodec } from '@presync/format/codec';
import { sha256 } from '@presync/format/digest';
import { inspectFrame, rawFrame, rawFrameLength, rawFramePieces } from '@presync/format/frame';
import { MAX_CHUNK_OVERHEAD, MAX_CHUNK_SIZE, MAX_FRAME_OVERHEAD } from '@presync/format/limits';
import { KIB } from './support.ts';

const BLOCK = 128 * KIB;

test('a raw frame has the length that is foretold, is its pieces, and is read by both codecs and by zlib', async () => {
  const codecs = [createNativeCodec(), await createWasmCodec()];
  for (const length of [1, 511, 1024, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 4 * KIB * KIB + 1024]) {
    const plain = randomBytes(length);
    const frame = rawFrame(plain);
    assert.equal(frame.length, rawFrameLength(length));
    assert.equal(Buffer.compare(Buffer.concat([...rawFramePieces(plain)]), frame), 0, `${length}`);
    assert.deepEqual(inspectFrame(frame, 'frame'), { contentSize: length, checksum: false });
    assert.equal(Buffer.compare(zstdDecompressSync(frame), plain), 0);
    for (const codec of codecs)
      assert.equal(
        Buffer.compare(await codec.decode(frame, { length, what: 'frame' }), plain),
        0,
        codec.name,
      );
    // It is handed to another thread, which must not take a neighbour's bytes along.
    assert.equal(frame.buffer.byteLength, frame.length);
  }
});

test('the bytes of a raw frame never change: other machines ask for them by size and digest', async () => {
  const plain = Buffer.alloc(300 * KIB);
  for (let at = 0; at < plain.length; at++) plain[at] = (at * 31 + (at >> 8)) & 0xff;
  assert.equal(rawFrame(plain).subarray(0, 13).toString('hex'), '28b52ffd803800b00400000010');
  assert.equal(
    await sha256(rawFrame(plain)),
    '0a2d572d357324c5e4c25f1e276884995bdcb597c73cfc879cae41c098d4354c',
  );
});

test('the largest chunk fits into what a reader allows', () => {
  const plain = MAX_CHUNK_SIZE + MAX_CHUNK_OVERHEAD;
  assert.ok(rawFrameLength(plain) <= plain + MAX_FRAME_OVERHEAD);
});
