import { PresyncError } from '@presync/runtime/errors';
import { decodeGzip } from './gzip-stream.ts';
import { type ByteReader, createByteReader } from './lib/byte-reader.ts';
import { decodeLz4 } from './lz4-stream.ts';
import { TAR_BLOCK } from './tar.ts';
import { decodeZstd } from './zstd-stream.ts';

/** How a tar archive is compressed. */
export type Compression = 'none' | 'zstd' | 'lz4' | 'gzip';

/** A stream whose first bytes were looked at. */
export interface RecognizedArchive {
  /** Undefined when it is nothing that is read here. */
  compression: Compression | undefined;
  /** The stream decoded, once. Rejects with FORMAT_INVALID when it is damaged, or nothing that is read here. */
  plain(): AsyncGenerator<Uint8Array>;
}

/** zstd and LZ4 share the frames that decoders pass over. */
const SKIPPABLE = 0x184d2a50;

const MAGICS: readonly (readonly [
  name: string,
  compression: Compression | undefined,
  at: number,
  bytes: string,
])[] = [
  ['zstd', 'zstd', 0, '\x28\xb5\x2f\xfd'],
  ['LZ4', 'lz4', 0, '\x04\x22\x4d\x18'],
  ['gzip', 'gzip', 0, '\x1f\x8b\x08'],
  ['tar', 'none', 257, 'ustar'],
  ['the legacy form of LZ4', undefined, 0, '\x02\x21\x4c\x18'],
  ['xz', undefined, 0, '\xfd7zXZ\0'],
  ['bzip2', undefined, 0, 'BZh'],
  ['zip', undefined, 0, 'PK\x03\x04'],
  ['7-Zip', undefined, 0, "7z\xbc\xaf'\x1c"],
];

/**
 * Tells by the first bytes, never by a name, how an archive is compressed. Frames that hold nothing are passed over first, as
 * parallel compressors write them in front.
 */
export async function recognizeArchive(
  source: AsyncIterable<Uint8Array>,
  { what }: { what: string },
): Promise<RecognizedArchive> {
  const reader = createByteReader(source, what);
  let head = await lookAt(reader);
  while (head.length >= 8 && (head.readUInt32LE() & 0xfffffff0) >>> 0 === SKIPPABLE) {
    await reader.exactly(4);
    for await (const _ of reader.stretch(Buffer.from(await reader.exactly(4)).readUInt32LE()));
    head = await lookAt(reader);
  }
  const found = MAGICS.find(([, , at, bytes]) => head.toString('latin1', at, at + bytes.length) === bytes);
  const compression = found?.[1];
  const guess = found?.[0] ?? guessOf(head);
  return {
    compression,
    plain() {
      switch (compression) {
        case undefined:
          throw unreadable(what, guess);
        case 'none':
          return reader.rest();
        case 'zstd':
          return decodeZstd(reader.rest(), { what });
        case 'lz4':
          return decodeLz4(reader.rest(), { what });
        case 'gzip':
          return decodeGzip(reader.rest(), { what });
      }
    },
  };
}

async function lookAt(reader: ByteReader): Promise<Buffer> {
  return Buffer.from(await reader.peek(TAR_BLOCK));
}

function guessOf(head: Buffer): string {
  if (head.length === 0) return 'nothing at all';
  const text = head.toString('latin1').trimStart();
  if (/^<(?:!doctype|html|\?xml)/i.test(text)) return 'a web page';
  if (/^[{[]/.test(text)) return 'JSON';
  return 'something else';
}

function unreadable(what: string, guess: string): PresyncError {
  return new PresyncError(
    'FORMAT_INVALID',
    `${what} is ${guess}, not a tar archive, plain or with zstd, LZ4 or gzip`,
    { hint: 'look at the address; an archive in another form can be unpacked and packed again with tar' },
  );
}
