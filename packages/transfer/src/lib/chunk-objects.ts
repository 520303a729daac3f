import type { Codec } from '@presync/format/codec';
import { sha256 as digestOf } from '@presync/format/digest';
import type { StoredChunk } from '@presync/format/index-file';
import { MAX_FRAME_OVERHEAD } from '@presync/format/limits';
import { repositoryKeys } from '@presync/format/paths';
import { isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';

/** Compresses, proves and stores a chunk. `added` is the size of the object that was put, 0 when the store had one already. */
export async function putChunk(
  store: ObjectStore,
  codec: Codec,
  chunk: { sha256: string; plain: Uint8Array; level: number },
  signal: AbortSignal,
): Promise<{ stored: StoredChunk; added: number }> {
  const { sha256, plain, level } = chunk;
  const key = repositoryKeys.chunk(sha256);
  const frame = await codec.encode(plain, { level });
  const decoded = await codec.decode(frame, {
    length: plain.length,
    what: `the new frame of chunk ${sha256}`,
  });
  if (Buffer.compare(decoded, plain) !== 0) {
    throw new PresyncError(
      'CONTENT_MISMATCH',
      `chunk ${sha256} was compressed into a frame that decodes to something else`,
      {
        hint: 'this points at faulty memory or a faulty zstd; do not trust this machine with snapshots until it is found',
      },
    );
  }
  throwIfAborted(signal);
  try {
    await store.put(key, frame, { condition: { ifAbsent: true }, signal });
    const stored = {
      sha256,
      length: plain.length,
      storedSize: frame.length,
      storedSha256: await digestOf(frame),
    };
    return { stored, added: frame.length };
  } catch (error) {
    if (!isPresyncError(error, 'CONDITION_FAILED')) throw error;
  }
  return { stored: await adopt(store, codec, sha256, plain, signal), added: 0 };
}

/** An object that is already there counts only after it was read and proved: another version of zstd may have written other bytes. */
async function adopt(
  store: ObjectStore,
  codec: Codec,
  sha256: string,
  plain: Uint8Array,
  signal: AbortSignal,
): Promise<StoredChunk> {
  const key = repositoryKeys.chunk(sha256);
  const corrupt = (cause?: unknown): PresyncError =>
    new PresyncError('CHUNK_CORRUPT', `${key} is in the store and holds something else than its name says`, {
      cause,
      hint: 'run "presync verify" to see which snapshots it damages, remove the object, and take the snapshot again',
    });
  let bytes: Uint8Array;
  let decoded: Uint8Array;
  try {
    bytes = (await store.read(key, { maxBytes: plain.length + MAX_FRAME_OVERHEAD, signal })).bytes;
    decoded = await codec.decode(bytes, { length: plain.length, what: key });
  } catch (error) {
    throw isPresyncError(error, 'CHUNK_CORRUPT') || isPresyncError(error, 'OBJECT_TOO_LARGE')
      ? corrupt(error)
      : error;
  }
  if (Buffer.compare(decoded, plain) !== 0) throw corrupt();
  return { sha256, length: plain.length, storedSize: bytes.length, storedSha256: await digestOf(bytes) };
}

/**
 * Fetches, decodes and proves a chunk. A chunk that comes damaged is fetched once more, in case the damage happened on the way. Rejects
 * with CHUNK_MISSING or CHUNK_CORRUPT; `files` says in the error what the damage costs.
 */
export async function getChunk(
  store: ObjectStore,
  codec: Codec,
  chunk: StoredChunk,
  { files, strict = false, signal }: { files: string; strict?: boolean; signal: AbortSignal },
): Promise<Uint8Array> {
  const key = repositoryKeys.chunk(chunk.sha256);
  for (let attempt = 1; ; attempt++) {
    try {
      return await getOnce(store, codec, chunk, key, strict, signal);
    } catch (error) {
      if (isPresyncError(error, 'CHUNK_CORRUPT') && attempt === 1) continue;
      throw describe(error, key, files);
    }
  }
}

async function getOnce(
  store: ObjectStore,
  codec: Codec,
  chunk: StoredChunk,
  key: string,
  strict: boolean,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const { bytes } = await store.read(key, { maxBytes: chunk.storedSize, signal });
  if (bytes.length !== chunk.storedSize)
    throw damaged(key, `it is ${bytes.length} bytes long, and the index says ${chunk.storedSize}`);
  throwIfAborted(signal);
  // The digest of the plaintext proves the content; the object's own digest is for checking a repository, not for restoring.
  if (strict && (await digestOf(bytes)) !== chunk.storedSha256)
    throw damaged(key, 'its SHA-256 is not what the index says');
  const plain = await codec.decode(bytes, { length: chunk.length, what: key });
  if ((await digestOf(plain)) !== chunk.sha256)
    throw damaged(key, 'its content does not have the SHA-256 that is its name');
  return plain;
}

function damaged(key: string, why: string): PresyncError {
  return new PresyncError('CHUNK_CORRUPT', `${key} is damaged: ${why}`);
}

function describe(error: unknown, key: string, files: string): unknown {
  const hint =
    'restore an older snapshot (see "presync list"), or take a new one after removing the damaged object';
  if (isPresyncError(error, 'OBJECT_NOT_FOUND')) {
    return new PresyncError('CHUNK_MISSING', `${key} is missing; it holds ${files}`, { cause: error, hint });
  }
  if (isPresyncError(error, 'OBJECT_TOO_LARGE')) {
    return new PresyncError('CHUNK_CORRUPT', `${key} is larger than the index says; it holds ${files}`, {
      cause: error,
      hint,
    });
  }
  if (isPresyncError(error, 'CHUNK_CORRUPT')) {
    return new PresyncError('CHUNK_CORRUPT', `${error.message}; it holds ${files}`, { cause: error, hint });
  }
  return error;
}
