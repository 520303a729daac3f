/**
 * What presync needs of an object store. Adapters are factories that return this interface; wrappers
 * (`withRetry`, `withLimit`, `withMetrics`) take one and return one. `@presync/store/conformance` holds
 * the suite that every adapter passes.
 *
 * Promises that every adapter keeps:
 * - **Keys** are relative, `/`-separated segments of `[A-Za-z0-9._-]`, 1 to 255 characters each and 512 in all; no
 *   segment begins with a dot, so that an adapter may keep what is its own beside the objects. Any other key is refused
 *   with INTERNAL. No key is the folder of another one (`a` beside `a/b`): a file system cannot hold both.
 * - **Writes are atomic**: a reader sees the whole old object, the whole new one, or none; never a part. When `put`
 *   resolves, the object is durable and every later read, by anybody, sees it.
 * - **A failed call may have happened**: after an error with `retryable: true`, a put or remove may or may not have
 *   been carried out. All calls may be made twice; a conditional put that was carried out, and whose answer was lost,
 *   fails with CONDITION_FAILED when it is made again (`withRetry` finds that out by reading back).
 * - **Absence is never inferred from a refusal**: 403 is STORE_FORBIDDEN, never OBJECT_NOT_FOUND; a missing bucket or
 *   folder is STORE_NOT_FOUND.
 * - **Errors** are PresyncErrors; the adapter marks as `retryable` what may pass. Adapters do not retry.
 * - **Abort**: when the signal fires, the call rejects promptly with ABORTED (or with the signal's reason, if that is a PresyncError).
 */
export interface ObjectStore {
  /** The store's URL for people: no credentials in it. */
  readonly location: string;
  readonly traits: StoreTraits;

  /** Size and version, or undefined when there is no such object. */
  stat(key: string, options: CallOptions): Promise<ObjectInfo | undefined>;

  /**
   * The whole object, or `range` of it, in memory. Rejects with OBJECT_NOT_FOUND when absent, and with OBJECT_TOO_LARGE
   * before reading more than `maxBytes`. A body shorter or longer than announced is a retryable STORE_FAILED.
   * A range that reaches past the end gives what there is; one that starts at or past the end gives no bytes.
   */
  read(key: string, options: ReadOptions): Promise<ObjectData>;

  /**
   * Writes the object. With `condition: { ifAbsent: true }` only if there is none, with `{ ifVersion }` only if it
   * still is that version, which an absent object never is; otherwise rejects with CONDITION_FAILED and changes nothing.
   * Returns the new version.
   */
  put(key: string, body: Uint8Array | FileBody, options: PutOptions): Promise<{ version: string }>;

  /** Removes the object. Removing what is not there succeeds. */
  remove(key: string, options: CallOptions): Promise<void>;

  /** All objects whose key starts with `prefix` (any string that a key may start with, or ''), in key order (bytewise), streamed. */
  list(prefix: string, options: CallOptions): AsyncIterable<ObjectInfo>;

  /** Gives back sockets and handles. May be called twice; no other call may follow it. */
  close(): Promise<void>;
}

export interface StoreTraits {
  /** False for read-only sources: put and remove reject with STORE_READ_ONLY. */
  readonly writable: boolean;
  /** False where there is no listing: list rejects with STORE_FAILED. */
  readonly listable: boolean;
}

export interface CallOptions {
  signal: AbortSignal;
}

export interface ReadOptions extends CallOptions {
  /** Upper bound of the bytes that may be returned. */
  maxBytes: number;
  range?: { offset: number; length: number } | undefined;
}

export interface PutOptions extends CallOptions {
  condition?: PutCondition | undefined;
  /**
   * SHA-256 of the body in lower-case hexadecimal, when the caller has it: a store that can prove it on arrival does (S3).
   * A body that then has another digest is a retryable STORE_FAILED, and nothing is changed. Other adapters ignore it.
   */
  sha256?: string | undefined;
  /** True for an object that is never replaced: caches in front of a bucket may keep it, others they must ask for again. Default false. */
  immutable?: boolean | undefined;
}

export type PutCondition = { ifAbsent: true } | { ifVersion: string };

/** A body that is read from a file, for objects that may not fit in memory. The file must not change during the call. */
export interface FileBody {
  path: string;
  size: number;
}

export interface ObjectInfo {
  key: string;
  /** Bytes. */
  size: number;
  /** Opaque; equal versions mean equal content. An ETag, a generation, or a digest. */
  version: string;
}

export interface ObjectData {
  bytes: Uint8Array;
  /** Size of the whole object, also when only a range was read. */
  size: number;
  version: string;
}

/** Something that a store has found out and that whoever runs it may want to know; nothing has failed for it. */
export interface StoreNotice {
  /** `settings`: how the server wants to be spoken to. `leftover`: something that could not be removed and costs money. */
  kind: 'settings' | 'leftover';
  message: string;
}
