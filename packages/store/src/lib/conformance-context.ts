import type { ObjectStore } from '../object-store.ts';

/** What a conformance case works with. */
export interface CaseContext {
  store: ObjectStore;
  /** The same objects, where they can be written: the store itself, or what lies behind a reader. */
  writer: ObjectStore;
  /** The key or list prefix of that name in the case's own corner of the store. */
  key(name: string): string;
  signal: AbortSignal;
  /** Bytes of the largest object. */
  largeBytes: number;
  /** Objects in the listing that needs several pages. */
  manyObjects: number;
  /** A folder of the case's own on this machine. */
  scratch: string;
}

/** Cases, each under a sentence that is true of a store that passes. */
export type Cases = Readonly<Record<string, (context: CaseContext) => Promise<void>>>;
