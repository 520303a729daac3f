import { readTrustedKey } from '@presync/format/key-files';
import type { PublicKey } from '@presync/format/signature';
import type { Backend } from '@presync/node/layout';
import type { CommandConfig } from '@presync/runtime/commands';
import { PresyncError } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { Metrics } from '@presync/runtime/metrics';
import type { ProgressSink } from '@presync/runtime/progress';
import { type AccessConfig, readStoreAccess } from '@presync/store/access';
import { composeSources } from '@presync/store/compose';
import type { FindSnapshotOptions } from './find-snapshot.ts';
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
export type RestoreConfig = Omit<CommandConfig<'restore'>, 'yes'>;

/** Puts the restore's parts together from configuration. The caller closes the sources. */
export async function composeRestore(
  config: RestoreConfig,
  parts: ComposeParts & { progress: ProgressSink },
): Promise<RestoreDatabaseOptions> {
  return {
    ...(await composeFind(config, parts)),
    basePath: config.basePath,
    existing: config.existing,
    owner: config.owner,
    concurrency: config.concurrency,
    dryRun: config.dryRun,
    progress: parts.progress,
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
