import { readTrustedKey } from '@presync/format/key-files';
import type { PublicKey } from '@presync/format/signature';
import type { Backend } from '@presync/node/layout';
import { configuredNode } from '@presync/node/node-arguments';
import type { CommandConfig } from '@presync/runtime/commands';
import { PresyncError } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { Metrics } from '@presync/runtime/metrics';
import type { ProgressSink } from '@presync/runtime/progress';
import { type AccessConfig, readStoreAccess } from '@presync/store/access';
import { composeSources } from '@presync/store/compose';
import { createDownloads } from '@presync/store/download';
import { logNotices } from '@presync/store/notices';
import { measureClockSkew } from '@presync/store/server-time';
import { type CloudGroup, createCloudGroup } from './cloud-group.ts';
import type { FindSnapshotOptions } from './find-snapshot.ts';
import { assertFallbacks } from './lib/fallback-rules.ts';
import { openCloud } from './open-cloud.ts';
import type { PreflightSettings } from './preflight.ts';
import type { RestoreArchiveOptions } from './restore-archive.ts';
import type { RestoreDatabaseOptions } from './restore-database.ts';

export interface ComposeParts {
  log: Logger;
  metrics?: Metrics | undefined;
  signal: AbortSignal;
}

/** The options of every command that gets a snapshot. */
type FindConfig = Pick<
  CommandConfig<'export'>,
  | keyof AccessConfig
  | 'store'
  | 'source'
  | 'concurrency'
  | 'channel'
  | 'snapshot'
  | 'toBlock'
  | 'allowQuarantined'
  | 'trust'
  | 'insecureNoVerify'
  | 'genesis'
  | 'stateDir'
> & { maxAge?: number | undefined; chain?: string | undefined; backend?: Backend | undefined };

/** Puts together from configuration where a snapshot comes from and which one it may be. The caller closes the sources. */
export async function composeFind(config: FindConfig, parts: ComposeParts): Promise<FindSnapshotOptions> {
  const trusted = await composeTrust(config, parts.log);
  const [first = config.store, ...others] = [...config.source, config.store];
  const from = await composeSources([first, ...others], {
    metrics: parts.metrics?.store,
    access: await readStoreAccess(config),
    onNotice: logNotices(parts.log),
    concurrency: config.concurrency,
    onEvent: ({ kind, location, key, reason }) => {
      const level = kind === 'dropped' ? 'warn' : 'debug';
      parts.log[level](`source.${kind}`, `${location}: ${reason}`, { source: location, key });
    },
    signal: parts.signal,
  });
  return {
    from,
    channel: config.channel,
    snapshot: config.snapshot,
    toBlock: config.toBlock,
    allowQuarantined: config.allowQuarantined,
    trusted,
    chain: config.chain,
    backend: config.backend,
    genesisHash: config.genesis,
    maxAgeMs: config.maxAge,
    stateDir: config.stateDir,
    log: parts.log,
    signal: parts.signal,
  };
}

/** The options that restore and bootstrap share. */
export type RestoreConfig = Omit<CommandConfig<'restore'>, 'yes' | 'store' | 'archive' | 'archiveSha256'> & {
  store: string;
};

/** Puts the restore's parts together from configuration. The caller closes the sources. */
export async function composeRestore(
  config: RestoreConfig,
  parts: ComposeParts & { progress: ProgressSink },
): Promise<RestoreDatabaseOptions> {
  const { existing, fallback, freeRoom } = config;
  const checks = await composePreflight(config);
  const source = fallback.includes('warp') ? checks.node : undefined;
  const node = source === undefined ? undefined : await configuredNode(source, parts);
  assertFallbacks(fallback, node?.arguments);
  if (freeRoom && existing !== 'replace' && existing !== 'reuse') {
    throw new PresyncError(
      'CONFIG_INVALID',
      `--free-room removes an old database, which --existing ${existing} leaves alone`,
      { hint: 'say --existing replace or reuse, or leave --free-room out' },
    );
  }
  return {
    ...(await composeFind(config, parts)),
    fallback,
    maxAttempts: config.maxAttempts,
    retryFailed: config.retryFailed,
    importRate: config.importRate,
    warpSyncTimeMs: config.warpSyncTime,
    basePath: config.basePath,
    relayBasePath: config.relayBasePath,
    existing,
    freeRoom,
    owner: config.owner,
    sealedFile: config.sealedFile === 'none' ? undefined : config.sealedFile,
    preflight: checks,
    concurrency: config.concurrency,
    dryRun: config.dryRun,
    progress: parts.progress,
  };
}

/** Puts together from configuration what the preflight compares with. */
export async function composePreflight(
  config: Pick<
    CommandConfig<'restore'>,
    keyof AccessConfig | 'store' | 'unit' | 'nodeCommand' | 'preflightIgnore' | 'diskReserve'
  >,
): Promise<PreflightSettings> {
  const { store, unit, nodeCommand } = config;
  const access = await readStoreAccess(config);
  return {
    node: nodeCommand !== undefined ? { command: nodeCommand } : unit !== undefined ? { unit } : undefined,
    ignore: config.preflightIgnore,
    reserve: config.diskReserve,
    measureClock: async (signal) =>
      store === undefined ? undefined : measureClockSkew(store, { access, signal }),
  };
}

/** Puts the parts of a restore from an archive together. The caller closes the downloads. */
export async function composeArchive(
  config: CommandConfig<'restore'> & { archive: string },
  { log, progress, signal }: ComposeParts & { progress: ProgressSink },
): Promise<RestoreArchiveOptions> {
  const { existing, archiveSha256 } = config;
  if (existing === 'reuse') {
    throw new PresyncError('USAGE', 'an archive has no chunks, so none of an old database can be reused', {
      hint: 'use --existing replace, or restore from a repository',
    });
  }
  if (config.relayBasePath !== undefined) {
    throw new PresyncError('USAGE', 'an archive is of one database, so there is no place for a relay chain', {
      hint: "leave --relay-base-path out, and restore the relay chain's archive with its own --base-path",
    });
  }
  if (archiveSha256 === undefined) {
    if (!config.insecureNoVerify) {
      throw new PresyncError('CONFIG_INVALID', 'nothing proves an archive that others publish', {
        hint: 'give the SHA-256 that its publisher tells with --archive-sha256, or accept whatever comes with --insecure-no-verify',
      });
    }
    log.warn(
      'archive.unproved',
      'INSECURE: nothing proves this archive, so whoever made it, or stands between, decides what this node runs on',
    );
  }
  return {
    archive: config.archive,
    sha256: archiveSha256,
    downloads: createDownloads({
      access: await readStoreAccess(config),
      onRetry: ({ location, offset, reason }) =>
        log.warn('download.retried', `${location} is asked again from byte ${offset} on: ${reason}`, {
          offset,
        }),
    }),
    basePath: config.basePath,
    chain: config.chain,
    backend: config.backend,
    existing,
    owner: config.owner,
    preflight: await composePreflight(config),
    concurrency: config.concurrency,
    dryRun: config.dryRun,
    progress,
    log,
    signal,
  };
}

/** Whose signatures count. There is no default: trusting nobody is an error, trusting anybody has to be said. */
export async function composeTrust(
  config: { trust: readonly string[]; insecureNoVerify: boolean },
  log: Logger,
): Promise<PublicKey[] | 'anybody'> {
  if (config.insecureNoVerify) {
    log.warn(
      'trust.off',
      'INSECURE: signatures are not checked, so anybody who can write to the store decides what this node runs on',
    );
    return 'anybody';
  }
  if (config.trust.length === 0) {
    throw new PresyncError('CONFIG_INVALID', 'no trusted key is given, so no snapshot can be accepted', {
      hint: "give the source node's public key with --trust (there: presync keys public FILE)",
    });
  }
  return Promise.all(config.trust.map(readTrustedKey));
}

/** The group of the cloud that the instance runs in; undefined outside of clouds. The caller closes it. */
export async function composeGroup(
  config: Pick<
    CommandConfig<'bootstrap'>,
    'cloud' | 'cloudMetadata' | 'launchHook' | 'terminationHook' | 'drainTime'
  >,
  { log, metrics, signal }: ComposeParts,
): Promise<CloudGroup | undefined> {
  const { cloudMetadata: metadata, launchHook, terminationHook } = config;
  const sinks = { log, metrics: metrics?.cloud };
  const cloud = await openCloud(config.cloud, { ...sinks, metadata, launchHook, terminationHook, signal });
  return cloud === undefined ? undefined : createCloudGroup(cloud, { drainMs: config.drainTime });
}
