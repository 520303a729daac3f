import type { ErrorCode } from '@presync/runtime/errors';

/** What the main thread asks of a chunk worker. Bytes are handed over, not copied. */

/** A stretch of a chunk's plaintext: a file's tar header, or bytes of a file on disk. */
export type TaskSegment =
  | { kind: 'header'; at: number; length: number; path: string; size: number }
  | { kind: 'data'; at: number; length: number; offset: number; file: string; sparse: boolean };

export interface ChunkShape {
  /** Bytes of plaintext. */
  length: number;
  segments: TaskSegment[];
}

export type ChunkTask =
  /** Builds a chunk's plaintext from files and hashes it. The worker keeps the plaintext until `encode` or `drop`. */
  | { kind: 'read'; shape: ChunkShape }
  /** Compresses the plaintext that `read` kept under that id, and proves the frame by decoding it. */
  | { kind: 'encode'; kept: number; level: number }
  | { kind: 'drop'; kept: number }
  /** Tells what the raw frame around the plaintext that `read` kept under that id is, without making it, and lets go of the plaintext. */
  | { kind: 'measure'; kept: number }
  /** Builds a chunk's plaintext from files, proves it, and gives the raw frame around it. */
  | { kind: 'frame'; shape: ChunkShape; sha256: string }
  /** Decodes a frame and proves its plaintext and, with a shape, the tar headers in it; `write` puts its contents into files. */
  | {
      kind: 'decode';
      frame: Uint8Array;
      length: number;
      sha256: string;
      storedSha256?: string | undefined;
      what: string;
      shape?: ChunkShape | undefined;
      write?: boolean | undefined;
    }
  /** Reads a chunk from files and compares digests; when it matches and a shape to write is given, writes it there. */
  | { kind: 'match'; from: ChunkShape; sha256: string; to?: ChunkShape | undefined }
  /** Writes zeros into files. */
  | { kind: 'zero'; to: ChunkShape };

export interface ChunkAnswers {
  /** Undefined when a file is missing or too short. */
  read: { sha256: string; kept: number } | undefined;
  encode: { frame: Uint8Array; storedSha256: string };
  drop: undefined;
  measure: { storedSize: number; storedSha256: string };
  /** Without a frame when the files hold something else; `missing` when one is not there or too short. */
  frame: { frame: Uint8Array } | { frame: undefined; missing: boolean };
  decode: { storedSha256: string | undefined };
  match: { matches: boolean };
  zero: undefined;
}

export type TaskKind = ChunkTask['kind'];

export interface TaskMessage {
  id: number;
  task: ChunkTask;
}

export type AnswerMessage =
  | { id: number; ok: true; answer: ChunkAnswers[TaskKind] }
  | {
      id: number;
      ok: false;
      error: { code: ErrorCode; message: string; hint: string | undefined; stack: string | undefined };
    };
