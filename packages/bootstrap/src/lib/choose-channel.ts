import type { PublicKey } from '@presync/format/signature';
import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import { listChannels, type Repository, resolveSnapshot } from '@presync/transfer/repository';
import { assertForThisNode, type Fit } from './fit.ts';

/** Channels that are looked at; more are no choice for a machine to make. */
const MAX_CHANNELS = 50;
/** Channels that an error names. */
const SHOWN = 10;

export interface ChooseChannelOptions extends Fit {
  trusted: readonly PublicKey[] | 'anybody';
  signal: AbortSignal;
}

/** The channel to use when none is named: the only one there is. */
export async function onlyChannel(repository: Repository, signal: AbortSignal): Promise<string> {
  const channels = await channelsOf(repository, signal);
  const [first] = channels;
  if (first !== undefined && channels.length === 1) return first;
  throw several(repository, channels);
}

/**
 * The channel to use when none is named: the only one there is, or the only one whose newest snapshot is for a node as it is
 * described. A channel that cannot be judged, because its newest manifest is damaged, makes the choice unclear: another one must not be taken in
 * its stead on the day on which it breaks.
 */
export async function chooseChannel(repository: Repository, options: ChooseChannelOptions): Promise<string> {
  const channels = await channelsOf(repository, options.signal);
  const [first] = channels;
  if (first !== undefined && channels.length === 1) return first;
  const said = options.chain ?? options.backend ?? options.genesisHash;
  if (said === undefined || channels.length > MAX_CHANNELS) throw several(repository, channels);
  const possible: string[] = [];
  const reasons: string[] = [];
  for (const channel of channels) {
    const why = await unfitness(repository, channel, options);
    if (why === undefined) possible.push(channel);
    else reasons.push(`${channel}: ${why}`);
  }
  const [fit] = possible;
  if (fit !== undefined && possible.length === 1) return fit;
  if (fit !== undefined) throw several(repository, possible);
  throw new PresyncError(
    'CHANNEL_NOT_FOUND',
    `${repository.store.location} has no channel for this node: ${reasons.slice(0, SHOWN).join('; ')}`,
    { hint: 'check --chain, --backend and --genesis, or choose a channel with --channel' },
  );
}

/** Why the channel's newest snapshot is not for such a node; undefined when it is, or may be. */
async function unfitness(
  repository: Repository,
  channel: string,
  options: ChooseChannelOptions,
): Promise<string | undefined> {
  const { trusted, genesisHash, signal } = options;
  try {
    const { manifest } = await resolveSnapshot(repository, {
      channel,
      snapshot: 'latest',
      trusted,
      genesisHash,
      allowExpired: true,
      signal,
    });
    assertForThisNode(manifest, options);
    return undefined;
  } catch (error) {
    if (!isPresyncError(error)) throw error;
    if (error.code === 'MANIFEST_FOREIGN' || error.code === 'TARGET_BACKEND') return error.message;
    if (error.exitCode === 4 || error.exitCode === 5) return undefined;
    throw error;
  }
}

async function channelsOf(repository: Repository, signal: AbortSignal): Promise<string[]> {
  const channels: string[] = [];
  for await (const channel of listChannels(repository, { signal })) {
    channels.push(channel);
    if (channels.length > MAX_CHANNELS) break;
  }
  if (channels.length > 0) return channels;
  throw new PresyncError('CHANNEL_NOT_FOUND', `${repository.store.location} holds no finished snapshot`, {
    hint: 'take one with "presync snapshot"',
  });
}

function several({ store }: Repository, channels: readonly string[]): PresyncError {
  const more = channels.length > SHOWN ? ', …' : '';
  return new PresyncError(
    'CONFIG_INVALID',
    `${store.location} has several channels: ${channels.slice(0, SHOWN).join(', ')}${more}`,
    { hint: 'choose one with --channel, or say which node it is for with --chain and --backend' },
  );
}
