/**
 * The bounds that every reader enforces before it trusts a number, so that a hostile or damaged repository cannot make
 * it use unbounded memory or time. They are part of the format: a writer that exceeds them writes what nobody can read.
 */

/** The smallest and largest chunk size that a repository may choose, bytes. Both are powers of two, and so is every size between. */
export const MIN_CHUNK_SIZE = 64 * 1024;
export const MAX_CHUNK_SIZE = 64 * 1024 * 1024;

/** A chunk's plaintext may exceed the chunk size by its file's tar header (at most 3 blocks) and padding. */
export const MAX_CHUNK_OVERHEAD = 4096;

/** A frame may exceed its plaintext by headers: 3 bytes for each block of 128 KiB, and 18 for the frame. zstd's own bound is larger. */
export const MAX_FRAME_OVERHEAD = 64 * 1024;

/** Files in one snapshot. A 10 TB RocksDB database of 64 MiB tables has about 160,000. */
export const MAX_FILES = 1_000_000;

/** Chunks in one snapshot: 16 TiB at 4 MiB. */
export const MAX_CHUNKS = 4_194_304;

/** Bytes of one file; tar's base-256 sizes reach further, JavaScript's exact integers do not. */
export const MAX_FILE_SIZE = Number.MAX_SAFE_INTEGER;

/** One line of an index, bytes. */
export const MAX_INDEX_LINE = 2048;

/** An index, bytes of plaintext: MAX_CHUNKS and MAX_FILES lines, each at its longest seen. */
export const MAX_INDEX_LENGTH = 1024 * 1024 * 1024;

/** A path inside an archive, bytes. */
export const MAX_PATH_LENGTH = 255;

/** `manifest.json`, `latest.json`, `presync.json`, leases: bytes. */
export const MAX_DOCUMENT_SIZE = 256 * 1024;

/** Signatures on one manifest: enough for any rotation. */
export const MAX_SIGNATURES = 16;

/** Databases (relay chain, parachain, availability store) in one snapshot. */
export const MAX_PARTS = 8;
