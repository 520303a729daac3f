import { Readable } from 'node:stream';
import * as zlib from 'node:zlib';
import { isPresyncError, messageOf, PresyncError } from '@presync/runtime/errors';
import { type ByteReader, createByteReader } from './lib/byte-reader.ts';

/** Zstandard_Frame and Skippable_Frame of RFC 8878, 3.1. */
const FRAME_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
/** 2 GiB, the most that `zstd --long=31` asks for; what is used is what the frame's own header says. */
const DEFAULT_WINDOW_LOG_MAX = 27;
/** Bytes of plaintext that come at a time. With zlib's own 16 KiB, what surrounds them costs more than they do. */
const PIECE = 256 * 1024;

export interface DecodeZstdOptions {
  /** What is decoded, for errors. */
  what: string;
  /** Largest window that a frame may ask for, as a power of two; it is held in memory. Default 27 (128 MiB), as in `zstd -d`. */
  windowLogMax?: number | undefined;
}

/**
 * Decodes a stream of zstd frames, one after the other, as `zstd -d` does. node:zlib ends after the first one without a word
 * (nodejs/node#64741), so the frames are told apart here, by their blocks' headers, and each gets a decoder of its own.
 *
 * @throws PresyncError FORMAT_INVALID when the stream is cut short or is not zstd.
 */
export async function* decodeZstd(
  source: AsyncIterable<Uint8Array>,
  { what, windowLogMax = DEFAULT_WINDOW_LOG_MAX }: DecodeZstdOptions,
): AsyncGenerator<Uint8Array> {
  const reader = createByteReader(source, what);
  while (!(await reader.atEnd())) {
    const magic = Buffer.from(await reader.exactly(4)).readUInt32LE();
    if ((magic & 0xfffffff0) >>> 0 === SKIPPABLE_MAGIC) {
      for await (const _ of reader.stretch(Buffer.from(await reader.exactly(4)).readUInt32LE()));
      continue;
    }
    if (magic !== FRAME_MAGIC) throw invalid(what, 'a frame does not begin like one');
    yield* decodeFrame(reader, what, windowLogMax);
  }
}

async function* decodeFrame(
  reader: ByteReader,
  what: string,
  windowLogMax: number,
): AsyncGenerator<Uint8Array> {
  const input = Readable.from(frameBytes(reader, what), { objectMode: false });
  const decoder = zlib.createZstdDecompress({
    chunkSize: PIECE,
    params: { [zlib.constants.ZSTD_d_windowLogMax]: windowLogMax },
  });
  input.on('error', (error) => decoder.destroy(error));
  input.pipe(decoder);
  try {
    for await (const piece of decoder) yield piece;
  } catch (error) {
    throw isPresyncError(error) ? error : invalid(what, messageOf(error), error);
  } finally {
    input.destroy();
  }
}

/** The bytes of one frame, whose magic number was read already. */
async function* frameBytes(reader: ByteReader, what: string): AsyncGenerator<Uint8Array> {
  const magic = Buffer.alloc(4);
  magic.writeUInt32LE(FRAME_MAGIC);
  yield magic;
  const descriptor = await reader.exactly(1);
  yield descriptor;
  const flags = descriptor[0] ?? 0;
  const singleSegment = (flags & 0x20) !== 0;
  const dictionaryLength = [0, 1, 2, 4][flags & 0x03] ?? 0;
  const sizeFlag = flags >> 6;
  const sizeLength = sizeFlag === 0 ? (singleSegment ? 1 : 0) : 1 << sizeFlag;
  yield await reader.exactly((singleSegment ? 0 : 1) + dictionaryLength + sizeLength);
  for (let last = false; !last; ) {
    const header = await reader.exactly(3);
    yield header;
    const word = Buffer.from(header).readUIntLE(0, 3);
    last = (word & 1) !== 0;
    const type = (word >> 1) & 0x03;
    if (type === 3) throw invalid(what, 'a block has the reserved type');
    yield* reader.stretch(type === 1 ? 1 : word >> 3);
  }
  if ((flags & 0x04) !== 0) yield await reader.exactly(4);
}

function invalid(what: string, why: string, cause?: unknown): PresyncError {
  return new PresyncError('FORMAT_INVALID', `${what} is no sound zstd stream: ${why}`, {
    cause,
    hint: 'get the file again; when it stays so, it is damaged where it comes from',
  });
}
