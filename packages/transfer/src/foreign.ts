import { randomUUID } from 'node:crypto';
import { open, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { type Sha256, sha256 } from '@presync/format/digest';
import { errnoOf, ioError, isPresyncError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import pLimit from 'p-limit';
import { forEachConcurrent } from './lib/concurrency.ts';
import { syncDirectory } from './lib/durable.ts';
import { finishFile } from './lib/finish-file.ts';
import { createRoom } from './lib/room.ts';
import { writeSparse } from './lib/sparse-writer.ts';
import {
  assertNothingThere,
  clearWork,
  exists,
  openStage,
  type PartPaths,
  partPaths,
  readState,
  sealStage,
  stagedBytes,
  stagedPath,
  undoHalfSwap,
  writeState,
} from './lib/stage.ts';
import { readSwap, swapIn, undoSwap } from './lib/swap.ts';
import { makeFolders } from './made-folders.ts';

/** A file of a database that comes from no repository. */
export interface ForeignFile {
  /** Its name in the database folder. */
  name: string;
  class: 'immutable' | 'mutable' | 'seal';
}

/** What a file holds. */
export interface ForeignContent {
  /** Undefined when nobody has told. */
  size: number | undefined;
  mtimeMs?: number | undefined;
  bytes: AsyncIterable<Uint8Array>;
}

export interface ForeignStageOptions {
  basePath: string;
  /** The database folder relative to the base path, as `chains/dev/db/full`. */
  part: string;
  existing: 'refuse' | 'replace';
  owner?: { uid: number; gid: number } | undefined;
  /** All that tells this source, in this state, from any other; undefined when nothing does, and no later run can go on with this one. */
  identity: string | undefined;
  /** Digest that a source must have had that an earlier run sealed. */
  sha256?: Sha256 | undefined;
  /** True when files that an earlier run completed may be kept. Default false: all of them come again. */
  keep?: boolean | undefined;
  signal: AbortSignal;
}

/**
 * A database that is put together beside its place, from files that no manifest names. As with a snapshot, the place itself is not touched until all is
 * there and durable, and a node can open nothing before that. One at a time for a target; the caller holds a lock.
 */
export interface ForeignStage {
  /** True when only `finish` is left; also when an earlier run came so far. */
  readonly isSealed: boolean;
  /** Names of the files that are there. */
  readonly names: ReadonlySet<string>;
  /** Bytes of the files that are there. */
  readonly bytes: number;
  /** Writes one file. Rejects with PATH_UNSAFE for a name that came before. */
  write(file: ForeignFile, content: ForeignContent): Promise<void>;
  /** Writes many, several at a time. `get` is called for each that `sizeOf` does not show to be there already. Returns how many were. */
  writeAll(files: Iterable<ForeignFile>, options: WriteAllOptions): Promise<{ kept: number }>;
  /** The beginning of a small file that was written. */
  read(name: string): Promise<string>;
  /** Gives the database its seal. From here on a later run only has to move it. `digest` is that of the source, for a source that is one file. */
  seal(digest: Sha256 | undefined): Promise<void>;
  /** Moves the sealed database to its place. */
  finish(): Promise<void>;
  /** Gives up: removes all that was made. With `keepFiles`, files that are complete stay for a later run. Does nothing once it is sealed. */
  abandon(options: { keepFiles: boolean }): Promise<void>;
}

export interface WriteAllOptions {
  concurrency: number;
  /** Bytes that a file has at its source; undefined when that does not tell. */
  sizeOf: (file: ForeignFile, signal: AbortSignal) => Promise<number | undefined>;
  /** Writes one file by `put`. */
  get: (
    file: ForeignFile,
    put: (content: ForeignContent) => Promise<void>,
    signal: AbortSignal,
  ) => Promise<void>;
}

/** What is not complete has this at the end of its name. */
const PART_SUFFIX = '.presync-part';

/** Files that are brought to disk at once, beside the transfer, and those that may wait for it. */
const SYNC_CONCURRENCY = 4;
const SYNC_QUEUE = 64;

/** CURRENT has 16 bytes, ParityDB's metadata some thousand. */
const MAX_SMALL = 1024 * 1024;

/** @throws PresyncError TARGET_NOT_EMPTY, TARGET_UNWRITABLE, NO_SPACE, IO_FAILED */
export async function openForeignStage(options: ForeignStageOptions): Promise<ForeignStage> {
  const { basePath, part, identity, owner, signal } = options;
  const paths = partPaths(basePath, part);
  const archive = await sha256(Buffer.from(identity ?? randomUUID()));
  try {
    const state = await readState(paths);
    const same = state !== undefined && 'archive' in state && state.archive === archive;
    const fits = same && (options.sha256 === undefined || state.sha256 === options.sha256);
    if (fits && state.phase === 'sealed' && ((await exists(paths.stage)) || (await exists(paths.target))))
      return await createStage(paths, options, { archive, sealed: true, undo: async () => {} });

    const swap = await readSwap(paths);
    if (swap !== undefined) await undoSwap(swap);
    await undoHalfSwap(paths);
    if (options.existing === 'refuse') {
      await assertNothingThere(
        paths,
        'use --existing replace to put the archive in its place, or another base path',
      );
    }
    const folders = await makeFolders(dirname(paths.target), owner);
    const work = await makeFolders(paths.work);
    const undo = async (): Promise<void> => {
      await work.undo();
      await folders.undo();
    };
    try {
      throwIfAborted(signal);
      // The note first: once a stage is opened, no note may say of it that it is sealed.
      await writeState(paths, { archive, sha256: null, phase: 'fetching' });
      await openStage(paths);
      await clearStage(paths, same && options.keep === true);
      return await createStage(paths, options, { archive, sealed: false, undo });
    } catch (error) {
      await undo();
      throw error;
    }
  } catch (error) {
    throw asIoError(error, basePath);
  }
}

/** Removes what an earlier run has left, other than files of this very source that are complete. */
async function clearStage(paths: PartPaths, keep: boolean): Promise<void> {
  for (const name of await readdir(paths.stage)) {
    if (!keep || name.endsWith(PART_SUFFIX)) await rm(join(paths.stage, name), { recursive: true });
  }
  // Of a restore from a repository.
  for (const name of ['restore.journal', 'restore-index.zst'])
    await rm(join(paths.work, name), { force: true });
  await syncDirectory(paths.stage);
}

async function createStage(
  paths: PartPaths,
  { basePath, owner, keep = false, signal }: ForeignStageOptions,
  begun: { archive: Sha256; sealed: boolean; undo: () => Promise<void> },
): Promise<ForeignStage> {
  const names = new Set<string>();
  const classes = new Map<string, ForeignFile['class']>();
  const announced = new Set<string>();
  const limitSync = pLimit(SYNC_CONCURRENCY);
  const syncing = new Set<Promise<void>>();
  const room = begun.sealed ? undefined : await createRoom(paths.work, keep ? await stagedBytes(paths) : 0);
  let bytes = 0;
  let failure: unknown;
  let sealed = begun.sealed;
  if (sealed && (await exists(paths.stage))) {
    for (const name of await readdir(paths.stage)) {
      names.add(name);
      bytes += (await stat(join(paths.stage, name))).size;
    }
  }

  const placeOf = (file: ForeignFile): string => stagedPath(paths, { path: file.name, class: file.class });

  function claim(file: ForeignFile): void {
    // Names come from the allow-list of a backend; this is what all of it rests on.
    if (basename(file.name) !== file.name || file.name === '' || file.name.startsWith('.'))
      throw new PresyncError('INTERNAL', `${JSON.stringify(file.name)} is no name of a database file`);
    if (names.has(file.name)) {
      throw new PresyncError('PATH_UNSAFE', `${file.name} comes a second time`, {
        hint: 'do not use this archive; ask who made it',
      });
    }
    names.add(file.name);
    classes.set(file.name, file.class);
  }

  /** Beside the transfer: to disk, and then to its name, which says that it is complete. */
  function sync(from: string, to: string, mtimeMs: number): void {
    const task = limitSync(async () => {
      await finishFile(from, { mtimeMs, owner });
      await rename(from, to).catch((error: unknown) => {
        throw ioError(error, 'rename', from);
      });
    }).then(
      () => void syncing.delete(task),
      (error: unknown) => {
        failure ??= error;
        syncing.delete(task);
      },
    );
    syncing.add(task);
  }

  async function settle(): Promise<void> {
    await Promise.all(syncing);
    if (failure !== undefined) throw failure;
  }

  async function put(file: ForeignFile, content: ForeignContent): Promise<void> {
    if (room === undefined) throw new PresyncError('INTERNAL', 'a sealed stage is written to');
    if (content.size !== undefined && !announced.has(file.name)) room.announce(content.size);
    announced.add(file.name);
    while (syncing.size >= SYNC_QUEUE) await Promise.race(syncing);
    if (failure !== undefined) throw failure;
    const place = placeOf(file);
    const size = await writeSparse(`${place}${PART_SUFFIX}`, content.bytes, { onWrite: room.use, signal });
    if (content.size === undefined) room.announce(size);
    else if (content.size !== size)
      throw new PresyncError('INTERNAL', `${file.name} has ${size} bytes where ${content.size} were told`);
    bytes += size;
    sync(`${place}${PART_SUFFIX}`, place, content.mtimeMs ?? Date.now());
  }

  async function keptSize(file: ForeignFile): Promise<number | undefined> {
    try {
      return (await stat(placeOf(file))).size;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw ioError(error, 'look at', placeOf(file));
    }
  }

  return {
    get isSealed() {
      return sealed;
    },
    names,
    get bytes() {
      return bytes;
    },

    async write(file, content) {
      claim(file);
      await put(file, content);
    },

    async writeAll(files, { concurrency, sizeOf, get }) {
      let kept = 0;
      await forEachConcurrent(files, { concurrency, signal }, async (file, abort) => {
        claim(file);
        const there = keep ? await keptSize(file) : undefined;
        if (there !== undefined && there === (await sizeOf(file, abort))) {
          kept += 1;
          bytes += there;
          return;
        }
        await get(file, (content) => put(file, content), abort);
      });
      return { kept };
    },

    async read(name) {
      await settle();
      const path = placeOf({ name, class: classes.get(name) ?? 'mutable' });
      try {
        await using file = await open(path, 'r');
        const buffer = Buffer.alloc(MAX_SMALL);
        const { bytesRead } = await file.read(buffer, 0, MAX_SMALL, 0);
        return buffer.toString('utf8', 0, bytesRead);
      } catch (error) {
        throw ioError(error, 'read', path);
      }
    },

    async seal(digest) {
      try {
        await settle();
        throwIfAborted(signal);
        await sealStage(paths, names, owner);
        await writeState(paths, { archive: begun.archive, sha256: digest ?? null, phase: 'sealed' });
        sealed = true;
      } catch (error) {
        throw asIoError(error, basePath);
      }
    },

    async finish() {
      try {
        throwIfAborted(signal);
        await swapIn([paths]);
        await clearWork(paths);
      } catch (error) {
        throw asIoError(error, basePath);
      }
    },

    async abandon({ keepFiles }) {
      await settle().catch(() => {});
      if (sealed || (keepFiles && keep)) return;
      await rm(paths.stage, { recursive: true, force: true });
      await clearWork(paths);
      await begun.undo();
    },
  };
}

function asIoError(error: unknown, basePath: string): unknown {
  return errnoOf(error) === undefined || isPresyncError(error)
    ? error
    : ioError(error, 'restore into', basePath);
}
