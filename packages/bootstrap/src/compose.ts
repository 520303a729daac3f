import { readTrustedKey } from '@presync/format/key-files';
import type { PublicKey } from '@presync/format/signature';
import type { CommandConfig } from '@presync/runtime/commands';
import { PresyncError } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { Metrics } from '@presync/runtime/metrics';
import type { ProgressSink } from '@presync/runtime/progress';
import { composeStore } from '@presync/store/compose';
import type { RestoreDatabaseOptions } from './restore-database.ts';

export interface ComposeParts {
  log: Logger;
  progress: ProgressSink;
  metrics?: Metrics | undefined;
  signal: AbortSignal;
}

/** The options that restore and bootstrap share. */
export type RestoreConfig = Omit<CommandConfig<'restore'>, 'yes'>;

/** Puts the restore's parts together from configuration. The caller closes the store. */
export async function composeRestore(
  config: RestoreConfig,
  parts: ComposeParts,
): Promise<RestoreDatabaseOptions> {
  const trusted = await composeTrust(config, parts.log);
  const store = await composeStore(config.store, { metrics: parts.metrics?.store, signal: parts.signal });
  return {
    store,
    basePath: config.basePath,
    channel: config.channel,
    snapshot: config.snapshot,
    trusted,
    chain: config.chain,
    backend: config.backend,
    genesisHash: config.genesis,
    maxAgeMs: config.maxAge,
    existing: config.existing,
    owner: config.owner,
    concurrency: config.concurrency,
    stateDir: config.stateDir,
    dryRun: config.dryRun,
    log: parts.log,
    progress: parts.progress,
    signal: parts.signal,
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
