import type { Manifest } from '@presync/format/manifest';
import type { PublicKey } from '@presync/format/signature';
import { type Backend, isPartPath } from '@presync/node/layout';
import { isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { ComposedSources } from '@presync/store/compose';
import { assertNotQuarantined } from '@presync/transfer/proof';
import {
  listChannels,
  openRepository,
  type Repository,
  resolveSnapshot,
  type Snapshot,
} from '@presync/transfer/repository';
import { readSeen } from '@presync/transfer/seen';

export interface FindSnapshotOptions {
  /** Where the snapshot comes from. The caller closes them. */
  from: ComposedSources;
  /** Default: the repository's only channel. */
  channel?: string | undefined;
  snapshot: 'latest' | number;
  /** Take the snapshot that is asked for by its number although it has not passed its proof. */
  allowQuarantined?: boolean | undefined;
  trusted: readonly PublicKey[] | 'anybody';
  /** Demanded of the snapshot, where given. */
  chain?: string | undefined;
  backend?: Backend | undefined;
  genesisHash?: string | undefined;
  /** Refuse a snapshot that is older, milliseconds. */
  maxAgeMs?: number | undefined;
  stateDir: string;
  log: Logger;
  signal: AbortSignal;
}

export interface FoundSnapshot {
  repository: Repository;
  channel: string;
  snapshot: Snapshot;
}

/** The snapshot that was asked for, from the first source that has a fit one. The first source's refusal is thrown when none has. */
export async function findSnapshot(options: FindSnapshotOptions): Promise<FoundSnapshot> {
  const { from, stateDir, signal } = options;
  const failures: unknown[] = [];
  let { channel } = options;
  for (const store of from.stores) {
    try {
      const mirrors = from.stores.filter((other) => other !== store);
      const repository = await openRepository(store, { sources: from.sources, mirrors, signal });
      channel ??= await onlyChannel(await listed(repository, options), signal);
      const snapshot = await resolveSnapshot(repository, {
        channel,
        snapshot: options.snapshot,
        trusted: options.trusted,
        genesisHash: options.genesisHash,
        seen: await readSeen({ stateDir, repositoryId: repository.id, channel }),
        signal,
      });
      assertFits(snapshot.manifest, options);
      if (options.snapshot !== 'latest' && options.allowQuarantined !== true)
        await assertNotQuarantined(repository, snapshot, { signal });
      await leaveOutOthers(repository, options);
      return { repository, channel, snapshot };
    } catch (error) {
      throwIfAborted(signal);
      if (!isPresyncError(error)) throw error;
      failures.push(error);
      if (from.stores.length > 1)
        options.log.warn('source.unfit', `${store.location} has no fit snapshot: ${error.message}`, {
          source: store.location,
          code: error.code,
        });
    }
  }
  throw failures[0];
}

/** How long the other sources get to say which repository they hold. */
const ASK_MS = 2000;

/**
 * A source with another repository, as a peer that offers its own database, has other chunks, or the same ones in other frames: asked for them, it
 * would look like one that gives wrong bytes. One that does not answer in time is asked all the same.
 */
async function leaveOutOthers(
  repository: Repository,
  { from, log, signal }: FindSnapshotOptions,
): Promise<void> {
  const others = from.stores.filter((store) => store !== repository.store);
  const soon = AbortSignal.any([signal, AbortSignal.timeout(ASK_MS)]);
  await Promise.all(
    others.map(async (store) => {
      try {
        const { id } = await openRepository(store, { signal: soon });
        if (id === repository.id) return;
        from.sources.leaveOut(store.location, `it holds another repository, ${id}`);
        log.info('source.other', `${store.location} holds another repository, and is not asked for chunks`, {
          source: store.location,
          repository: id,
        });
      } catch (error) {
        throwIfAborted(signal);
        if (!isPresyncError(error)) throw error;
      }
    }),
  );
}

/** The repository, in a store that can be listed, if there is one: a web server cannot say which channels there are. */
async function listed(repository: Repository, { from, signal }: FindSnapshotOptions): Promise<Repository> {
  if (repository.store.traits.listable) return repository;
  const other = from.stores.find(({ traits }) => traits.listable);
  return other === undefined ? repository : openRepository(other, { signal });
}

/** The channel to use when none is named. */
export async function onlyChannel(repository: Repository, signal: AbortSignal): Promise<string> {
  const channels: string[] = [];
  for await (const channel of listChannels(repository, { signal })) {
    channels.push(channel);
    if (channels.length > 10) break;
  }
  const [first] = channels;
  if (first === undefined) {
    throw new PresyncError('CHANNEL_NOT_FOUND', `${repository.store.location} holds no finished snapshot`, {
      hint: 'take one with "presync snapshot"',
    });
  }
  if (channels.length > 1) {
    throw new PresyncError(
      'CONFIG_INVALID',
      `${repository.store.location} has several channels: ${channels.join(', ')}`,
      { hint: 'choose one with --channel' },
    );
  }
  return first;
}

/** True for a snapshot of the chain and with the backend that are demanded. */
export function isFit(
  { chain, node }: Manifest,
  wanted: Pick<FindSnapshotOptions, 'chain' | 'backend' | 'genesisHash'>,
): boolean {
  return (
    chain.specId === (wanted.chain ?? chain.specId) &&
    chain.genesisHash === (wanted.genesisHash ?? chain.genesisHash) &&
    node.parts.every(({ role, backend }) => role !== 'main' || backend === (wanted.backend ?? backend))
  );
}

/** Checks the snapshot against what this machine is for. */
function assertFits(manifest: Manifest, options: FindSnapshotOptions): void {
  const name = `snapshot ${manifest.channel}#${manifest.sequence}`;
  if (options.chain !== undefined && manifest.chain.specId !== options.chain) {
    throw new PresyncError(
      'MANIFEST_FOREIGN',
      `${name} is of chain ${manifest.chain.specId}, not ${options.chain}`,
      { hint: 'check --channel and --chain' },
    );
  }
  for (const part of manifest.node.parts) {
    if (options.backend !== undefined && part.role === 'main' && part.backend !== options.backend) {
      throw new PresyncError(
        'TARGET_BACKEND',
        `${name} is a ${part.backend} database, and the node here uses ${options.backend}`,
        {
          hint: 'choose a channel with that backend, or start the node with the other --database',
        },
      );
    }
    if (!isPartPath(part, manifest.chain.specId, manifest.node.parts)) {
      throw new PresyncError(
        'PATH_UNSAFE',
        `${name} would be restored to ${part.path}, where no node of chain ${manifest.chain.specId} looks for it`,
        {
          hint: 'do not use this snapshot',
        },
      );
    }
  }
  const age = Date.now() - Date.parse(manifest.created);
  if (options.maxAgeMs !== undefined && age > options.maxAgeMs) {
    throw new PresyncError(
      'SNAPSHOT_NOT_FOUND',
      `${name} of ${manifest.created} is older than --max-age allows`,
      {
        hint: 'find out why the source node takes no snapshots, or allow an older one',
      },
    );
  }
}
