import { PresyncError } from '@presync/runtime/errors';

/**
 * The zstd frame (RFC 8878), as far as presync must know it: to refuse a frame that lies about its size before a decoder allocates
 * anything, to see that there is exactly one, and to write an uncompressed one.
 */

const MAGIC = 0xfd2fb528;
/** Block_Maximum_Size of RFC 8878, 3.1.1.2.4. */
const MAX_BLOCK = 128 * 1024;
const CHECKSUM_LENGTH = 4;

export interface FrameInfo {
  /** Bytes of plaintext that the frame declares. */
  contentSize: number;
  checksum: boolean;
}

/**
 * Walks the whole frame without decoding it. Rejects with CHUNK_CORRUPT unless `bytes` is exactly one frame, without dictionary, that
 * declares a content size. `what` names the object in the error.
 */
export function inspectFrame(bytes: Uint8Array, what: string): FrameInfo {
  const bad = (why: string): PresyncError =>
    new PresyncError('CHUNK_CORRUPT', `${what} is not a well-formed zstd frame: ${why}`, {
      hint: 'the object is damaged; take a new snapshot, or restore the object from a copy of the repository',
    });
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 9 || view.getUint32(0, true) !== MAGIC) throw bad('it does not begin like one');
  const descriptor = view.getUint8(4);
  const sizeFlag = descriptor >> 6;
  const singleSegment = (descriptor & 0x20) !== 0;
  const checksum = (descriptor & 0x04) !== 0;
  if ((descriptor & 0x08) !== 0) throw bad('a reserved bit is set');
  if ((descriptor & 0x03) !== 0) throw bad('it needs a dictionary');
  let at = singleSegment ? 5 : 6;
  const sizeLength = sizeFlag === 0 ? (singleSegment ? 1 : 0) : 1 << sizeFlag;
  if (sizeLength === 0) throw bad('it declares no content size');
  if (at + sizeLength > bytes.length) throw bad('it is cut short');
  const contentSize = readSize(view, at, sizeLength);
  at += sizeLength;
  // What raw and RLE blocks unfold to stands in their headers: a run of RLE blocks is the cheapest bomb (32,768 : 1).
  let plainSize = 0;
  for (;;) {
    if (at + 3 > bytes.length) throw bad('it is cut short');
    const header = view.getUint8(at) | (view.getUint8(at + 1) << 8) | (view.getUint8(at + 2) << 16);
    const type = (header >> 1) & 0x03;
    const size = header >> 3;
    if (type === 3) throw bad('a block has the reserved type');
    if (size > MAX_BLOCK) throw bad('a block is too large');
    if (type !== 2) plainSize += size;
    if (plainSize > contentSize)
      throw bad(`it unfolds to more than the ${contentSize} bytes that it declares`);
    at += 3 + (type === 1 ? 1 : size);
    if ((header & 1) !== 0) break;
  }
  if (checksum) at += CHECKSUM_LENGTH;
  if (at > bytes.length) throw bad('it is cut short');
  if (at < bytes.length) throw bad(`${bytes.length - at} bytes follow it`);
  return { contentSize, checksum };
}

function readSize(view: DataView, at: number, length: number): number {
  switch (length) {
    case 1:
      return view.getUint8(at);
    case 2:
      return view.getUint16(at, true) + 256;
    case 4:
      return view.getUint32(at, true);
    default:
      return Number(view.getBigUint64(at, true));
  }
}

/** Bytes of the header that `writeHeader` writes: magic, descriptor, window, four bytes of content size. */
const HEADER_LENGTH = 10;

/** Window_Descriptor of 128 KiB (exponent 7 above 2^10): the least that blocks of MAX_BLOCK need. */
const SMALL_WINDOW = 7 << 3;

/**
 * A header with a four-byte content size. Raw blocks refer to nothing before them, so the window is as small as it may be: a
 * single-segment frame would make a streaming decoder hold the whole chunk.
 */
function writeHeader(frame: Buffer, contentSize: number, checksum: boolean): void {
  frame.writeUInt32LE(MAGIC, 0);
  frame.writeUInt8(0x80 | (checksum ? 0x04 : 0), 4);
  frame.writeUInt8(SMALL_WINDOW, 5);
  frame.writeUInt32LE(contentSize, 6);
}

/** Bytes of a block's header. */
const BLOCK_HEADER_LENGTH = 3;

function blocksOf(length: number): number {
  return Math.max(1, Math.ceil(length / MAX_BLOCK));
}

/** Bytes of the frame that `rawFramePieces` gives for so much plaintext. */
export function rawFrameLength(length: number): number {
  return HEADER_LENGTH + blocksOf(length) * BLOCK_HEADER_LENGTH + length;
}

/**
 * A frame of raw blocks around `plain`, piece by piece, without a checksum. Its bytes follow from the plaintext alone: whoever has the
 * plaintext knows the frame's size and digest, on every machine and with every version of zstd.
 */
export function* rawFramePieces(plain: Uint8Array): Generator<Uint8Array> {
  yield* framePieces(plain, undefined);
}

function* framePieces(plain: Uint8Array, checksum: Uint8Array | undefined): Generator<Uint8Array> {
  const header = Buffer.alloc(HEADER_LENGTH);
  writeHeader(header, plain.length, checksum !== undefined);
  yield header;
  const blocks = blocksOf(plain.length);
  for (let block = 0; block < blocks; block++) {
    const start = block * MAX_BLOCK;
    const size = Math.min(MAX_BLOCK, plain.length - start);
    const head = Buffer.alloc(BLOCK_HEADER_LENGTH);
    head.writeUIntLE((size << 3) | (block === blocks - 1 ? 1 : 0), 0, BLOCK_HEADER_LENGTH);
    yield head;
    yield plain.subarray(start, start + size);
  }
  if (checksum !== undefined) yield checksum;
}

/**
 * A frame of raw blocks around `plain`, in memory of its own. `compressed` is a frame of the same plaintext; when it carries a checksum, its
 * last four bytes (the low half of the plaintext's XXH64) serve this frame as well, otherwise this one carries none either.
 */
export function rawFrame(plain: Uint8Array, compressed?: Uint8Array): Buffer<ArrayBuffer> {
  const checksum =
    compressed !== undefined && ((compressed[4] ?? 0) & 0x04) !== 0
      ? compressed.subarray(compressed.length - CHECKSUM_LENGTH)
      : undefined;
  const frame = Buffer.allocUnsafeSlow(rawFrameLength(plain.length) + (checksum?.length ?? 0));
  let at = 0;
  for (const piece of framePieces(plain, checksum)) {
    frame.set(piece, at);
    at += piece.length;
  }
  return frame;
}

/**
 * Gives a frame from an encoder that streams (and so does not know the size when it writes the header) a header that declares
 * the content size. Only the header changes; blocks never refer to it.
 */
export function declareContentSize(frame: Uint8Array, contentSize: number): Buffer {
  const descriptor = frame[4] ?? 0;
  const windowed = (descriptor & 0x20) === 0;
  if (!windowed || descriptor >> 6 !== 0) return Buffer.from(frame);
  const header = Buffer.alloc(10);
  header.writeUInt32LE(MAGIC, 0);
  header.writeUInt8(0x80 | (descriptor & 0x04), 4);
  header.writeUInt8(frame[5] ?? 0, 5);
  header.writeUInt32LE(contentSize, 6);
  return Buffer.concat([header, frame.subarray(6)]);
}
