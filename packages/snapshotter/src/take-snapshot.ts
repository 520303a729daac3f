import type { PrivateKey } from '@presync/format/signature';
import { checkGate } from '@presync/node/gate';
import { type DatabaseLayout, findDatabase, readDatabaseIdentity, scanDatabase } from '@presync/node/layout';
import { databaseHolder } from '@presync/node/locks';
import {
  createPauser,
  type PauserOptions,
  recoverPauses,
  watchBlocksAdvance,
  withPause,
} from '@presync/node/pause';
import { connectNode, type NodeRpc } from '@presync/node/rpc';
import { type FrozenView, prepareView, removeStaleViews, type ViewFile } from '@presync/node/view';
import { isPresyncError, messageOf, PresyncError } from '@presync/runtime/errors';
import { acquireLock } from '@presync/runtime/lock';
import type { Logger } from '@presync/runtime/log';
import type { ProgressSink } from '@presync/runtime/progress';
import type { ObjectStore } from '@presync/store/object-store';
import { proveConditionalWrites } from '@presync/store/probe';
import {
  assertChannel,
  assertRepositoryOrEmpty,
  openOrCreateRepository,
  readLatest,
  resolveSnapshot,
} from '@presync/transfer/repository';
import { type ProveMode, type UploadResult, uploadSnapshot } from '@presync/transfer/snapshot';
import type { SourceFile } from '@presync/transfer/source';
import { delay } from './lib/delay.ts';
import { nodePruning } from './lib/node-arguments.ts';

export interface TakeSnapshotOptions {
  store: ObjectStore;
  basePath: string;
  chain?: string | undefined;
  backend?: 'rocksdb' | 'paritydb' | undefined;
  /** Default `<chain spec id>/<backend>`. */
  channel?: string | undefined;
  /** `none` is for a database that no node has open. */
  pause: 'none' | 'signal';
  pid?: number | undefined;
  pidFile?: string | undefined;
  /** Milliseconds that the node may stand still. */
  pauseBudgetMs: number;
  /** The node's RPC. Not asked with pause `none`, unless given. */
  rpcUrl?: string | undefined;
  /** Demanded of the node; with pause `none` and no RPC it is where the manifest's genesis hash comes from. */
  genesisHash?: string | undefined;
  minPeers: number;
  /** Blocks between head and finalized block. */
  maxFinalityLag: number;
  /** How long a block must have been final before the pause to be promised as the copy's anchor, milliseconds. */
  anchorAgeMs: number;
  keys: readonly PrivateKey[];
  /** Milliseconds from now. */
  expiresMs?: number | undefined;
  stateDir: string;
  viewDir?: string | undefined;
  chunkSize?: number | undefined;
  level?: number | undefined;
  concurrency?: number | undefined;
  prove?: ProveMode | undefined;
  /** Check everything and stop before the node is touched. */
  dryRun?: boolean | undefined;
  log: Logger;
  progress: ProgressSink;
  signal: AbortSignal;
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
}

/** Where an RPC answers by default. */
const DEFAULT_RPC = 'ws://127.0.0.1:9944';
const RPC_TIMEOUT_MS = 15_000;
/** How long the node has to show a new block after the pause before that is reported. */
const ADVANCE_TIMEOUT_MS = 60_000;

/**
 * One snapshot: gate, store, pause, frozen view, resume, upload, prove, promote. Everything that can fail without the node is done before
 * it is paused; whatever happens after, the node runs again.
 */
export async function takeSnapshot(options: TakeSnapshotOptions): Promise<TakeSnapshotResult> {
  const { signal, log } = options;
  for (const recovered of await recoverPauses({ stateDir: options.stateDir, signal })) {
    log.warn('pause.recovered', 'an earlier presync had left the node paused; it runs again', {
      ...recovered,
    });
  }
  const layout = await findDatabase({
    basePath: options.basePath,
    chainId: options.chain,
    backend: options.backend,
    signal,
  });
  const channel = assertChannel(options.channel ?? `${layout.chainId}/${layout.backend}`);
  const lock = await acquireLock({ name: 'snapshot', dir: layout.dir, signal });
  try {
    return await takeLocked(options, layout, channel);
  } finally {
    await lock.release();
  }
}

async function takeLocked(
  options: TakeSnapshotOptions,
  layout: DatabaseLayout,
  channel: string,
): Promise<TakeSnapshotResult> {
  const { signal, store, log } = options;
  await removeStaleViews(layout, { viewDir: options.viewDir, signal });
  const holder = await databaseHolder(layout, { signal });
  const pauser = createPauser(pauserOptions(options, layout, holder));
  // A file that may not be in a snapshot, or that damages its identity, is found before anything is written or paused.
  const described = await describeOnly(layout, signal);
  await readDatabaseIdentity(layout, { signal });

  const rpcUrl = options.rpcUrl ?? (options.pause === 'none' ? undefined : DEFAULT_RPC);
  const rpc =
    rpcUrl === undefined ? undefined : await connectNode(rpcUrl, { timeoutMs: RPC_TIMEOUT_MS, signal });
  try {
    const facts = await passGate(options, rpc);
    // Before the probe, which writes: a place that holds something else is not written to.
    await assertRepositoryOrEmpty(store, { signal });
    await proveConditionalWrites(store, { signal });
    if (options.dryRun === true) return { channel, ...described };
    const repository = await openOrCreateRepository(store, { chunkSize: options.chunkSize, signal });
    await assertSameChain(repository, channel, facts.genesisHash, signal);

    const finalSince = performance.now();
    const frozen = await freeze(options, layout, pauser, rpc, facts, finalSince);
    const { view, seconds, head } = frozen;
    let released: Promise<void> | undefined;
    const release = (): Promise<void> => {
      released ??= view.release();
      return released;
    };
    try {
      const advancing =
        rpc === undefined || head === null ? undefined : watchAdvance(options, rpc, head.number);
      const bytes = view.files.reduce((sum, file) => sum + file.size, 0);
      const identity = await readDatabaseIdentity({ ...layout, dir: view.dir }, { signal });
      const pruning = await nodePruning(holder?.pid);
      options.progress.start({ label: `Snapshot of ${channel}`, total: bytes });
      const upload = await uploadSnapshot({
        repository,
        channel,
        files: view.files.map(toSourceFile),
        databaseIdentity: `${layout.backend} ${identity.identity} ${identity.version}`,
        describe: {
          expires:
            options.expiresMs === undefined ? null : new Date(Date.now() + options.expiresMs).toISOString(),
          chain: {
            specId: layout.chainId,
            name: facts.chainName,
            genesisHash: facts.genesisHash,
            anchor: facts.anchor,
            head,
            blockTimeMs: null,
          },
          node: {
            implementation: facts.implementation?.name ?? null,
            version: facts.implementation?.version ?? null,
            ...pruning,
            parts: [
              {
                role: 'main',
                backend: layout.backend,
                path: layout.archivePrefix,
                databaseVersion: identity.version,
                identity: identity.identity,
              },
            ],
          },
          pause: { strategy: options.pause, seconds },
        },
        keys: options.keys,
        stateDir: options.stateDir,
        level: options.level,
        concurrency: options.concurrency,
        prove: options.prove,
        onRead: release,
        onProgress: (done) => options.progress.advance(done),
        onEvent: (event, message, details) => log.info(event, message, details),
        signal,
      });
      options.progress.finish();
      const blocksAdvanced = await advancing;
      return { channel, upload, pauseSeconds: seconds, blocksAdvanced, files: view.files.length, bytes };
    } finally {
      await release();
    }
  } finally {
    await rpc?.close();
  }
}

function pauserOptions(
  options: TakeSnapshotOptions,
  layout: DatabaseLayout,
  holder: { pid?: number | undefined } | undefined,
): PauserOptions {
  if (options.pause === 'none') {
    if (holder === undefined) return { strategy: 'none' };
    const who = holder.pid === undefined ? 'a process' : `process ${holder.pid}`;
    throw new PresyncError(
      'NODE_PAUSE_FAILED',
      `${who} has ${layout.dir} open, so it cannot be copied as it is`,
      {
        hint: 'use --pause signal, or stop the node first',
      },
    );
  }
  return {
    strategy: 'signal',
    pid: options.pid,
    pidFile: options.pidFile,
    expectedHolderPid: holder?.pid,
    stateDir: options.stateDir,
    budgetMs: options.pauseBudgetMs,
  };
}

interface ChainFacts {
  genesisHash: string;
  chainName: string | null;
  anchor: { number: number; hash: string } | null;
  implementation: { name: string; version: string } | undefined;
}

/** Asks the node whether a good snapshot can be taken now. GATE_SHUT names every reason. */
async function passGate(options: TakeSnapshotOptions, rpc: NodeRpc | undefined): Promise<ChainFacts> {
  const { signal } = options;
  if (rpc === undefined) {
    if (options.genesisHash === undefined) {
      throw new PresyncError('CONFIG_INVALID', 'without an RPC the genesis hash of the chain is not known', {
        hint: 'give it with --genesis 0x…, or let the node answer at --rpc URL',
      });
    }
    return { genesisHash: options.genesisHash, chainName: null, anchor: null, implementation: undefined };
  }
  const genesisHash = await rpc.genesisHash();
  if (options.genesisHash !== undefined && options.genesisHash !== genesisHash) {
    throw new PresyncError(
      'NODE_WRONG_CHAIN',
      `the node is on the chain with genesis ${genesisHash}, not ${options.genesisHash}`,
      {
        hint: 'check --rpc and --genesis',
      },
    );
  }
  const gate = await checkGate(rpc, {
    minPeers: options.minPeers,
    maxFinalityLag: options.maxFinalityLag,
    signal,
  });
  if (!gate.open) {
    throw new PresyncError('GATE_SHUT', `no snapshot is taken now: ${gate.reasons.join('; ')}`, {
      hint: 'wait until the node is healthy and synced; the limits are --min-peers and --max-finality-lag',
    });
  }
  return {
    genesisHash,
    chainName: await rpc.chainName(),
    anchor: gate.finalized,
    implementation: await rpc.implementation(),
  };
}

async function describeOnly(
  layout: DatabaseLayout,
  signal: AbortSignal,
): Promise<{ files: number; bytes: number }> {
  const files = await scanDatabase(layout, { signal });
  return { files: files.length, bytes: files.reduce((sum, file) => sum + file.size, 0) };
}

/** A channel is of one chain for ever. */
async function assertSameChain(
  repository: Awaited<ReturnType<typeof openOrCreateRepository>>,
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

/** Prepares the view, waits until the anchor has aged, pauses the node, freezes, and resumes. */
async function freeze(
  options: TakeSnapshotOptions,
  layout: DatabaseLayout,
  pauser: ReturnType<typeof createPauser>,
  rpc: NodeRpc | undefined,
  facts: ChainFacts,
  finalSince: number,
): Promise<{ view: FrozenView; seconds: number; head: { number: number; hash: string } | null }> {
  const { signal, log } = options;
  const prepared = await prepareView({ layout, viewDir: options.viewDir, signal });
  try {
    // What the node has only in memory is not in the copy; a block that is final for a while has long been written.
    if (facts.anchor !== null) await delay(options.anchorAgeMs - (performance.now() - finalSince), signal);
    const head = rpc === undefined ? null : await rpc.best();
    const { result: view, seconds } = await withPause(pauser, { signal }, ({ signal: budget }) =>
      prepared.freeze({ signal: budget }),
    );
    log.info('view.frozen', 'the view is frozen, the node runs', {
      seconds,
      files: view.files.length,
      copiedBytes: view.bytesCopiedInPause,
      ...view.methods,
    });
    return { view, seconds, head };
  } catch (error) {
    await prepared.discard();
    throw error;
  }
}

/** Watches, beside the upload, that the node goes on after the pause. A node that does not is reported; the snapshot is good all the same. */
async function watchAdvance(
  { log, signal }: TakeSnapshotOptions,
  rpc: NodeRpc,
  since: number,
): Promise<boolean> {
  try {
    await watchBlocksAdvance(rpc, { since, timeoutMs: ADVANCE_TIMEOUT_MS, signal });
    return true;
  } catch (error) {
    log.error('node.blocks_stalled', 'the node shows no new block since it was paused', {
      since,
      reason: messageOf(error),
    });
    return false;
  }
}

function toSourceFile(file: ViewFile): SourceFile {
  const { dev, ino, mtimeNs, birthtimeNs } = file;
  return {
    path: file.archivePath,
    size: file.size,
    class: file.class,
    mode: file.mode,
    mtimeMs: Number(mtimeNs / 1_000_000n),
    readPath: file.viewPath,
    identity: { dev, ino, mtimeNs, birthtimeNs },
  };
}
