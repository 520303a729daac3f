// zstd-codec ships no types.
declare module 'zstd-codec' {
  export interface Zstd {
    Streaming: new () => {
      /** Null on failure. */
      compress(content: Uint8Array, level: number): Uint8Array | null;
      /** Null on failure. `sizeHint`: expected bytes of plaintext. */
      decompress(frame: Uint8Array, sizeHint?: number): Uint8Array | null;
    };
  }
  const codec: { ZstdCodec: { run(ready: (zstd: Zstd) => void): void } };
  export default codec;
}
