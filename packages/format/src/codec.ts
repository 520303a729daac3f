import * as zlib from 'node:zlib';
import { isPresyncError, messageOf, PresyncError } from '@presync/runtime/errors';
import { declareContentSize, inspectFrame, rawFrame } from './frame.ts';

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

/** The native codec where the runtime has one (Node 22.15 and later), WebAssembly elsewhere. */
export async function createCodec(): Promise<Codec> {
  return typeof zlib.zstdCompress === 'function' ? createNativeCodec() : createWasmCodec();
}

/** zstd in node:zlib; runs in the thread pool. */
export function createNativeCodec(): Codec {
  const { constants } = zlib;
  return {
    name: 'native',
    async encode(plain, { level }) {
      const compressed = await new Promise<Buffer>((resolve, reject) => {
        zlib.zstdCompress(
          plain,
          {
            // One output buffer that always suffices: the default of 16 KiB would cost hundreds of turns of the event loop.
            chunkSize: plain.length + (plain.length >> 8) + 1024,
            params: {
              [constants.ZSTD_c_compressionLevel]: level,
              [constants.ZSTD_c_checksumFlag]: 1,
              [constants.ZSTD_c_contentSizeFlag]: 1,
            },
            pledgedSrcSize: plain.length,
          },
          (error, result) => (error === null ? resolve(result) : reject(error)),
        );
      });
      return compressed.length > plain.length * WORTHWHILE ? rawFrame(plain, compressed) : compressed;
    },
    async decode(frame, { length, what }) {
      assertSize(inspectFrame(frame, what).contentSize, length, what);
      const plain = await new Promise<Buffer>((resolve, reject) => {
        zlib.zstdDecompress(frame, { chunkSize: Math.max(length, 64), maxOutputLength: Math.max(length, 1) }, (error, result) =>
          error === null ? resolve(result) : reject(corrupt(what, messageOf(error), error)),
        );
      });
      // node:zlib decodes the first frame only and reports no shortfall (nodejs/node#64741).
      assertSize(plain.length, length, what);
      return plain;
    },
  };
}

/** zstd-codec (WebAssembly), for runtimes without native zstd. Its frames carry no checksum; the format does not demand one. */
export async function createWasmCodec(): Promise<Codec> {
  const { ZstdCodec } = (await import('zstd-codec')).default;
  const zstd = await new Promise<import('zstd-codec').Zstd>((resolve) => ZstdCodec.run(resolve));
  // `Simple` aborts for lack of memory at 8 MiB; `Streaming` works at any size.
  const streaming = new zstd.Streaming();
  return {
    name: 'wasm',
    async encode(plain, { level }) {
      const frame = streaming.compress(plain, level);
      if (frame === null) throw new PresyncError('INTERNAL', 'zstd-codec could not compress a chunk');
      return declareContentSize(frame, plain.length);
    },
    async decode(frame, { length, what }) {
      assertSize(inspectFrame(frame, what).contentSize, length, what);
      let plain: Uint8Array | null;
      try {
        plain = streaming.decompress(frame, length);
      } catch (error) {
        throw isPresyncError(error) ? error : corrupt(what, messageOf(error), error);
      }
      if (plain === null) throw corrupt(what, 'it cannot be decoded');
      assertSize(plain.length, length, what);
      return plain;
    },
  };
}

function corrupt(what: string, why: string, cause?: unknown): PresyncError {
  return new PresyncError('CHUNK_CORRUPT', `${what} does not decode: ${why}`, {
    cause,
    hint: 'the object is damaged; take a new snapshot, or restore the object from a copy of the repository',
  });
}

function assertSize(actual: number, expected: number, what: string): void {
  if (actual !== expected) throw corrupt(what, `it holds ${actual} bytes of plaintext, and should hold ${expected}`);
}
