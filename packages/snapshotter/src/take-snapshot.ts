import type { PrivateKey } from '@presync/format/signature';
import { isPresyncError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { acquireLock } from '@presync/runtime/lock';
import type { ProgressSink } from '@presync/runtime/progress';
import type { ObjectStore } from '@presync/store/object-store';
import { proveConditionalWrites } from '@presync/store/probe';
import type { Clock } from '@presync/transfer/clock';
import {
  assertChannel,
  assertRepositoryOrEmpty,
  openOrCreateRepository,
  type Repository,
  readLatest,
  resolveSnapshot,
} from '@presync/transfer/repository';
import {
  type FurtherProof,
  type ProveMode,
  type UploadResult,
  uploadSnapshot,
} from '@presync/transfer/snapshot';
import {
  type FrozenDatabase,
  findSource,
  openSource,
  type SourceDatabases,
  type SourceNodeOptions,
} from './lib/source-node.ts';
import { type ProofOptions, prepareProof } from './prove-snapshot.ts';

export interface TakeSnapshotOptions extends SourceNodeOptions {
  store: ObjectStore;
  /** Called for each snapshot; default: this machine's clock. */
  createClock?: (() => Promise<Clock>) | undefined;
  /** Default `<chain spec id>/<backend>`. */
  channel?: string | undefined;
  keys: readonly PrivateKey[];
  chunkSize?: number | undefined;
  level?: number | undefined;
  concurrency?: number | undefined;
  prove?: ProveMode | undefined;
  /** Restore each snapshot, and open the copy, before it becomes the newest. */
  proof?: ProofOptions | undefined;
  /** Told when a new snapshot has failed its proof. */
  onQuarantined?: (() => void) | undefined;
  /** Check everything and stop before the node is touched. */
  dryRun?: boolean | undefined;
  progress: ProgressSink;
  /** What is to be done after a snapshot that is good, as retention. The snapshot stays good when it fails. */
  afterSnapshot?: ((repository: Repository, channel: string) => Promise<void>) | undefined;
}

export interface TakeSnapshotResult {
  channel: string;
  /** Absent after a dry run. */
  upload?: UploadResult | undefined;
  pauseSeconds?: number | undefined;
  /** True when the node made or imported a block after the pause; undefined when nobody was there to ask. */
  blocksAdvanced?: boolean | undefined;
  files: number;
  bytes: number;
  /** Bytes that the files take on disk. */
  allocated?: number | undefined;
}

/**
 * One snapshot: gate, store, pause, frozen view, resume, upload, prove, promote. Everything that can fail without the node is done before
 * it is paused; whatever happens after, the node runs again.
 */
export async function takeSnapshot(options: TakeSnapshotOptions): Promise<TakeSnapshotResult> {
  const { signal } = options;
  const databases = await findSource(options);
  const [main] = databases;
  const channel = assertChannel(options.channel ?? `${main.chainId}/${main.backend}`);
  const lock = await acquireLock({ name: 'snapshot', dir: main.dir, signal });
  try {
    return await takeLocked(options, databases, channel);
  } finally {
    await lock.release();
  }
}

async function takeLocked(
  options: TakeSnapshotOptions,
  databases: SourceDatabases,
  channel: string,
): Promise<TakeSnapshotResult> {
  const { signal, store, log, onPhase } = options;
  onPhase?.('gate');
  const source = await openSource(options, databases);
  try {
    onPhase?.('store');
    // Before the probe, which writes: a place that holds something else is not written to.
    await assertRepositoryOrEmpty(store, { signal });
    await proveConditionalWrites(store, { signal });
    const { proof, concurrency } = options;
    const proofOf =
      proof === undefined
        ? undefined
        : await prepareProof(proof, { bytes: source.allocated, concurrency, log, signal });
    if (options.dryRun === true) return { channel, files: source.files, bytes: source.bytes };
    const repository = await openOrCreateRepository(store, { chunkSize: options.chunkSize, signal });
    await assertSameChain(repository, channel, source.genesisHash, signal);

    const frozen = await source.freeze();
    const { files, bytes, allocated, describe } = frozen;
    const upload = await uploadFrozen(options, frozen, {
      repository,
      channel,
      proof: proofOf?.(repository),
    });
    return {
      channel,
      upload,
      pauseSeconds: describe.pause.seconds,
      blocksAdvanced: await frozen.advancing,
      files: files.length,
      bytes,
      allocated,
    };
  } finally {
    await source.close();
  }
}

/** Uploads the view, and removes it however that ends. */
async function uploadFrozen(
  options: TakeSnapshotOptions,
  frozen: FrozenDatabase,
  {
    repository,
    channel,
    proof,
  }: { repository: Repository; channel: string; proof: FurtherProof | undefined },
): Promise<UploadResult> {
  const { signal, log, onPhase } = options;
  const { files, bytes, describe, databaseIdentity, release } = frozen;
  try {
    onPhase?.('upload');
    options.progress.start({ label: `Snapshot of ${channel}`, total: bytes });
    const upload = await uploadSnapshot({
      repository,
      channel,
      files,
      databaseIdentity,
      describe,
      keys: options.keys,
      stateDir: options.stateDir,
      level: options.level,
      concurrency: options.concurrency,
      prove: options.prove,
      proof,
      clock: await options.createClock?.(),
      onRead: async () => {
        onPhase?.('publish');
        await release();
      },
      onProgress: (done) => options.progress.advance(done),
      onEvent: (event, message, details) => {
        if (event === 'snapshot.published') onPhase?.('prove');
        if (event === 'snapshot.quarantined') options.onQuarantined?.();
        log[event === 'snapshot.quarantined' ? 'error' : 'info'](event, message, details);
      },
      signal,
    });
    options.progress.finish();
    onPhase?.('after');
    await after(options, repository, channel);
    return upload;
  } catch (error) {
    await release();
    // That nobody has a snapshot now is no reason not to see whether the node goes on.
    if (!signal.aborted) await frozen.advancing;
    throw error;
  } finally {
    await release();
  }
}

/** What follows must not make a good snapshot look like a bad one. */
async function after(options: TakeSnapshotOptions, repository: Repository, channel: string): Promise<void> {
  try {
    await options.afterSnapshot?.(repository, channel);
  } catch (error) {
    throwIfAborted(options.signal);
    options.log.error('snapshot.after_failed', messageOf(error), { channel, error });
  }
}

/** A channel is of one chain for ever. */
async function assertSameChain(
  repository: Repository,
  channel: string,
  genesisHash: string,
  signal: AbortSignal,
): Promise<void> {
  if ((await readLatest(repository, channel, { signal })) === undefined) return;
  try {
    await resolveSnapshot(repository, {
      channel,
      snapshot: 'latest',
      trusted: 'anybody',
      genesisHash,
      allowExpired: true,
      signal,
    });
  } catch (error) {
    if (!isPresyncError(error, 'MANIFEST_FOREIGN')) throw error;
    throw new PresyncError(
      'NODE_WRONG_CHAIN',
      `channel ${channel} is of another chain than this node: ${error.message}`,
      {
        cause: error,
        hint: 'give this chain a channel of its own with --channel',
      },
    );
  }
}
