/** What a chunk worker does: reads, hashes, compresses, decodes and writes whole chunks, synchronously. */

import { createHash, hash } from 'node:crypto';
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import type { Codec } from '@presync/format/codec';
import { rawFrame, rawFrameLength, rawFramePieces } from '@presync/format/frame';
import { discard } from '@presync/format/memory';
import { tarHeader } from '@presync/format/tar';
import { errnoOf, ioError, PresyncError } from '@presync/runtime/errors';
import { assertHeaders } from './archive-check.ts';
import type { ChunkAnswers, ChunkShape, ChunkTask, TaskSegment } from './chunk-tasks.ts';
import { isZero, SPARSE_GRAIN } from './sparse.ts';

/** What stays from one task to another. */
export interface Workbench {
  codec: Codec;
  kept: Map<number, { plain: Buffer; sha256: string }>;
  /** Plaintext buffers that no chunk uses. */
  free: Buffer[];
}

export function createWorkbench(codec: Codec): Workbench {
  return { codec, kept: new Map(), free: [] };
}

const digest = (bytes: Uint8Array): string => hash('sha256', bytes, 'hex');

/** A buffer of at least that size, an old one where it fits. */
function borrow({ free }: Workbench, length: number): Buffer {
  const index = free.findIndex((buffer) => buffer.length >= length);
  const [found] = index === -1 ? [] : free.splice(index, 1);
  return found ?? Buffer.allocUnsafeSlow(length);
}

/** Does a task. One at a time for a workbench. `transfer` is what may be handed over with the answer. */
export async function doTask(
  bench: Workbench,
  id: number,
  task: ChunkTask,
): Promise<{ answer: ChunkAnswers[ChunkTask['kind']]; transfer: ArrayBuffer[] }> {
  const { codec, kept, free } = bench;
  switch (task.kind) {
    case 'read': {
      const plain = await readShape(bench, task.shape);
      if (plain === undefined) return { answer: undefined, transfer: [] };
      const sha256 = digest(plain.subarray(0, task.shape.length));
      kept.set(id, { plain: plain.subarray(0, task.shape.length), sha256 });
      return { answer: { sha256, kept: id }, transfer: [] };
    }
    case 'encode':
      return encode(bench, task);
    case 'drop':
      release(bench, task.kept);
      return { answer: undefined, transfer: [] };
    case 'measure':
      return { answer: measure(bench, task), transfer: [] };
    case 'frame':
      return frame(bench, task);
    case 'decode':
      return { answer: await decode(task, codec), transfer: [] };
    case 'match': {
      const plain = await readShape(bench, task.from);
      if (plain === undefined) return { answer: { matches: false }, transfer: [] };
      const bytes = plain.subarray(0, task.from.length);
      const matches = digest(bytes) === task.sha256;
      if (matches && task.to !== undefined) writeShape(task.to, bytes);
      free.push(plain);
      return { answer: { matches }, transfer: [] };
    }
    case 'zero':
      writeShape(task.to, Buffer.alloc(task.to.length));
      return { answer: undefined, transfer: [] };
  }
}

async function decode(task: ChunkTask & { kind: 'decode' }, codec: Codec): Promise<ChunkAnswers['decode']> {
  const { frame, shape, what } = task;
  const damaged = (why: string): PresyncError =>
    new PresyncError('CHUNK_CORRUPT', `${what} is damaged: ${why}`);
  let plain: Uint8Array | undefined;
  try {
    const storedSha256 = task.write === true ? undefined : digest(frame);
    if (task.storedSha256 !== undefined && task.storedSha256 !== storedSha256)
      throw damaged('its SHA-256 is not what the index says');
    plain = await codec.decode(frame, { length: task.length, what });
    if (digest(plain) !== task.sha256)
      throw damaged('its content does not have the SHA-256 that is its name');
    if (shape !== undefined) await assertHeaders(shape, plain);
    if (shape !== undefined && task.write === true) writeShape(shape, plain);
    return { storedSha256 };
  } finally {
    discard(frame);
    if (plain !== undefined) discard(plain);
  }
}

async function encode(
  bench: Workbench,
  task: ChunkTask & { kind: 'encode' },
): Promise<{ answer: ChunkAnswers['encode']; transfer: ArrayBuffer[] }> {
  const { codec } = bench;
  const entry = bench.kept.get(task.kept);
  if (entry === undefined)
    throw new PresyncError('INTERNAL', 'a chunk worker was asked to compress what it does not have');
  const { plain, sha256 } = entry;
  try {
    const frame = await codec.encode(plain, { level: task.level });
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
    // zlib's result may be a view on a larger buffer: what is handed over is exactly the frame.
    const own = Uint8Array.from(frame);
    discard(frame);
    discard(decoded);
    return { answer: { frame: own, storedSha256: digest(own) }, transfer: [own.buffer] };
  } finally {
    release(bench, task.kept);
  }
}

function measure(bench: Workbench, task: ChunkTask & { kind: 'measure' }): ChunkAnswers['measure'] {
  const entry = bench.kept.get(task.kept);
  if (entry === undefined)
    throw new PresyncError('INTERNAL', 'a chunk worker was asked to measure what it does not have');
  try {
    const stored = createHash('sha256');
    for (const piece of rawFramePieces(entry.plain)) stored.update(piece);
    return { storedSize: rawFrameLength(entry.plain.length), storedSha256: stored.digest('hex') };
  } finally {
    release(bench, task.kept);
  }
}

async function frame(
  bench: Workbench,
  { shape, sha256 }: ChunkTask & { kind: 'frame' },
): Promise<{ answer: ChunkAnswers['frame']; transfer: ArrayBuffer[] }> {
  const plain = await readShape(bench, shape);
  if (plain === undefined) return { answer: { frame: undefined, missing: true }, transfer: [] };
  try {
    const bytes = plain.subarray(0, shape.length);
    // The frame is made of the very bytes that were hashed, so what leaves this machine is what was proved.
    if (digest(bytes) !== sha256) return { answer: { frame: undefined, missing: false }, transfer: [] };
    const made = rawFrame(bytes);
    return { answer: { frame: made }, transfer: [made.buffer] };
  } finally {
    bench.free.push(plain);
  }
}

function release({ kept, free }: Workbench, id: number): void {
  const entry = kept.get(id);
  kept.delete(id);
  if (entry !== undefined) free.push(Buffer.from(entry.plain.buffer));
}

/** Runs `work` on an open file; undefined when there is none and `optional` is set. */
function withFile<T>(
  path: string,
  flags: 'r' | 'r+',
  optional: boolean,
  work: (fd: number) => T,
): T | undefined {
  let fd: number;
  try {
    fd = openSync(path, flags);
  } catch (error) {
    if (optional && (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR')) return undefined;
    throw ioError(error, flags === 'r' ? 'read' : 'write', path);
  }
  try {
    return work(fd);
  } catch (error) {
    throw ioError(error, flags === 'r' ? 'read' : 'write', path);
  } finally {
    closeSync(fd);
  }
}

/** The chunk's plaintext, at the beginning of a borrowed buffer. */
async function readShape(bench: Workbench, { length, segments }: ChunkShape): Promise<Buffer | undefined> {
  const plain = borrow(bench, length);
  let filled = 0;
  for (const segment of segments) {
    // Padding is the only thing between segments; the buffer may hold an earlier chunk.
    plain.fill(0, filled, segment.at);
    filled = segment.at + segment.length;
    if (segment.kind === 'header') {
      (await tarHeader(segment.path, segment.size)).copy(plain, segment.at);
    } else if (withFile(segment.file, 'r', true, (fd) => readFully(fd, plain, segment)) !== true) {
      bench.free.push(plain);
      return undefined;
    }
  }
  plain.fill(0, filled, length);
  return plain;
}

function readFully(fd: number, plain: Buffer, segment: TaskSegment & { kind: 'data' }): boolean {
  for (let done = 0; done < segment.length; ) {
    const count = readSync(fd, plain, segment.at + done, segment.length - done, segment.offset + done);
    if (count === 0) return false;
    done += count;
  }
  return true;
}

/** Writes the contents of files; headers are not written. */
function writeShape({ segments }: ChunkShape, plain: Uint8Array): void {
  for (const segment of segments) {
    if (segment.kind === 'header') continue;
    const bytes = plain.subarray(segment.at, segment.at + segment.length);
    withFile(segment.file, 'r+', false, (fd) => writeSegment(fd, bytes, segment));
  }
}

/** With `sparse`, stretches of zeros are left out: only right in a file that never held anything else there. */
function writeSegment(
  fd: number,
  bytes: Uint8Array,
  { offset, sparse }: TaskSegment & { kind: 'data' },
): void {
  let start = 0;
  if (sparse) {
    for (let at = 0; at < bytes.length; at += SPARSE_GRAIN) {
      const end = Math.min(at + SPARSE_GRAIN, bytes.length);
      if (!isZero(bytes.subarray(at, end))) continue;
      writeFully(fd, bytes.subarray(start, at), offset + start);
      start = end;
    }
  }
  writeFully(fd, bytes.subarray(start), offset + start);
}

/**
 * Bytes of one write. Larger ones have the kernel look for large stretches of free memory for its cache, which on a virtual machine are those that the
 * host has taken back: writes of 4 MiB took eight times the CPU of these (decision 11).
 */
const WRITE_PIECE = 256 * 1024;

function writeFully(fd: number, bytes: Uint8Array, offset: number): void {
  for (let done = 0; done < bytes.length; )
    done += writeSync(fd, bytes, done, Math.min(WRITE_PIECE, bytes.length - done), offset + done);
}
