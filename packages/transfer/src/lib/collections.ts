import { type CollectionDocument, encodeDocument, invalid, parseCollection } from '@presync/format/documents';
import { MAX_DOCUMENT_SIZE } from '@presync/format/limits';
import { repositoryKeys } from '@presync/format/paths';
import { isPresyncError } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import { type Clock, MAX_LANDING_MS, MAX_SKEW_MS } from '../clock.ts';
import { readAgain } from './read-again.ts';

/** What one run of a collector has found to be named by nobody; `docs/decisions/0018` says how it is removed. */
export interface Collection {
  id: string;
  /** Keys of its parts, in order. */
  parts: string[];
  /** Keys of all else that lies there: notes. */
  notes: string[];
  state: CollectionState | undefined;
}

export interface CollectionState {
  document: CollectionDocument;
  version: string;
}

/** An object that has a tombstone. */
export interface Tombstone {
  key: string;
  size: number;
  /** Undefined for an index, which need not be there any more when only the proof of its snapshot is left. */
  sha256: string | undefined;
}

/** Tombstones in one part: a part is held in memory. */
export const PART_TOMBSTONES = 32_768;
/** A line has a size of up to 16 digits and a key of up to 512 characters; those of chunks have 90 in all. */
const MAX_PART_BYTES = PART_TOMBSTONES * 540;

/** Collections in key order. The state of each is read after its parts were listed. */
export async function listCollections(store: ObjectStore, signal: AbortSignal): Promise<Collection[]> {
  const found = new Map<string, Collection>();
  for await (const { key } of store.list(repositoryKeys.tombstones, { signal })) {
    const [, id, kind] = /^tombstones\/([0-9a-f-]{36})\/(parts\/|kept\/|state\.json$)/.exec(key) ?? [];
    if (id === undefined) continue;
    const collection = found.get(id) ?? { id, parts: [], notes: [], state: undefined };
    found.set(id, collection);
    if (kind === 'parts/') collection.parts.push(key);
    if (kind === 'kept/') collection.notes.push(key);
  }
  for (const collection of found.values()) collection.state = await readState(store, collection.id, signal);
  return [...found.values()];
}

/** How far a collection is now; undefined when it is gone. */
export async function readState(
  store: ObjectStore,
  id: string,
  signal: AbortSignal,
): Promise<CollectionState | undefined> {
  const key = repositoryKeys.collection(id);
  return readAgain(signal, async () => {
    try {
      const { bytes, version } = await store.read(key, { maxBytes: MAX_DOCUMENT_SIZE, signal });
      return { document: parseCollection(bytes, `${key} at ${store.location}`), version };
    } catch (error) {
      if (isPresyncError(error, 'OBJECT_NOT_FOUND')) return undefined;
      throw error;
    }
  });
}

/**
 * Moves a collection on, if it still is as it was read. Undefined when somebody else has moved it. A write whose answer was lost is found again: no two
 * runs write the same document.
 */
export async function moveState(
  store: ObjectStore,
  document: CollectionDocument,
  version: string | undefined,
  signal: AbortSignal,
): Promise<CollectionState | undefined> {
  const body = encodeDocument(document);
  const condition = version === undefined ? ({ ifAbsent: true } as const) : { ifVersion: version };
  try {
    const put = await store.put(repositoryKeys.collection(document.id), body, { condition, signal });
    return { document, version: put.version };
  } catch (error) {
    if (!isPresyncError(error, 'CONDITION_FAILED')) throw error;
  }
  const now = await readState(store, document.id, signal);
  return now !== undefined && Buffer.compare(encodeDocument(now.document), body) === 0 ? now : undefined;
}

/** True when nothing is removed under it, and nothing that was sent can still be carried out. */
export function isSettled({ phase, until }: CollectionDocument, clock: Clock): boolean {
  if (phase === 'marking' || phase === 'marked' || until === null) return true;
  return clock.now() >= settledAt(until);
}

export function settledAt(until: string): number {
  return Date.parse(until) + MAX_SKEW_MS + MAX_LANDING_MS;
}

export function encodePart(tombstones: readonly Tombstone[]): Buffer {
  return Buffer.from(tombstones.map(({ key, size }) => `${size} ${key}\n`).join(''));
}

/** The tombstones of a part; none when it is gone. */
export async function readPart(store: ObjectStore, key: string, signal: AbortSignal): Promise<Tombstone[]> {
  return readAgain(signal, async () => {
    try {
      const { bytes } = await store.read(key, { maxBytes: MAX_PART_BYTES, signal });
      return parsePart(Buffer.from(bytes).toString('utf8'), `${key} at ${store.location}`);
    } catch (error) {
      if (isPresyncError(error, 'OBJECT_NOT_FOUND')) return [];
      throw error;
    }
  });
}

function parsePart(text: string, what: string): Tombstone[] {
  if (!text.endsWith('\n')) throw invalid(what, 'it has no end');
  return text
    .slice(0, -1)
    .split('\n')
    .map((line) => {
      const [, size, key = '', sha256] =
        /^([0-9]{1,16}) (chunks\/[0-9a-f]{2}\/([0-9a-f]{64})|snapshots\/[^ ]{1,500}\/index\.zst)$/.exec(
          line,
        ) ?? [];
      if (size === undefined) throw invalid(what, `${JSON.stringify(line.slice(0, 100))} is no tombstone`);
      return { key, size: Number(size), sha256 };
    });
}
