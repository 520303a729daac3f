import {
  type DatabaseFile,
  type DatabaseLayout,
  findDatabase,
  readDatabaseIdentity,
  scanDatabase,
} from '@presync/node/layout';
import { type DatabaseHolder, databaseHolder } from '@presync/node/locks';
import {
  createPauser,
  type Pauser,
  type PauserOptions,
  recoverPauses,
  watchBlocksAdvance,
  withPause,
} from '@presync/node/pause';
import { connectNode, type NodeRpc } from '@presync/node/rpc';
import { type FrozenView, prepareView, removeStaleViews } from '@presync/node/view';
import { messageOf, PresyncError } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { SnapshotDescription } from '@presync/transfer/snapshot';
import type { SourceFile } from '@presync/transfer/source';
import { delay } from './delay.ts';
import { nodePruning } from './node-arguments.ts';
import { type ChainFacts, type GateSettings, passGates } from './pass-gates.ts';
import { lockPause } from './pause-lock.ts';

/** The parts of a snapshot's work, in their order. */
export type SnapshotPhase =
  | 'gate'
  | 'store'
  | 'prepare'
  | 'anchor'
  | 'pause'
  | 'upload'
  | 'publish'
  | 'prove'
  | 'after';

/** What everything that takes a frozen view of a node's database has to know of the node. */
export interface SourceNodeOptions extends GateSettings {
  basePath: string;
  chain?: string | undefined;
  backend?: 'rocksdb' | 'paritydb' | undefined;
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
  /** How long a block must have been final before the pause to be promised as the copy's anchor, milliseconds. */
  anchorAgeMs: number;
  /** Milliseconds from now until the snapshot expires. */
  expiresMs?: number | undefined;
  stateDir: string;
  viewDir?: string | undefined;
  /** Told when a part of the work begins. */
  onPhase?: ((phase: SnapshotPhase) => void) | undefined;
  /** Told that the preparation of a view moves, which may take hours where files are copied. */
  onMove?: (() => void) | undefined;
  log: Logger;
  signal: AbortSignal;
}

/** A node that has passed the gate. */
export interface SourceNode {
  readonly genesisHash: string;
  /** How many files the database had when it was looked at, and their bytes. */
  readonly files: number;
  readonly bytes: number;
  /**
   * Prepares the view, waits until the anchor has aged, pauses the node, freezes, and resumes. Whatever happens, the node runs again. To be
   * called once.
   */
  freeze(): Promise<FrozenDatabase>;
  /** Lets go of the RPC. May be called twice. */
  close(): Promise<void>;
}

export interface FrozenDatabase {
  /** The view's files. */
  readonly files: SourceFile[];
  /** Bytes of files. */
  readonly bytes: number;
  /** Bytes that they take on disk; less than `bytes` where they have holes. */
  readonly allocated: number;
  /** Tells the database from one that was made anew. */
  readonly databaseIdentity: string;
  readonly describe: SnapshotDescription;
  /**
   * True when the node has made or imported a block since the pause, false when it has not in time, which has been logged; undefined when nobody was
   * there to ask.
   */
  readonly advancing: Promise<boolean | undefined>;
  /** Removes the view. May be called twice. */
  release(): Promise<void>;
}

/** Where an RPC answers by default. */
const DEFAULT_RPC = 'ws://127.0.0.1:9944';
const RPC_TIMEOUT_MS = 15_000;
/** How long the node has to show a new block after the pause before that is reported. */
const ADVANCE_TIMEOUT_MS = 60_000;

/** The database of the node, after a node that an earlier presync left paused was resumed. */
export async function findSource({
  basePath,
  chain,
  backend,
  stateDir,
  log,
  signal,
}: SourceNodeOptions): Promise<DatabaseLayout> {
  for (const recovered of await recoverPauses({ stateDir, signal })) {
    log.warn('pause.recovered', 'an earlier presync had left the node paused; it runs again', {
      ...recovered,
    });
  }
  return findDatabase({ basePath, chainId: chain, backend, signal });
}

/** Looks at the database and asks the node whether a good view of it can be taken now. Nothing is paused or written. */
export async function openSource(options: SourceNodeOptions, layout: DatabaseLayout): Promise<SourceNode> {
  const { signal } = options;
  await removeStaleViews(layout, { viewDir: options.viewDir, signal });
  const holder = await databaseHolder(layout, { signal });
  const pauser = createPauser(pauserOptions(options, layout, holder));
  // A file that may not be in a snapshot, or that damages its identity, is found before anything is written or paused.
  const files = await scanDatabase(layout, { signal });
  await readDatabaseIdentity(layout, { signal });
  const rpcUrl = options.rpcUrl ?? (options.pause === 'none' ? undefined : DEFAULT_RPC);
  const rpc =
    rpcUrl === undefined ? undefined : await connectNode(rpcUrl, { timeoutMs: RPC_TIMEOUT_MS, signal });
  try {
    const facts = await passGates(options, { layout, files, holder, rpc });
    const closed = new AbortController();
    const context: Context = {
      options,
      layout,
      holder,
      pauser,
      rpc,
      facts,
      finalSince: performance.now(),
      closed: closed.signal,
    };
    return {
      genesisHash: facts.genesisHash,
      files: files.length,
      bytes: files.reduce((sum, file) => sum + file.size, 0),
      freeze: () => freeze(context),
      close: async () => {
        closed.abort();
        await rpc?.close();
      },
    };
  } catch (error) {
    await rpc?.close();
    throw error;
  }
}

interface Context {
  options: SourceNodeOptions;
  layout: DatabaseLayout;
  holder: DatabaseHolder | undefined;
  pauser: Pauser;
  rpc: NodeRpc | undefined;
  facts: ChainFacts;
  /** When the anchor was seen to be final, by the monotonic clock. */
  finalSince: number;
  /** Fires when nobody wants to know any more how the node goes on. */
  closed: AbortSignal;
}

function pauserOptions(
  options: SourceNodeOptions,
  layout: DatabaseLayout,
  holder: DatabaseHolder | undefined,
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

async function freeze(context: Context): Promise<FrozenDatabase> {
  const { options, layout, holder, facts } = context;
  const { view, seconds, head } = await takeView(context);
  try {
    const identity = await readDatabaseIdentity({ ...layout, dir: view.dir }, { signal: options.signal });
    const pruning = await nodePruning(holder?.pid);
    let released: Promise<void> | undefined;
    return {
      files: view.files.map((file) => toSourceFile(file, file.viewPath)),
      bytes: view.files.reduce((sum, file) => sum + file.size, 0),
      allocated: view.files.reduce((sum, file) => sum + file.allocated, 0),
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
      advancing: watchAdvance(context, head),
      release: () => {
        released ??= view.release();
        return released;
      },
    };
  } catch (error) {
    await view.release();
    throw error;
  }
}

async function takeView({ options, layout, pauser, rpc, facts, finalSince }: Context): Promise<{
  view: FrozenView;
  seconds: number;
  head: { number: number; hash: string } | null;
}> {
  const { signal, log } = options;
  options.onPhase?.('prepare');
  const prepared = await prepareView({
    layout,
    viewDir: options.viewDir,
    onProgress: () => options.onMove?.(),
    signal,
  });
  try {
    // What the node has only in memory is not in the copy; a block that is final for a while has long been written.
    options.onPhase?.('anchor');
    if (facts.anchor !== null) await delay(options.anchorAgeMs - (performance.now() - finalSince), signal);
    options.onPhase?.('pause');
    const lock = await lockPause(layout, { log, signal });
    try {
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
    } finally {
      await lock.release();
    }
  } catch (error) {
    await prepared.discard();
    throw error;
  }
}

/** Watches, beside the work, that the node goes on after the pause. A node that does not is reported; the view is good all the same. */
async function watchAdvance(
  { options, rpc, closed }: Context,
  head: { number: number } | null,
): Promise<boolean | undefined> {
  if (rpc === undefined || head === null) return undefined;
  const { log } = options;
  const signal = AbortSignal.any([options.signal, closed]);
  try {
    await watchBlocksAdvance(rpc, { since: head.number, timeoutMs: ADVANCE_TIMEOUT_MS, signal });
    return true;
  } catch (error) {
    if (signal.aborted) return undefined;
    log.error('node.blocks_stalled', 'the node shows no new block since it was paused', {
      since: head.number,
      reason: messageOf(error),
    });
    return false;
  }
}

function toSourceFile(file: DatabaseFile, readPath: string): SourceFile {
  const { dev, ino, mtimeNs, birthtimeNs } = file;
  return {
    path: file.archivePath,
    size: file.size,
    class: file.class,
    mode: file.mode,
    mtimeMs: Number(mtimeNs / 1_000_000n),
    readPath,
    identity: { dev, ino, mtimeNs, birthtimeNs },
  };
}
