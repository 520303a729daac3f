import { readSigningKey } from '@presync/format/key-files';
import type { CommandConfig } from '@presync/runtime/commands';
import { PresyncError } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { Metrics } from '@presync/runtime/metrics';
import type { ProgressSink } from '@presync/runtime/progress';
import { readStoreAccess } from '@presync/store/access';
import { composeStore } from '@presync/store/compose';
import type { TakeSnapshotOptions } from './take-snapshot.ts';

/** The options that the command and the daemon share. */
export type TakeConfig = Omit<CommandConfig<'snapshot'>, 'dryRun'>;

export interface ComposeParts {
  log: Logger;
  progress: ProgressSink;
  metrics?: Metrics | undefined;
  signal: AbortSignal;
}

/** Puts the snapshot's parts together from configuration. The caller closes the store. */
export async function composeTakeSnapshot(
  config: TakeConfig,
  parts: ComposeParts,
): Promise<TakeSnapshotOptions> {
  if (config.signKey.length === 0 && !config.insecureNoSign) {
    throw new PresyncError(
      'CONFIG_INVALID',
      'no signing key is given, so no agent could trust the snapshot',
      {
        hint: 'make one with "presync keys new --out FILE" and give it with --sign-key, or say --insecure-no-sign',
      },
    );
  }
  const keys = await Promise.all(config.signKey.map(readSigningKey));
  if (keys.length === 0)
    parts.log.warn('snapshot.unsigned', 'INSECURE: snapshots are published without a signature');
  const store = await composeStore(config.store, {
    metrics: parts.metrics?.store,
    access: await readStoreAccess(config),
    signal: parts.signal,
  });
  return {
    store,
    basePath: config.basePath,
    chain: config.chain,
    backend: config.backend,
    channel: config.channel,
    pause: config.pause,
    pid: config.pid,
    pidFile: config.pidFile,
    pauseBudgetMs: config.pauseBudget,
    rpcUrl: config.rpc,
    genesisHash: config.genesis,
    minPeers: config.minPeers,
    maxFinalityLag: config.maxFinalityLag,
    anchorAgeMs: config.anchorAge,
    keys,
    expiresMs: config.expires,
    stateDir: config.stateDir,
    viewDir: config.viewDir,
    chunkSize: config.chunkSize,
    level: config.compressionLevel,
    concurrency: config.concurrency,
    prove: config.prove,
    log: parts.log,
    progress: parts.progress,
    signal: parts.signal,
  };
}
