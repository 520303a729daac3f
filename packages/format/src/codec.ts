import { promisify } from 'node:util';
import * as zlib from 'node:zlib';
import { isPresyncError, messageOf, PresyncError } from '@presync/runtime/errors';
import { declareContentSize, inspectFrame, rawFrame } from './frame.ts';
import { discard } from './memory.ts';

/** Encodes and decodes single zstd frames that declare their content size. */
export interface Codec {
  readonly name: 'native' | 'wasm';
  /** One frame of `plain`; raw blocks when compressing gains less than 3 %. */
  encode(plain: Uint8Array, options: { level: number }): Promise<Uint8Array>;
  /**
   * The plaintext of `frame`, exactly `length` bytes. Rejects with CHUNK_CORRUPT, naming `what`, when the bytes are not one frame
   * of that plaintext size; never allocates more than `length` bytes for a frame's output.
   */
  decode(frame: Uint8Array, options: { length: number; what: string }): Promise<Uint8Array>;
}

/** Level 3 is zstd's own default; see `docs/decisions` for what others cost and gain on chain data. */
export const DEFAULT_LEVEL = 3;

/** Compressed frames must be at most this share of the plaintext; otherwise the frame is raw, which decodes at the speed of a copy. */
const WORTHWHILE = 0.97;

/** Where the native codec works: in libuv's thread pool, or in the thread that calls it, as a worker thread wants it. */
export type CodecPlace = 'pool' | 'caller';

/** The native codec where the runtime has one (Node 22.15 and later), WebAssembly elsewhere. */
export async function createCodec(place: CodecPlace = 'pool'): Promise<Codec> {
  return typeof zlib.zstdCompress === 'function' ? createNativeCodec(place) : createWasmCodec();
}

/**
 * zstd in node:zlib. In the caller's thread it compresses about a third faster, because the synchronous call hands zstd the whole
 * input at once; see `docs/decisions`.
 */
export function createNativeCodec(place: CodecPlace = 'pool'): Codec {
  const compress =
    place === 'caller'
      ? async (...args: Call) => zlib.zstdCompressSync(...args)
      : promisify(zlib.zstdCompress);
  const decompress =
    place === 'caller'
      ? async (...args: Call) => zlib.zstdDecompressSync(...args)
      : promisify(zlib.zstdDecompress);
  const { constants } = zlib;
  return {
    name: 'native',
    async encode(plain, { level }) {
      const compressed = await compress(plain, {
        // One output buffer that always suffices: the default of 16 KiB would cost hundreds of turns of the event loop.
        chunkSize: plain.length + (plain.length >> 8) + 1024,
        params: {
          [constants.ZSTD_c_compressionLevel]: level,
          [constants.ZSTD_c_checksumFlag]: 1,
          [constants.ZSTD_c_contentSizeFlag]: 1,
        },
        pledgedSrcSize: plain.length,
      });
      if (compressed.length <= plain.length * WORTHWHILE) return compressed;
      const raw = rawFrame(plain, compressed);
      discard(compressed);
      return raw;
    },
    async decode(frame, { length, what }) {
      assertSize(inspectFrame(frame, what).contentSize, length, what);
      let plain: Buffer;
      try {
        plain = await decompress(frame, {
          // One byte to spare: an output buffer that is exactly full has zlib allocate another one of its size.
          chunkSize: Math.max(length + 1, 64),
          maxOutputLength: Math.max(length, 1),
        });
      } catch (error) {
        throw corrupt(what, messageOf(error), error);
      }
      // node:zlib decodes the first frame only and reports no shortfall (nodejs/node#64741).
      assertSize(plain.length, length, what);
      return plain;
    },
  };
}

type Call = [bytes: Uint8Array, options: zlib.ZstdOptions];

/** Bytes that the WebAssembly codec is given at once: its memory is fixed at 16 MiB, so a whole chunk may not fit in it. */
const ENCODE_SLICE = 128 * 1024;
/** Smaller, since a slice of a hostile frame may unfold to as much as 128 KiB for each four bytes before it can be stopped. */
const DECODE_SLICE = 4 * 1024;

/** zstd-codec (WebAssembly), for runtimes without native zstd. Its frames carry no checksum; the format does not demand one. */
export async function createWasmCodec(): Promise<Codec> {
  const { run } = (await import('zstd-codec/lib/module.js')).default;
  // Boxed: the binding has a `then` of its own that calls back with itself, so a promise of it would never settle.
  const { binding } = await new Promise<{ binding: import('zstd-codec/lib/module.js').Binding }>((resolve) =>
    run((ready) => resolve({ binding: ready })),
  );
  return {
    name: 'wasm',
    async encode(plain, { level }) {
      const parts: Uint8Array[] = [];
      const stream = new binding.ZstdCompressStreamBinding();
      let complete = false;
      try {
        const sink = (bytes: Uint8Array): void => void parts.push(Uint8Array.from(bytes));
        complete =
          stream.begin(level) && feed(stream, plain, ENCODE_SLICE, sink, () => false) && stream.end(sink);
      } catch (error) {
        throw new PresyncError('INTERNAL', `zstd-codec could not compress a chunk: ${messageOf(error)}`, {
          cause: error,
        });
      } finally {
        stream.delete();
      }
      if (!complete) throw new PresyncError('INTERNAL', 'zstd-codec could not compress a chunk');
      const frame = declareContentSize(Buffer.concat(parts), plain.length);
      return frame.length > plain.length * WORTHWHILE ? rawFrame(plain, frame) : frame;
    },
    async decode(frame, { length, what }) {
      assertSize(inspectFrame(frame, what).contentSize, length, what);
      const plain = new Uint8Array(length);
      let at = 0;
      const sink = (bytes: Uint8Array): void => {
        if (at + bytes.length <= length) plain.set(bytes, at);
        at += bytes.length;
      };
      const stream = new binding.ZstdDecompressStreamBinding();
      let complete = false;
      try {
        complete =
          stream.begin() && feed(stream, frame, DECODE_SLICE, sink, () => at > length) && stream.end(sink);
      } catch (error) {
        throw isPresyncError(error) ? error : corrupt(what, messageOf(error), error);
      } finally {
        stream.delete();
      }
      if (at > length) throw corrupt(what, `it unfolds to more than ${length} bytes`);
      if (!complete) throw corrupt(what, 'it cannot be decoded');
      assertSize(at, length, what);
      return plain;
    },
  };
}

/** Gives `bytes` to a stream slice by slice until `stop` says so; false when the stream fails or was stopped. */
function feed(
  stream: import('zstd-codec/lib/module.js').ZstdStream,
  bytes: Uint8Array,
  slice: number,
  sink: (bytes: Uint8Array) => void,
  stop: () => boolean,
): boolean {
  for (let at = 0; at < bytes.length; at += slice) {
    if (!stream.transform(bytes.subarray(at, at + slice), sink) || stop()) return false;
  }
  return true;
}

function corrupt(what: string, why: string, cause?: unknown): PresyncError {
  return new PresyncError('CHUNK_CORRUPT', `${what} does not decode: ${why}`, {
    cause,
    hint: 'the object is damaged; take a new snapshot, or restore the object from a copy of the repository',
  });
}

function assertSize(actual: number, expected: number, what: string): void {
  if (actual !== expected)
    throw corrupt(what, `it holds ${actual} bytes of plaintext, and should hold ${expected}`);
}
