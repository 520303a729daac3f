// zstd-codec ships no types. Its public classes collect a frame's whole output without a bound, so presync talks to the binding below them.
declare module 'zstd-codec/lib/module.js' {
  /** Each call returns false on failure. The bytes given to `sink` are valid during that call only. */
  export interface ZstdStream {
    transform(bytes: Uint8Array, sink: (bytes: Uint8Array) => void): boolean;
    end(sink: (bytes: Uint8Array) => void): boolean;
    /** Frees the WebAssembly memory of the stream. */
    delete(): void;
  }
  export interface Binding {
    ZstdCompressStreamBinding: new () => ZstdStream & { begin(level: number): boolean };
    ZstdDecompressStreamBinding: new () => ZstdStream & { begin(): boolean };
  }
  const module: { run(ready: (binding: Binding) => void): void };
  export default module;
}
