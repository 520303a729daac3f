import { PresyncError } from '@presync/runtime/errors';
import type { CallOptions, ObjectInfo, ObjectStore } from './object-store.ts';

/** An object that somebody is reading, piece by piece. */
export interface OpenObject {
  /**
   * Exactly these bytes of it, to be read before `close` is called. A retryable STORE_FAILED when the object was replaced since it was opened: the
   * reader is never given parts of two objects.
   */
  read(range: { offset: number; length: number }): Promise<Uint8Array>;
  /** Gives back what is held. May be called twice. */
  close(): void;
}

/** A store's object, read range by range. Nothing is held between the reads. */
export function openRanges(
  store: ObjectStore,
  { key, version }: ObjectInfo,
  { signal }: CallOptions,
): OpenObject {
  return {
    async read(range) {
      const part = await store.read(key, { range, maxBytes: range.length, signal });
      if (part.version === version && part.bytes.length === range.length) return part.bytes;
      throw new PresyncError('STORE_FAILED', `${key} was replaced while it was read`, {
        retryable: true,
        hint: 'read it again',
      });
    },
    close() {},
  };
}
