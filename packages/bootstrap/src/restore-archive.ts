import { join } from 'node:path';
import type { Compression } from '@presync/format/archive-stream';
import { readTar, type TarFile } from '@presync/format/tar-reader';
import { type Backend, databasePath } from '@presync/node/layout';
import { assertWholeDatabase } from '@presync/node/whole';
import { isPresyncError, messageOf, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { acquireLock } from '@presync/runtime/lock';
import type { Logger } from '@presync/runtime/log';
import type { ProgressSink } from '@presync/runtime/progress';
import { type Downloads, isNotResumable } from '@presync/store/download';
import {
  type ForeignContent,
  type ForeignFile,
  type ForeignStage,
  openForeignStage,
} from '@presync/transfer/foreign';
import { makeFolders } from '@presync/transfer/made-folders';
import {
  type ArchiveDatabase,
  type ArchiveSorter,
  createArchiveSorter,
  describe,
} from './lib/archive-sorter.ts';
import { assertTarget, isWhole } from './lib/target.ts';
import { type ListArchive, openArchive, type StreamArchive } from './open-archive.ts';
import { heed, type PreflightSettings, preflight, toldBackend } from './preflight.ts';

export interface RestoreArchiveOptions {
  /** URL or path. */
  archive: string;
  /** What it must have; without it nothing proves what comes. */
  sha256?: string | undefined;
  downloads: Downloads;
  basePath: string;
  /** Chain spec id; needed when the archive's paths do not name it. */
  chain?: string | undefined;
  backend?: Backend | undefined;
  /** `keep` leaves a database that is there, and does nothing. */
  existing: 'refuse' | 'keep' | 'replace';
  owner?: { uid: number; gid: number } | undefined;
  /** What is compared. Default: only what needs no knowledge of the node. */
  preflight?: PreflightSettings | undefined;
  /** Files of a list that are got at a time. Default 16. */
  concurrency?: number | undefined;
  /** Check what can be checked, and write nothing. */
  dryRun?: boolean | undefined;
  progress: ProgressSink;
  log: Logger;
  signal: AbortSignal;
}

export interface RestoreArchiveResult {
  /** Where it is, without what may be a credential. */
  location: string;
  kind: 'tar' | 'list';
  /** Of one that is one file. */
  compression: Compression | null;
  /** Bytes of the archive, as far as they are known beforehand. */
  size: number | null;
  /** Of a file list that has one. */
  version: string | null;
  chain: string;
  backend: Backend;
  /** The database folder. */
  target: string;
  kept: boolean;
  /** Null when nothing was restored: a dry run, or a database that was kept. */
  restored: RestoredArchive | null;
}

export interface RestoredArchive {
  files: number;
  /** Bytes of files. */
  bytes: number;
  /** Bytes that came from the archive. */
  fetchedBytes: number;
  /** Files of a list that an earlier run had completed. */
  keptFiles: number;
  skipped: { count: number; names: readonly string[] };
  /** Of the archive's bytes; null for a file list, and when an earlier run had read them. */
  sha256: string | null;
  /** True when its SHA-256 was demanded, and it has it. */
  proved: boolean;
  /** True when an earlier run had come far enough that only the swap was left. */
  wasSealed: boolean;
}

const DEFAULT_CONCURRENCY = 16;
/** Attempts at one file of a list whose server has no ranges. */
const MAX_FILE_ATTEMPTS = 3;

/**
 * Restores a database from what others publish. Nothing in it is proved, unless `sha256` is given; what can be checked is: checksums of the
 * compression, that the archive is whole, that it holds one database and what a node needs of it. The database's place is not touched
 * before all of that.
 */
export async function restoreArchive(options: RestoreArchiveOptions): Promise<RestoreArchiveResult> {
  const { progress, signal } = options;
  const archive = await openArchive(options.archive, {
    downloads: options.downloads,
    onBytes: (bytes) => progress.advance(bytes),
    signal,
  });
  try {
    if (archive.kind === 'list' && options.sha256 !== undefined) {
      throw new PresyncError('USAGE', `${archive.location} is a file list, which has no SHA-256 of its own`, {
        hint: 'leave --archive-sha256 out and say --insecure-no-verify, or use an archive that is one file',
      });
    }
    const size = archive.kind === 'tar' ? archive.size : undefined;
    progress.start({ label: `Restore of ${archive.location}`, total: size });
    if (archive.kind === 'tar') progress.advance(archive.progress.bytes);
    const result = await (archive.kind === 'list'
      ? restoreList(options, archive)
      : restoreTar(options, archive));
    progress.finish();
    return result;
  } finally {
    await archive.close();
  }
}

/** A place that is made ready for the database that was found. */
interface Place {
  describe: Pick<RestoreArchiveResult, 'chain' | 'backend' | 'target'>;
  /** Undefined when nothing is to be done: a dry run, or a database that is kept. */
  stage: ForeignStage | undefined;
  kept: boolean;
  release(): Promise<void>;
  undoFolders(): Promise<void>;
}

/** Every refusal that the target has cause for comes from here, before anything is written. */
async function enter(
  options: RestoreArchiveOptions,
  archive: StreamArchive | ListArchive,
  found: ArchiveDatabase,
): Promise<Place> {
  const { basePath, signal, existing } = options;
  const chain = found.chainId ?? options.chain;
  if (chain === undefined) {
    throw new PresyncError(
      'CONFIG_INVALID',
      `${archive.location} holds ${describe(found)}, and does not name its chain`,
      {
        hint: 'give the chain spec id with --chain: the name of the folder under chains/, as polkadot or ksmcc3',
      },
    );
  }
  const part = { path: databasePath(chain, found.backend), backend: found.backend };
  const target = join(basePath, ...part.path.split('/'));
  const place: Place = {
    describe: { chain, backend: found.backend, target },
    stage: undefined,
    kept: false,
    release: async () => {},
    undoFolders: async () => {},
  };
  const kept = existing === 'keep' && (await isWhole([{ ...part, basePath }]));
  const findings = await preflight({
    ...(options.preflight ?? { ignore: [], reserve: 0 }),
    subject: { name: archive.location, specId: chain, parts: [{ ...part, role: 'main', basePath }] },
    basePath,
    existing,
    restores: !kept,
    owner: options.owner,
    signal,
  });
  heed(findings, options.log);
  if (kept) return { ...place, kept: true };
  if (options.dryRun === true) return place;
  const folders = await makeFolders(basePath, options.owner);
  try {
    const lock = await acquireLock({ name: 'restore', dir: basePath, signal });
    try {
      // Again, now that nobody else restores here.
      await assertTarget(basePath, part, { opens: toldBackend(findings, part), signal });
      const stage = await openForeignStage({
        basePath,
        part: part.path,
        existing: existing === 'keep' ? 'refuse' : existing,
        owner: options.owner,
        identity: archive.identity,
        sha256: options.sha256,
        keep: archive.kind === 'list' && archive.identity !== undefined,
        signal,
      });
      return { ...place, stage, release: () => lock.release(), undoFolders: () => folders.undo() };
    } catch (error) {
      await lock.release();
      throw error;
    }
  } catch (error) {
    await folders.undo();
    throw error;
  }
}

/** Runs the work on a stage; whatever goes wrong before the database is sealed leaves nothing behind but what a later run can use. */
async function onStage<T>(
  { log }: RestoreArchiveOptions,
  place: Place,
  stage: ForeignStage,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    // What the network broke another run may go on with; what turned out to be unfit it may not.
    const keepFiles = isPresyncError(error) && (error.retryable || error.code === 'ABORTED');
    try {
      await stage.abandon({ keepFiles });
      await place.undoFolders();
    } catch (left) {
      // What went wrong first is what counts; the next run clears the stage as well.
      log.warn('restore.left', `what was restored so far could not be removed: ${messageOf(left)}`);
    }
    throw error;
  } finally {
    await place.release();
  }
}

function sorterFor(options: RestoreArchiveOptions, location: string): ArchiveSorter {
  return createArchiveSorter({
    what: location,
    chainId: options.chain,
    backend: options.backend,
    onOther: (other) =>
      options.log.warn(
        'archive.other',
        `${location} holds ${describe(other)}, which is not the one that is wanted`,
        {
          chain: other.chainId ?? null,
          backend: other.backend,
        },
      ),
  });
}

async function restoreTar(
  options: RestoreArchiveOptions,
  archive: StreamArchive,
): Promise<RestoreArchiveResult> {
  const { signal } = options;
  const { location, recognized, progress } = archive;
  const sorter = sorterFor(options, location);
  const files = readTar(recognized.plain(), { what: location });
  const head = {
    location,
    kind: 'tar' as const,
    compression: recognized.compression ?? null,
    size: archive.size ?? null,
    version: null,
  };

  /** The next file of the database. */
  async function next(): Promise<{ file: ForeignFile; from: TarFile } | undefined> {
    for (;;) {
      throwIfAborted(signal);
      const step = await files.next();
      if (step.done === true) return undefined;
      const file = sorter.sort(step.value.path);
      if (file !== undefined) return { file, from: step.value };
    }
  }

  try {
    let entry = await next();
    const found = sorter.found ?? sorter.finish();
    const place = await enter(options, archive, found);
    const { stage } = place;
    if (stage === undefined) return { ...head, ...place.describe, kept: place.kept, restored: null };
    return await onStage(options, place, stage, async () => {
      const wasSealed = stage.isSealed;
      let digest: string | undefined;
      if (!wasSealed) {
        for (; entry !== undefined; entry = await next()) {
          const { size, mtimeMs, content } = entry.from;
          await stage.write(entry.file, { size, mtimeMs, bytes: content });
        }
        digest = digestOf(archive, options.sha256);
        await assertWhole(stage, found, location);
        tellSkipped(options, sorter);
        await stage.seal(digest);
      }
      await stage.finish();
      return {
        ...head,
        ...place.describe,
        kept: false,
        restored: {
          files: stage.names.size,
          bytes: stage.bytes,
          fetchedBytes: progress.bytes,
          keptFiles: 0,
          skipped: sorter.skipped,
          sha256: digest ?? null,
          proved: options.sha256 !== undefined,
          wasSealed,
        },
      };
    });
  } finally {
    await files.return(undefined);
  }
}

/** The digest of all of the archive, which is the demanded one, if one is. */
function digestOf({ location, progress }: StreamArchive, demanded: string | undefined): string {
  // A digest of a part would prove nothing.
  if (!progress.ended) {
    throw new PresyncError('FORMAT_INVALID', `${location} goes on after its end`, {
      hint: 'get the file again; when it stays so, it is damaged where it comes from',
    });
  }
  const digest = progress.digest();
  if (demanded === undefined || demanded === digest) return digest;
  throw new PresyncError('ARCHIVE_MISMATCH', `${location} has SHA-256 ${digest}, not ${demanded}`, {
    hint: 'do not use this archive; compare the digest with the one that its publisher tells',
  });
}

async function restoreList(
  options: RestoreArchiveOptions,
  archive: ListArchive,
): Promise<RestoreArchiveResult> {
  const { log, progress, signal } = options;
  const { location } = archive;
  const sorter = sorterFor(options, location);
  const wanted = new Map<ForeignFile, string>();
  for (const path of archive.paths) {
    const file = sorter.sort(path);
    if (file !== undefined) wanted.set(file, path);
  }
  const found = sorter.finish();
  const place = await enter(options, archive, found);
  const head = {
    location,
    kind: 'list' as const,
    compression: null,
    size: null,
    version: archive.version ?? null,
    ...place.describe,
  };
  const { stage } = place;
  if (stage === undefined) return { ...head, kept: place.kept, restored: null };
  return onStage(options, place, stage, async () => {
    const wasSealed = stage.isSealed;
    let keptFiles = 0;
    let fetchedBytes = 0;
    let done = 0;
    const onBytes = (bytes: number): void => {
      fetchedBytes += bytes;
      progress.advance(bytes);
    };
    if (!wasSealed) {
      log.info('archive.list', `${location} lists ${wanted.size} files of the database`, {
        version: archive.version ?? null,
      });
      const { kept } = await stage.writeAll(wanted.keys(), {
        concurrency: options.concurrency ?? DEFAULT_CONCURRENCY,
        sizeOf: (file, abort) => archive.sizeOf(wanted.get(file) ?? '', abort),
        async get(file, put, abort) {
          await getFile(archive, wanted.get(file) ?? '', { put, onBytes, signal: abort });
          done += 1;
          progress.note(`${done} of ${wanted.size} files`);
        },
      });
      keptFiles = kept;
      throwIfAborted(signal);
      await archive.assertUnchanged();
      await assertWhole(stage, found, location);
      tellSkipped(options, sorter);
      await stage.seal(undefined);
    }
    await stage.finish();
    return {
      ...head,
      kept: false,
      restored: {
        files: stage.names.size,
        bytes: stage.bytes,
        fetchedBytes,
        keptFiles,
        skipped: sorter.skipped,
        sha256: null,
        proved: false,
        wasSealed,
      },
    };
  });
}

/** One file of a list; from its beginning again when it broke and the server has no ranges to go on with. */
async function getFile(
  archive: ListArchive,
  path: string,
  {
    put,
    onBytes,
    signal,
  }: {
    put: (content: ForeignContent) => Promise<void>;
    onBytes: (bytes: number) => void;
    signal: AbortSignal;
  },
): Promise<void> {
  async function* counted(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const piece of source) {
      onBytes(piece.length);
      yield piece;
    }
  }
  for (let attempts = 1; ; attempts++) {
    const download = await archive.open(path, signal);
    try {
      await put({ size: download.size, bytes: counted(download.bytes()) });
      return;
    } catch (error) {
      if (!isNotResumable(error) || attempts >= MAX_FILE_ATTEMPTS) throw error;
    } finally {
      download.close();
    }
  }
}

function assertWhole(stage: ForeignStage, { backend }: ArchiveDatabase, what: string): Promise<void> {
  return assertWholeDatabase({ backend, names: stage.names, read: (name) => stage.read(name), what });
}

function tellSkipped({ log }: RestoreArchiveOptions, { skipped }: ArchiveSorter): void {
  if (skipped.count === 0) return;
  log.info(
    'archive.skipped',
    `${skipped.count} files of the archive are no part of the database and were left out`,
    {
      ...skipped,
    },
  );
}
