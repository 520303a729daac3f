import { join, resolve } from 'node:path';
import { readSigningKey } from '@presync/format/key-files';
import type { CommandConfig } from '@presync/runtime/commands';
import { PresyncError } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { Metrics } from '@presync/runtime/metrics';
import type { ProgressSink } from '@presync/runtime/progress';
import { readStoreAccess } from '@presync/store/access';
import { composeStore } from '@presync/store/compose';
import { logNotices, logRetries } from '@presync/store/notices';
import { createStoreClock } from '@presync/transfer/store-clock';
import type { SourceNodeOptions } from './lib/source-node.ts';
import { type PauseConfig, pauseSettings } from './pause-settings.ts';
import type { ProofOptions } from './prove-snapshot.ts';
import type { TakeSnapshotOptions } from './take-snapshot.ts';

/** The options that the command and the daemon share. */
export type TakeConfig = Omit<CommandConfig<'snapshot'>, 'dryRun' | 'viaDaemon'>;

/** The options of everything that takes a frozen view and signs what is made of it. */
export type ViewConfig = PauseConfig &
  Pick<
    TakeConfig,
    | 'basePath'
    | 'chain'
    | 'backend'
    | 'channel'
    | 'rpc'
    | 'genesis'
    | 'minPeers'
    | 'maxFinalityLag'
    | 'diskReserve'
    | 'allowValidator'
    | 'anchorAge'
    | 'viewDir'
    | 'stateDir'
    | 'signKey'
    | 'insecureNoSign'
    | 'expires'
    | 'chunkSize'
    | 'concurrency'
    | 'prove'
  >;

export interface ComposeParts {
  log: Logger;
  progress: ProgressSink;
  metrics?: Metrics | undefined;
  /** Told of each call to the store that ended, or that is made again. */
  onStoreCall?: (() => void) | undefined;
  signal: AbortSignal;
}

/** What a frozen view and the snapshot of it take, put together from configuration. */
export type ViewParts = Pick<
  TakeSnapshotOptions,
  keyof SourceNodeOptions | 'channel' | 'keys' | 'chunkSize' | 'concurrency' | 'prove' | 'progress'
>;

export async function composeView(
  config: ViewConfig,
  { log, progress, signal }: ComposeParts,
): Promise<ViewParts> {
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
    log.warn('snapshot.unsigned', 'INSECURE: snapshots are published without a signature');
  return {
    basePath: config.basePath,
    chain: config.chain,
    backend: config.backend,
    channel: config.channel,
    pause: pauseSettings(config),
    rpcUrl: config.rpc,
    genesisHash: config.genesis,
    minPeers: config.minPeers,
    maxFinalityLag: config.maxFinalityLag,
    diskReserve: config.diskReserve,
    allowValidator: config.allowValidator,
    anchorAgeMs: config.anchorAge,
    keys,
    expiresMs: config.expires,
    stateDir: config.stateDir,
    viewDir: config.viewDir,
    chunkSize: config.chunkSize,
    concurrency: config.concurrency,
    prove: config.prove,
    log,
    progress,
    signal,
  };
}

/** Puts the snapshot's parts together from configuration. The caller closes the store. */
export async function composeTakeSnapshot(
  config: TakeConfig,
  parts: ComposeParts,
): Promise<TakeSnapshotOptions> {
  const view = await composeView(config, parts);
  const { log, metrics, onStoreCall, signal } = parts;
  const access = await readStoreAccess(config);
  const store = await composeStore(config.store, {
    metrics: {
      observe: (call) => {
        metrics?.store.observe(call);
        onStoreCall?.();
      },
      retried: (cause) => {
        metrics?.store.retried(cause);
        onStoreCall?.();
      },
    },
    access,
    onNotice: logNotices(log),
    onRetry: logRetries(log),
    signal,
  });
  const { databases, relayBasePath, compressionLevel: level, quietHours, timezone } = config;
  return {
    ...view,
    databases,
    relayBasePath,
    store,
    // A daemon runs for months: its clock is compared anew for each snapshot.
    createClock: () => createStoreClock(config.store, { access, signal }),
    level,
    proof: proofOptions(config),
    quietHours,
    timezone,
  };
}

function proofOptions(config: TakeConfig): ProofOptions | undefined {
  const { proveCommand, proveRestore, proveDir, proveIsolation, proveTimeout, stateDir } = config;
  if (!proveRestore && proveCommand === undefined) return undefined;
  return {
    dir: resolve(proveDir ?? join(stateDir, 'proofs')),
    command: proveCommand,
    isolation: proveIsolation,
    timeoutMs: proveTimeout,
  };
}
