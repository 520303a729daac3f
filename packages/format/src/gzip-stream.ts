import { Readable } from 'node:stream';
import * as zlib from 'node:zlib';
import { isPresyncError, messageOf, PresyncError } from '@presync/runtime/errors';

/** Bytes of plaintext that come at a time. */
const PIECE = 256 * 1024;

/**
 * Decodes a stream of gzip members, one after the other, and checks their checksums. node:zlib reads several by itself, but ends
 * without a word at a zero byte after one of them, so what it took is counted.
 *
 * @throws PresyncError FORMAT_INVALID when the stream is cut short, damaged, not gzip, or goes on after its end.
 */
export async function* decodeGzip(
  source: AsyncIterable<Uint8Array>,
  { what }: { what: string },
): AsyncGenerator<Uint8Array> {
  const decoder = zlib.createGunzip({ chunkSize: PIECE });
  let given = 0;
  let ended = false;
  async function* counted(): AsyncGenerator<Uint8Array> {
    for await (const piece of source) {
      given += piece.length;
      yield piece;
    }
    ended = true;
  }
  const input = Readable.from(counted(), { objectMode: false });
  input.on('error', (error) => decoder.destroy(error));
  input.pipe(decoder);
  try {
    for await (const piece of decoder) yield piece;
  } catch (error) {
    throw isPresyncError(error) ? error : invalid(what, messageOf(error), error);
  } finally {
    input.destroy();
  }
  if (!ended || decoder.bytesWritten !== given) throw invalid(what, 'something follows its end');
}

function invalid(what: string, why: string, cause?: unknown): PresyncError {
  return new PresyncError('FORMAT_INVALID', `${what} is no sound gzip stream: ${why}`, {
    cause,
    hint: 'get the file again; when it stays so, it is damaged where it comes from',
  });
}
