import { setImmediate as nextTurn } from 'node:timers/promises';
import { type ChunkPlace, layoutAt } from '@presync/format/chunk-places';
import type { ChunkLayout } from '@presync/format/chunks';
import type { Sha256 } from '@presync/format/digest';
import { rawFrameLength } from '@presync/format/frame';
import { discard } from '@presync/format/memory';
import { isContentKey, repositoryKeys } from '@presync/format/paths';
import { isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { ObjectInfo } from '@presync/store/object-store';
import type { MadeObjects } from '@presync/store/with-made-objects';
import type { SourceFile } from '../source.ts';
import { describeChunk } from './chunk-names.ts';
import { shapeOf } from './chunk-shape.ts';
import type { ChunkAnswers } from './chunk-tasks.ts';
import type { ChunkWorkers } from './chunk-workers.ts';
import { createDigestTable } from './digest-table.ts';
import { createPlaces } from './places.ts';

/**
 * Chunks that one view may have. Where each lies is kept in memory, 45 bytes a row of a table that is at most three quarters full; this many fit
 * into the million rows that it then has.
 */
export const MAX_VIEW_CHUNKS = 786_432;

/** How long one who asks for a chunk waits until another answer is done: less than clients wait for a byte. */
const PATIENCE_MS = 10_000;

export interface ViewChunksOptions {
  /** The frozen view's files, in archive order. They must not change while anybody asks. */
  files: readonly SourceFile[];
  chunkSize: number;
  workers: ChunkWorkers;
  /** Chunks that are held in memory at a time. */
  maxMade: number;
  /** Told of each chunk that could not be made, since the view does not hold any more what it held. */
  onDamage?: ((error: PresyncError) => void) | undefined;
}

/** The chunks of a frozen view, each made from its files whenever somebody asks for it. */
export interface ViewChunks extends MadeObjects {
  /** Remembers where a chunk lies. CONFIG_INVALID past `MAX_VIEW_CHUNKS`. */
  add(sha256: Sha256, place: ChunkPlace): void;
}

const VALUE_LENGTH = 3 * 4;
const CHUNK_KEY = /^chunks\/([0-9a-f]{2})\/(\1[0-9a-f]{62})$/;

/**
 * A chunk's object is the raw frame around its plaintext: so its size is known from its place alone, and its bytes from the files. They are proved
 * against the digest that is the object's name each time, in the memory that they are sent from: a disk that gives other bytes than it
 * did makes an error, never a wrong object.
 */
export function createViewChunks(options: ViewChunksOptions): ViewChunks {
  const { files, chunkSize, workers } = options;
  const table = createDigestTable(VALUE_LENGTH, MAX_VIEW_CHUNKS);
  const places = createPlaces({ count: options.maxMade, patienceMs: PATIENCE_MS });

  function layoutOf(key: string): { sha256: Sha256; layout: ChunkLayout<SourceFile> } | undefined {
    const sha256 = CHUNK_KEY.exec(key)?.[2];
    const value = sha256 === undefined ? undefined : table.get(Buffer.from(sha256, 'hex'));
    if (sha256 === undefined || value === undefined) return undefined;
    const place = {
      file: value.readUInt32LE(0),
      files: value.readUInt32LE(4),
      stretch: value.readUInt32LE(8),
    };
    return { sha256, layout: layoutAt(files, place, chunkSize) };
  }

  function find(key: string): ObjectInfo | undefined {
    const found = layoutOf(key);
    return found && { key, size: rawFrameLength(found.layout.length), version: found.sha256 };
  }

  function damaged(key: string, layout: ChunkLayout<SourceFile>, why: string, cause?: unknown): PresyncError {
    const error = new PresyncError(
      'NODE_CHANGED',
      `${key} cannot be made from the view any more: ${why}; it holds ${describeChunk(layout)}`,
      {
        cause,
        hint: 'look at the disk, and for what writes to the view; a new start of "presync serve" takes a new one',
      },
    );
    options.onDamage?.(error);
    return error;
  }

  async function frameOf(
    key: string,
    { sha256, layout }: { sha256: Sha256; layout: ChunkLayout<SourceFile> },
  ): Promise<Uint8Array> {
    const shape = shapeOf(layout, (file) => ({ path: file.readPath }));
    let answer: ChunkAnswers['frame'];
    try {
      answer = await workers.run({ kind: 'frame', shape, sha256 });
    } catch (error) {
      if (!isPresyncError(error, 'IO_FAILED')) throw error;
      throw damaged(key, layout, 'a file of it cannot be read', error);
    }
    if (answer.frame !== undefined) return answer.frame;
    throw damaged(
      key,
      layout,
      answer.missing ? 'a file of it is missing or too short' : 'its bytes have another SHA-256',
    );
  }

  return {
    add(sha256, { file, files: whole, stretch }) {
      const value = Buffer.alloc(VALUE_LENGTH);
      value.writeUInt32LE(file, 0);
      value.writeUInt32LE(whole, 4);
      value.writeUInt32LE(stretch, 8);
      if (!table.set(Buffer.from(sha256, 'hex'), value))
        throw new PresyncError('CONFIG_INVALID', `the view has more than ${MAX_VIEW_CHUNKS} chunks`, {
          hint: 'give a larger --chunk-size',
        });
    },

    owns: isContentKey,
    find,

    async make(key, { signal }) {
      const found = layoutOf(key);
      if (found === undefined) throw new PresyncError('INTERNAL', `${key} is asked for, and is not there`);
      const leave = await places.take(signal);
      try {
        const bytes = await frameOf(key, found);
        const release = (): void => {
          discard(bytes);
          leave();
        };
        if (signal.aborted) release();
        throwIfAborted(signal);
        return { bytes, release };
      } catch (error) {
        leave();
        throw error;
      }
    },

    async *list(prefix, { signal }) {
      for (let byte = 0; byte < 256; byte++) {
        const folder = `chunks/${byte.toString(16).padStart(2, '0')}/`;
        if (!folder.startsWith(prefix) && !prefix.startsWith(folder)) continue;
        // Each look goes through the whole table; answers to others come in between.
        await nextTurn();
        throwIfAborted(signal);
        for (const digest of table.startingWith(byte)) {
          const info = find(repositoryKeys.chunk(digest.toString('hex')));
          if (info?.key.startsWith(prefix) === true) yield info;
        }
      }
    },
  };
}
