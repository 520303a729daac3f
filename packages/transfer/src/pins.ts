import { hostname, userInfo } from 'node:os';
import { encodeDocument } from '@presync/format/documents';
import { isChannel, repositoryKeys } from '@presync/format/paths';
import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import { type Clock, createClock } from './clock.ts';
import { confirmStored } from './lib/confirm-stored.ts';
import { includes, readRemoved } from './lib/removed.ts';
import { assertChannel, type Repository } from './repository.ts';

export interface PinOptions {
  repository: Repository;
  channel: string;
  sequence: number;
  /** Default: this machine's. */
  clock?: Clock | undefined;
  signal: AbortSignal;
}

/**
 * Pins a snapshot: no collector removes it until the pin is removed. A collector announces what it removes, and looks for pins after that; the pin is
 * put first, and the announcements are looked at after that: so one of the two sees the other. False when it was pinned already.
 */
export async function pinSnapshot({
  repository,
  channel,
  sequence,
  clock = createClock(),
  signal,
}: PinOptions): Promise<boolean> {
  const { store } = repository;
  const key = repositoryKeys.pin(assertChannel(channel), sequence);
  const manifest = repositoryKeys.manifest(channel, sequence);
  if ((await store.stat(manifest, { signal })) === undefined) throw notThere(channel, sequence);
  const document = encodeDocument({
    presync: 'pin',
    version: 1,
    channel,
    sequence,
    holder: `${userInfo().username}@${hostname()}`.slice(0, 255),
    created: new Date(clock.now()).toISOString(),
  });
  try {
    await store.put(key, document, { condition: { ifAbsent: true }, signal });
  } catch (error) {
    if (isPresyncError(error, 'CONDITION_FAILED')) return false;
    throw error;
  }
  await confirmStored(store, key, document.byteLength, signal);
  const { ranges } = await readRemoved(store, channel, signal);
  const gone = (await store.stat(manifest, { signal })) === undefined;
  if (!gone && !includes(ranges, sequence)) return true;
  await store.remove(key, { signal });
  throw notThere(channel, sequence);
}

/** Removes a pin. False when there was none. */
export async function unpinSnapshot({ repository, channel, sequence, signal }: PinOptions): Promise<boolean> {
  const key = repositoryKeys.pin(assertChannel(channel), sequence);
  if ((await repository.store.stat(key, { signal })) === undefined) return false;
  await repository.store.remove(key, { signal });
  return true;
}

/** The pinned snapshots of each channel. */
export async function listPins(
  { store }: Pick<Repository, 'store'>,
  { signal }: { signal: AbortSignal },
): Promise<Map<string, Set<number>>> {
  const pins = new Map<string, Set<number>>();
  for await (const { key } of store.list(repositoryKeys.pins, { signal })) {
    const [, channel, sequence] = /^pins\/(.+)\/([1-9][0-9]{0,14})\.json$/.exec(key) ?? [];
    if (channel === undefined || !isChannel(channel)) continue;
    const ofChannel = pins.get(channel) ?? new Set();
    pins.set(channel, ofChannel.add(Number(sequence)));
  }
  return pins;
}

/**
 * The pinned snapshots of a channel, the newest first.
 *
 * @throws SNAPSHOT_NOT_FOUND when none is pinned, or the store cannot tell
 */
export async function pinnedSequences(
  { store }: Pick<Repository, 'store'>,
  channel: string,
  { signal }: { signal: AbortSignal },
): Promise<number[]> {
  if (!store.traits.listable) {
    throw new PresyncError(
      'SNAPSHOT_NOT_FOUND',
      `${store.location} cannot be listed, so nobody can tell what is pinned there`,
      { hint: 'name the snapshot by its number with --snapshot, or read the bucket itself' },
    );
  }
  const pins = (await listPins({ store }, { signal })).get(channel) ?? new Set();
  if (pins.size > 0) return [...pins].toSorted((a, b) => b - a);
  throw new PresyncError('SNAPSHOT_NOT_FOUND', `channel ${channel} has no pinned snapshot`, {
    hint: 'pin one with "presync pin CHANNEL#SEQ", or leave --snapshot pinned out',
  });
}

/** What to resolve for a reference: the newest of the pinned ones for `pinned`. */
export async function resolvePinned(
  repository: Pick<Repository, 'store'>,
  channel: string,
  { snapshot, signal }: { snapshot: 'latest' | 'pinned' | number; signal: AbortSignal },
): Promise<'latest' | number> {
  if (snapshot !== 'pinned') return snapshot;
  const [newest] = await pinnedSequences(repository, channel, { signal });
  return newest ?? 'latest';
}

function notThere(channel: string, sequence: number): PresyncError {
  return new PresyncError(
    'SNAPSHOT_NOT_FOUND',
    `channel ${channel} has no snapshot ${sequence}, or it is being removed`,
    {
      hint: 'see "presync list"',
    },
  );
}
