import { encodeDocument, parseRemoved } from '@presync/format/documents';
import { MAX_DOCUMENT_SIZE } from '@presync/format/limits';
import { repositoryKeys } from '@presync/format/paths';
import { isPresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import { readAgain } from './read-again.ts';

/** Sequence numbers as ranges, both ends included, in order and apart. */
export type Ranges = readonly (readonly [number, number])[];

/** The numbers of a channel that retention took away, or was about to. */
export async function readRemoved(
  store: ObjectStore,
  channel: string,
  signal: AbortSignal,
): Promise<{ ranges: Ranges; version: string | undefined }> {
  const key = repositoryKeys.removed(channel);
  return readAgain(signal, async () => {
    try {
      const { bytes, version } = await store.read(key, { maxBytes: MAX_DOCUMENT_SIZE, signal });
      return { ranges: parseRemoved(bytes, `${key} at ${store.location}`).ranges, version };
    } catch (error) {
      if (isPresyncError(error, 'OBJECT_NOT_FOUND')) return { ranges: [], version: undefined };
      throw error;
    }
  });
}

/** Adds numbers before what they name is removed. */
export async function announceRemoval(
  store: ObjectStore,
  channel: string,
  sequences: readonly number[],
  signal: AbortSignal,
): Promise<void> {
  for (;;) {
    throwIfAborted(signal);
    const { ranges: before, version } = await readRemoved(store, channel, signal);
    if (sequences.every((sequence) => includes(before, sequence))) return;
    const ranges = merge([...before, ...sequences.map((sequence): [number, number] => [sequence, sequence])]);
    const document = encodeDocument({ presync: 'removed', version: 1, channel, ranges });
    const condition = version === undefined ? ({ ifAbsent: true } as const) : { ifVersion: version };
    try {
      await store.put(repositoryKeys.removed(channel), document, { condition, signal });
    } catch (error) {
      // Somebody else was faster, or the answer was lost: what it says now counts.
      if (!isPresyncError(error, 'CONDITION_FAILED')) throw error;
    }
  }
}

/** True when a snapshot is gone and retention has said that it would take it. */
export async function wasRemoved(
  store: ObjectStore,
  channel: string,
  sequence: number,
  signal: AbortSignal,
): Promise<boolean> {
  if ((await store.stat(repositoryKeys.manifest(channel, sequence), { signal })) !== undefined) return false;
  try {
    return includes((await readRemoved(store, channel, signal)).ranges, sequence);
  } catch (error) {
    // Who cannot be asked has not said so.
    if (isPresyncError(error) && error.exitCode === 4) return false;
    throw error;
  }
}

export function includes(ranges: Ranges, sequence: number): boolean {
  return ranges.some(([from, to]) => from <= sequence && sequence <= to);
}

function merge(ranges: Ranges): [number, number][] {
  const merged: [number, number][] = [];
  for (const [from, to] of ranges.toSorted((a, b) => a[0] - b[0])) {
    const last = merged.at(-1);
    if (last !== undefined && from <= last[1] + 1) last[1] = Math.max(last[1], to);
    else merged.push([from, to]);
  }
  return merged;
}
