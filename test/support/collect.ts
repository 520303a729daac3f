/** All bytes of a stream, for tests whose streams are short. */
export async function collect(source: AsyncIterable<unknown>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of source) {
    if (!(piece instanceof Uint8Array)) throw new TypeError('not bytes');
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}
