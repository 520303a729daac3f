import { PresyncError } from '@presync/runtime/errors';

/** Reads a stream of pieces by numbers of bytes. */
export interface ByteReader {
  /** True when nothing is left. */
  atEnd(): Promise<boolean>;
  /** Exactly so many bytes; meant for few. Rejects with FORMAT_INVALID when the stream is shorter. */
  exactly(length: number): Promise<Uint8Array>;
  /** The next `length` bytes in whatever pieces they come. */
  stretch(length: number): AsyncGenerator<Uint8Array>;
  /** The next bytes without taking them: as many as asked for, or all that are left. Meant for few. */
  peek(length: number): Promise<Uint8Array>;
  /** All that is left. */
  rest(): AsyncGenerator<Uint8Array>;
}

export function createByteReader(source: AsyncIterable<Uint8Array>, what: string): ByteReader {
  const pieces = source[Symbol.asyncIterator]();
  let rest: Uint8Array = new Uint8Array(0);

  async function fill(): Promise<boolean> {
    while (rest.length === 0) {
      const next = await pieces.next();
      if (next.done === true) return false;
      rest = next.value;
    }
    return true;
  }

  async function take(most: number): Promise<Uint8Array> {
    if (!(await fill())) {
      throw new PresyncError('FORMAT_INVALID', `${what} is cut short`, {
        hint: 'get the file again; when it stays so, it is damaged where it comes from',
      });
    }
    const taken = rest.subarray(0, most);
    rest = rest.subarray(taken.length);
    return taken;
  }

  return {
    atEnd: async () => !(await fill()),
    async exactly(length) {
      const first = length === 0 ? new Uint8Array(0) : await take(length);
      if (first.length === length) return first;
      const bytes = Buffer.alloc(length);
      bytes.set(first);
      for (let at = first.length; at < length; ) {
        const more = await take(length - at);
        bytes.set(more, at);
        at += more.length;
      }
      return bytes;
    },
    async *stretch(length) {
      for (let left = length; left > 0; ) {
        const piece = await take(left);
        left -= piece.length;
        yield piece;
      }
    },
    async peek(length) {
      while (rest.length < length) {
        const next = await pieces.next();
        if (next.done === true) break;
        rest = rest.length === 0 ? next.value : Buffer.concat([rest, next.value]);
      }
      return rest.subarray(0, length);
    },
    async *rest() {
      while (await fill()) yield await take(Number.POSITIVE_INFINITY);
    },
  };
}
