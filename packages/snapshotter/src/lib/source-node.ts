import type { ManifestPart } from '@presync/format/manifest';
import {
  type DatabaseFile,
  type DatabaseLayout,
  findDatabase,
  findDatabases,
  readDatabaseIdentity,
  scanDatabase,
} from '@presync/node/layout';
import { type DatabaseHolder, databaseHolder } from '@presync/node/locks';
import {
  createPauser,
  type PauserOptions,
  type PauseSettings,
  watchBlocksAdvance,
} from '@presync/node/pause';
import { connectNode } from '@presync/node/rpc';
import { type FrozenView, removeStaleViews } from '@presync/node/view';
import { messageOf, PresyncError } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import type { SnapshotDescription } from '@presync/transfer/snapshot';
import type { SourceFile } from '@presync/transfer/source';
import { nodePruning } from './node-arguments.ts';
import { type GateSettings, passGates } from './pass-gates.ts';
import { recoverNode } from './recover-node.ts';
import { isCopied, takeViews, type ViewContext, viewDirOf } from './take-views.ts';

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
  /** `all` takes the relay chain's and those of parachain data as well. Default `main`. */
  databases?: 'main' | 'all' | undefined;
  relayBasePath?: string | undefined;
  pause: PauseSettings;
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
  /** Told when the node has shown no new block for too long after the pause. */
  onBlocksStalled?: (() => void) | undefined;
  log: Logger;
  signal: AbortSignal;
}

/** A node that has passed the gate. */
export interface SourceNode {
  readonly genesisHash: string;
  /** How many files the database had when it was looked at, and their bytes. */
  readonly files: number;
  readonly bytes: number;
  /** Bytes that they take on disk. */
  readonly allocated: number;
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
export const RPC_TIMEOUT_MS = 15_000;
/** How long the node has to show a new block after the pause before that is reported. */
const ADVANCE_TIMEOUT_MS = 60_000;
/** The same for one that was started anew. */
const RESTART_TIMEOUT_MS = 300_000;

/** The databases of the node, its chain's own first, after a node that an earlier presync left paused was resumed. */
export async function findSource(options: SourceNodeOptions): Promise<SourceDatabases> {
  await recoverNode(options);
  return locateDatabases(options);
}

/** The databases that are to be taken, the chain's own first. Nothing is done for it. */
export async function locateDatabases({
  basePath,
  relayBasePath,
  chain,
  backend,
  databases,
  signal,
}: DatabasePlace): Promise<SourceDatabases> {
  const place = { basePath, chainId: chain, backend, signal };
  if (databases !== 'all' && relayBasePath !== undefined) {
    throw new PresyncError(
      'CONFIG_INVALID',
      '--relay-base-path is given, and the relay chain is not to be taken',
      {
        hint: 'say --databases all, or leave --relay-base-path out',
      },
    );
  }
  if (databases !== 'all') return [await findDatabase(place)];
  const [main, ...others] = await findDatabases({ ...place, relayBasePath });
  if (main === undefined) throw new PresyncError('INTERNAL', 'a node without a database');
  return [main, ...others];
}

/** What says where the databases lie. */
export type DatabasePlace = Pick<
  SourceNodeOptions,
  'basePath' | 'relayBasePath' | 'chain' | 'backend' | 'databases' | 'signal'
>;

/** The main one and, where they are taken, the others. */
export type SourceDatabases = readonly [main: DatabaseLayout, ...others: DatabaseLayout[]];

/** Looks at the database and asks the node whether a good view of it can be taken now. Nothing is paused or written. */
export async function openSource(options: SourceNodeOptions, layouts: SourceDatabases): Promise<SourceNode> {
  const { signal } = options;
  const [main] = layouts;
  const holder = await databaseHolder(main, { signal });
  const pauser = createPauser(pauserOptions(options, layouts, holder));
  const files: DatabaseFile[] = [];
  for (const layout of layouts) {
    await removeStaleViews(layout, { viewDir: viewDirOf(layout, options), signal });
    await assertSameHolder(main, holder, layout, signal);
    // A file that may not be in a snapshot, or that damages its identity, is found before anything is written or paused.
    files.push(...(await scanDatabase(layout, { signal })));
    await readDatabaseIdentity(layout, { signal });
  }
  const rpcUrl = rpcUrlOf(options);
  const rpc =
    rpcUrl === undefined ? undefined : await connectNode(rpcUrl, { timeoutMs: RPC_TIMEOUT_MS, signal });
  try {
    const facts = await passGates(options, {
      layout: main,
      files: isCopied(options.pause) ? [] : files,
      holder,
      rpc,
    });
    const closed = new AbortController();
    const context: Context = {
      options,
      layouts,
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
      allocated: files.reduce((sum, file) => sum + file.allocated, 0),
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

/** Where the node is asked; undefined where it is not. */
export function rpcUrlOf({ rpcUrl, pause }: Pick<SourceNodeOptions, 'rpcUrl' | 'pause'>): string | undefined {
  return rpcUrl ?? (pause.strategy === 'none' ? undefined : DEFAULT_RPC);
}

/** One pause holds one process still, so all databases must be its own. */
async function assertSameHolder(
  main: DatabaseLayout,
  holder: DatabaseHolder | undefined,
  layout: DatabaseLayout,
  signal: AbortSignal,
): Promise<void> {
  if (layout === main) return;
  const other = await databaseHolder(layout, { signal });
  if ((holder === undefined) === (other === undefined) && holder?.pid === other?.pid) return;
  const who = (found: DatabaseHolder | undefined): string =>
    found === undefined ? 'nobody' : found.pid === undefined ? 'some process' : `process ${found.pid}`;
  throw new PresyncError(
    'NODE_PAUSE_FAILED',
    `${main.dir} is held open by ${who(holder)} and ${layout.dir} by ${who(other)}, so no one pause is good for both`,
    { hint: 'check --relay-base-path, or take the main database only with --databases main' },
  );
}

interface Context extends ViewContext {
  holder: DatabaseHolder | undefined;
  /** Fires when nobody wants to know any more how the node goes on. */
  closed: AbortSignal;
}

function pauserOptions(
  options: SourceNodeOptions,
  layouts: SourceDatabases,
  holder: DatabaseHolder | undefined,
): PauserOptions {
  const { pause, stateDir, log } = options;
  if (pause.strategy === 'none' && holder !== undefined) {
    const who = holder.pid === undefined ? 'a process' : `process ${holder.pid}`;
    throw new PresyncError(
      'NODE_PAUSE_FAILED',
      `${who} has ${layouts[0].dir} open, so it cannot be copied as it is`,
      {
        hint: 'use --pause signal, or stop the node first',
      },
    );
  }
  if (isCopied(pause) && layouts.length > 1) {
    throw new PresyncError(
      'CONFIG_INVALID',
      'a copy that hooks leave is of one base path, and several databases are to be taken',
      { hint: 'leave --hook-view out, so that the databases are linked where they are, or --databases' },
    );
  }
  const onOutput = (line: string): void => log.info('hook.output', line);
  return { ...pause, holder, databases: layouts, stateDir, onOutput };
}

async function freeze(context: Context): Promise<FrozenDatabase> {
  const { options, layouts, holder, facts } = context;
  const [main] = layouts;
  // Before the pause, which a node that is stopped for it does not outlive.
  const pruning = await nodePruning(holder?.pid);
  const { views, seconds, head } = await takeViews(context);
  try {
    const parts: ManifestPart[] = [];
    for (const [index, layout] of layouts.entries()) {
      const dir = views[index]?.dir ?? layout.dir;
      const { identity, version } = await readDatabaseIdentity(
        { ...layout, dir },
        { signal: options.signal },
      );
      const { backend, archivePrefix: path, role = 'main' } = layout;
      parts.push({ role, backend, path, databaseVersion: version, identity });
    }
    const files = views.flatMap((view) => view.files.map((file) => toSourceFile(file, file.viewPath)));
    let released: Promise<void> | undefined;
    return {
      files,
      bytes: files.reduce((sum, file) => sum + file.size, 0),
      allocated: views.flatMap((view) => view.files).reduce((sum, file) => sum + file.allocated, 0),
      databaseIdentity: parts
        .map((part) => `${part.backend} ${part.identity} ${part.databaseVersion}`)
        .join('\n'),
      describe: {
        expires:
          options.expiresMs === undefined ? null : new Date(Date.now() + options.expiresMs).toISOString(),
        chain: {
          specId: main.chainId,
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
          parts,
        },
        pause: { strategy: options.pause.strategy, seconds },
      },
      advancing: watchAdvance(context, head),
      release: () => {
        released ??= releaseAll(views);
        return released;
      },
    };
  } catch (error) {
    await releaseAll(views);
    throw error;
  }
}

async function releaseAll(views: readonly FrozenView[]): Promise<void> {
  for (const view of views) await view.release();
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
    const timeoutMs = mayRestart(options.pause) ? RESTART_TIMEOUT_MS : ADVANCE_TIMEOUT_MS;
    await watchBlocksAdvance(rpc, { since: head.number, timeoutMs, signal });
    return true;
  } catch (error) {
    if (signal.aborted) return undefined;
    log.error('node.blocks_stalled', 'the node shows no new block since it was paused', {
      since: head.number,
      reason: messageOf(error),
    });
    options.onBlocksStalled?.();
    return false;
  }
}

/** Nobody knows what hooks do. */
function mayRestart({ strategy, dockerAction }: PauseSettings): boolean {
  return strategy === 'stop' || strategy === 'hooks' || (strategy === 'docker' && dockerAction === 'stop');
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
