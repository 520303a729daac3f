/** All that a stream gives, for tests whose streams are short. */
export async function collect<T>(source: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const one of source) found.push(one);
  return found;
}

/** All bytes of a stream. */
export async function collectBytes(source: AsyncIterable<unknown>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for (const piece of await collect(source)) {
    if (!(piece instanceof Uint8Array)) throw new TypeError('not bytes');
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}
