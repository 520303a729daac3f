import { PresyncError } from '@presync/runtime/errors';
import { MAX_PATH_LENGTH } from './limits.ts';

/**
 * One segment of an archive path, a channel or a chain spec id: what such names are made of in the field, and nothing that a
 * shell, a URL, an object store or another file system reads in a second way.
 */
const SEGMENT = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;

/** True for a name that may be one segment: no separator, no leading dot or dash, no control character. */
export function isSafeSegment(segment: string): boolean {
  return SEGMENT.test(segment);
}

/** True for a relative, `/`-separated path of safe segments. */
export function isSafePath(path: string): boolean {
  return path.length > 0 && path.length <= MAX_PATH_LENGTH && path.split('/').every(isSafeSegment);
}

/** Rejects with PATH_UNSAFE unless the path is relative and made of safe segments. */
export function assertSafePath(path: string, what: string): void {
  if (isSafePath(path)) return;
  throw new PresyncError(
    'PATH_UNSAFE',
    `${what} ${JSON.stringify(path.slice(0, MAX_PATH_LENGTH))} is not a safe relative path`,
    {
      hint: 'do not use this snapshot; take a new one with presync on the source node',
    },
  );
}

/** `<chain spec id>/<profile>`. */
export function isChannel(channel: string): boolean {
  const segments = channel.split('/');
  return segments.length === 2 && segments.every(isSafeSegment);
}

/** Where everything lies in a repository. Keys are relative to the store's prefix. */
export const repositoryKeys = {
  repository: 'presync.json',
  chunk: (sha256: string): string => `chunks/${sha256.slice(0, 2)}/${sha256}`,
  index: (channel: string, sequence: number): string => `snapshots/${channel}/${sequence}/index.zst`,
  manifest: (channel: string, sequence: number): string => `snapshots/${channel}/${sequence}/manifest.json`,
  proof: (channel: string, sequence: number): string => `snapshots/${channel}/${sequence}/proof.json`,
  snapshots: (channel: string): string => `snapshots/${channel}/`,
  latest: (channel: string): string => `channels/${channel}/latest.json`,
  channels: 'channels/',
  lease: (kind: string, id: string): string => `leases/${kind}/${id}.json`,
  leases: 'leases/',
  chunks: 'chunks/',
  allSnapshots: 'snapshots/',
  pin: (channel: string, sequence: number): string => `pins/${channel}/${sequence}.json`,
  pins: 'pins/',
  removed: (channel: string): string => `channels/${channel}/removed.json`,
  tombstones: 'tombstones/',
  collection: (id: string): string => `tombstones/${id}/state.json`,
  /** Numbers have five digits, so that key order is their order. */
  tombstonePart: (id: string, part: number): string =>
    `tombstones/${id}/parts/${String(part).padStart(5, '0')}`,
  /** A note that somebody needs the chunk, which the collection must then leave. */
  tombstoneKept: (id: string, sha256: string): string => `tombstones/${id}/kept/${sha256}`,
} as const;

/** True for a key whose object is never replaced by something else: a chunk's key names its content. */
export function isContentKey(key: string): boolean {
  return key.startsWith('chunks/');
}
