import { PresyncError } from '@presync/runtime/errors';
import { type ByteReader, createByteReader } from './lib/byte-reader.ts';
import { createXxh32, xxh32 } from './lib/xxh32.ts';

/**
 * The LZ4 frame format, for reading archives that others publish. Written from its description (github.com/lz4/lz4,
 * doc/lz4_Frame_format.md and lz4_Block_format.md), since the packages for it are either abandoned or native add-ons,
 * which cannot be part of a single executable.
 */

const FRAME_MAGIC = 0x184d2204;
const SKIPPABLE_MAGIC = 0x184d2a50;
/** Block maximum sizes by their code in the BD byte. */
const BLOCK_SIZES: Readonly<Record<number, number>> = {
  4: 64 * 1024,
  5: 256 * 1024,
  6: 1024 * 1024,
  7: 4 * 1024 * 1024,
};
/** How far back a match may reach. */
const HISTORY = 64 * 1024;
const MIN_MATCH = 4;

/**
 * Decodes a stream of LZ4 frames, and checks the checksums that they carry.
 *
 * @throws PresyncError FORMAT_INVALID when the stream is cut short, damaged, or not LZ4.
 */
export async function* decodeLz4(
  source: AsyncIterable<Uint8Array>,
  { what }: { what: string },
): AsyncGenerator<Uint8Array> {
  const reader = createByteReader(source, what);
  while (!(await reader.atEnd())) {
    const magic = await uint32(reader);
    if ((magic & 0xfffffff0) >>> 0 === SKIPPABLE_MAGIC) {
      for await (const _ of reader.stretch(await uint32(reader)));
      continue;
    }
    if (magic !== FRAME_MAGIC) throw invalid(what, 'a frame does not begin like one');
    yield* decodeFrame(reader, what);
  }
}

async function* decodeFrame(reader: ByteReader, what: string): AsyncGenerator<Uint8Array> {
  const { blockSize, independent, blockChecksums, contentChecksum } = await readHeader(reader, what);
  // What matches may refer to, and the block behind it.
  const window = Buffer.alloc(HISTORY + blockSize);
  let history = 0;
  const content = createXxh32();
  for (;;) {
    const word = await uint32(reader);
    if (word === 0) break;
    const stored = word & 0x7fffffff;
    if (stored > blockSize) throw invalid(what, 'a block is larger than the frame allows');
    const block = await reader.exactly(stored);
    if (blockChecksums && (await uint32(reader)) !== xxh32(block))
      throw invalid(what, 'a block has another checksum');
    if (independent) history = 0;
    let end: number;
    if ((word & 0x80000000) !== 0) {
      window.set(block, history);
      end = history + stored;
    } else {
      end = decodeBlock(block, window, history, history + blockSize, what);
    }
    const plain = Uint8Array.from(window.subarray(history, end));
    if (contentChecksum) content.update(plain);
    yield plain;
    history = Math.min(HISTORY, end);
    window.copyWithin(0, end - history, end);
  }
  if (contentChecksum && (await uint32(reader)) !== content.digest())
    throw invalid(what, 'its content has another checksum');
}

interface Header {
  blockSize: number;
  independent: boolean;
  blockChecksums: boolean;
  contentChecksum: boolean;
}

async function readHeader(reader: ByteReader, what: string): Promise<Header> {
  const [flags = 0, bd = 0] = await reader.exactly(2);
  if (flags >> 6 !== 1) throw invalid(what, 'a frame of an unknown version');
  const optional = await reader.exactly(((flags & 0x08) !== 0 ? 8 : 0) + ((flags & 0x01) !== 0 ? 4 : 0));
  const [checksum = 0] = await reader.exactly(1);
  if (((xxh32(Buffer.concat([Buffer.from([flags, bd]), optional])) >>> 8) & 0xff) !== checksum)
    throw invalid(what, "a frame's header has another checksum");
  if ((flags & 0x01) !== 0) throw invalid(what, 'it needs a dictionary');
  const blockSize = BLOCK_SIZES[(bd >> 4) & 0x07];
  if (blockSize === undefined) throw invalid(what, 'a frame with an unknown block size');
  return {
    blockSize,
    independent: (flags & 0x20) !== 0,
    blockChecksums: (flags & 0x10) !== 0,
    contentChecksum: (flags & 0x04) !== 0,
  };
}

/** Decodes a block into `out` from `start` on, and gives where it ends, at most `limit`. */
function decodeBlock(block: Uint8Array, out: Buffer, start: number, limit: number, what: string): number {
  let from = 0;
  let to = start;
  const damaged = (): PresyncError => invalid(what, 'a block is damaged');
  const lengthOf = (nibble: number): number => {
    let length = nibble;
    if (nibble === 15) {
      for (let more = 255; more === 255; length += more) {
        if (from >= block.length) throw damaged();
        more = block[from++] ?? 0;
      }
    }
    return length;
  };
  while (from < block.length) {
    const token = block[from++] ?? 0;
    const literals = lengthOf(token >> 4);
    if (from + literals > block.length || to + literals > limit) throw damaged();
    out.set(block.subarray(from, from + literals), to);
    from += literals;
    to += literals;
    // The last sequence has literals only.
    if (from === block.length) return to;
    if (from + 2 > block.length) throw damaged();
    const distance = (block[from] ?? 0) | ((block[from + 1] ?? 0) << 8);
    from += 2;
    const length = lengthOf(token & 0x0f) + MIN_MATCH;
    if (distance === 0 || distance > to || to + length > limit) throw damaged();
    if (distance >= length) out.copyWithin(to, to - distance, to - distance + length);
    // The match overlaps what it writes: byte by byte, as the format means it.
    else for (let n = 0; n < length; n++) out[to + n] = out[to + n - distance] ?? 0;
    to += length;
  }
  throw damaged();
}

async function uint32(reader: ByteReader): Promise<number> {
  return Buffer.from(await reader.exactly(4)).readUInt32LE();
}

function invalid(what: string, why: string): PresyncError {
  return new PresyncError('FORMAT_INVALID', `${what} is no sound LZ4 stream: ${why}`, {
    hint: 'get the file again; when it stays so, it is damaged where it comes from',
  });
}
