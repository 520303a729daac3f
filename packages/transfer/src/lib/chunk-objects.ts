import type { StoredChunk } from '@presync/format/index-file';
import { MAX_FRAME_OVERHEAD } from '@presync/format/limits';
import { discard } from '@presync/format/memory';
import { repositoryKeys } from '@presync/format/paths';
import { isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import type { Sources } from '@presync/store/sources';
import type { ChunkShape } from './chunk-tasks.ts';
import type { ChunkWorkers } from './chunk-workers.ts';
import { readAgain } from './read-again.ts';

/** A chunk whose plaintext a worker keeps. */
export interface KeptChunk {
  sha256: string;
  /** Bytes of plaintext. */
  length: number;
  kept: number;
}

/**
 * Puts of a chunk in all that is said to be there and then is not: somebody removed it in between, or the answer was that to another put.
 */
const PUTS = 3;

/** Compresses, proves and stores a chunk. `added` is the size of the object that was put, 0 when the store had one already. */
export async function putChunk(
  store: ObjectStore,
  workers: ChunkWorkers,
  { sha256, length, kept }: KeptChunk,
  { level, signal }: { level: number; signal: AbortSignal },
): Promise<{ stored: StoredChunk; added: number }> {
  const { frame, storedSha256 } = await workers.run({ kind: 'encode', kept, level });
  throwIfAborted(signal);
  const storedSize = frame.length;
  for (let attempt = 1; ; attempt++) {
    try {
      await store.put(repositoryKeys.chunk(sha256), frame, {
        condition: { ifAbsent: true },
        sha256: storedSha256,
        immutable: true,
        signal,
      });
      discard(frame);
      return { stored: { sha256, length, storedSize, storedSha256 }, added: storedSize };
    } catch (error) {
      if (!isPresyncError(error, 'CONDITION_FAILED')) throw error;
    }
    try {
      return { stored: await adopt(store, workers, { sha256, length }, signal), added: 0 };
    } catch (error) {
      if (!isPresyncError(error, 'OBJECT_NOT_FOUND') || attempt >= PUTS) throw error;
    }
  }
}

/** An object that is already there counts only after it was read and proved: another version of zstd may have written other bytes. */
async function adopt(
  store: ObjectStore,
  workers: ChunkWorkers,
  { sha256, length }: { sha256: string; length: number },
  signal: AbortSignal,
): Promise<StoredChunk> {
  const key = repositoryKeys.chunk(sha256);
  try {
    return await readAgain(signal, async () => {
      const { bytes } = await store.read(key, { maxBytes: length + MAX_FRAME_OVERHEAD, signal });
      const storedSize = bytes.length;
      const { storedSha256 = '' } = await workers.run({
        kind: 'decode',
        frame: bytes,
        length,
        sha256,
        what: key,
      });
      return { sha256, length, storedSize, storedSha256 };
    });
  } catch (error) {
    if (!isPresyncError(error, 'CHUNK_CORRUPT') && !isPresyncError(error, 'OBJECT_TOO_LARGE')) throw error;
    throw new PresyncError(
      'CHUNK_CORRUPT',
      `${key} is in the store and holds something else than its name says`,
      {
        cause: error,
        hint: 'run "presync verify" to see which snapshots it damages, remove the object, and take the snapshot again',
      },
    );
  }
}

export interface GetChunkOptions {
  /** What the chunk holds, for errors. */
  files: string;
  /** The chunk's headers, which are proved as well, and the files that its contents belong into. */
  shape: ChunkShape;
  /** `write` puts the contents into files, `keep` returns the frame, and `check` does neither, but holds the object to its own digest too. */
  use: 'write' | 'keep' | 'check';
  signal: AbortSignal;
}

/**
 * Fetches, decodes and proves a chunk. One that comes damaged is fetched again, in case the damage happened on the way or another
 * source has a better one. Rejects with CHUNK_MISSING or CHUNK_CORRUPT, which say what the damage costs.
 */
export async function getChunk(
  sources: Sources,
  workers: ChunkWorkers,
  chunk: StoredChunk,
  { files, shape, use, signal }: GetChunkOptions,
): Promise<Uint8Array> {
  const key = repositoryKeys.chunk(chunk.sha256);
  const check = use === 'check';
  let kept: Uint8Array = new Uint8Array(0);
  try {
    await sources.fetch(key, { maxBytes: chunk.storedSize, signal }, async (bytes) => {
      if (bytes.length !== chunk.storedSize) {
        throw new PresyncError(
          'CHUNK_CORRUPT',
          `${key} is damaged: it is ${bytes.length} bytes long, and the index says ${chunk.storedSize}`,
        );
      }
      throwIfAborted(signal);
      // The worker takes the buffer away.
      const copy = use === 'keep' ? Uint8Array.from(bytes) : kept;
      await workers.run({
        kind: 'decode',
        frame: bytes,
        length: chunk.length,
        sha256: chunk.sha256,
        storedSha256: check ? chunk.storedSha256 : undefined,
        what: key,
        shape,
        write: use === 'write',
      });
      kept = copy;
    });
    return kept;
  } catch (error) {
    throw describe(error, key, files);
  }
}

function describe(error: unknown, key: string, files: string): unknown {
  const hint =
    'restore an older snapshot (see "presync list"), or take a new one after removing the damaged object';
  if (isPresyncError(error, 'OBJECT_NOT_FOUND')) {
    return new PresyncError('CHUNK_MISSING', `${key} is missing; it holds ${files}`, {
      cause: error,
      hint: `${hint}. A peer that was started anew offers a new snapshot: then run the same command again, which keeps what is in place`,
    });
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
