import { chmod, chown, mkdir, open, readdir, readFile, rename, rm, rmdir, stat } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import {
  channelSchema,
  encodeDocument,
  parseDocument,
  parseValue,
  sequenceSchema,
  sha256Schema,
} from '@presync/format/documents';
import type { IndexedFile } from '@presync/format/index-file';
import { errnoOf, isPresyncError, PresyncError } from '@presync/runtime/errors';
import { z } from 'zod';
import { durableRename, replaceFile, syncDirectory } from './durable.ts';

/**
 * Where a part is put together before it takes the database's place. Beside the database folder lies `.presync/`, on the same
 * file system, with the staged folder, the journal, and a note of how far the restore is:
 *
 * - `fetching`: the staged folder is half a database, and its seal (`CURRENT`, `metadata`) is not there under its name;
 * - `sealed`: it is whole and durable, and only has to be moved.
 */
export interface PartPaths {
  /** The part's path in the archive. */
  part: string;
  /** The database folder that a node opens. */
  target: string;
  /** `.presync` beside it. */
  work: string;
  /** The folder that is being put together. */
  stage: string;
  /** Where the old database waits until the new one is in place. */
  replaced: string;
  /** The part in whose folder this one lies, and with which it is moved; such a one has no work folder of its own. */
  within?: PartPaths | undefined;
}

export function partPaths(basePath: string, part: string): PartPaths {
  return pathsOf({ part, target: join(basePath, ...part.split('/')) });
}

function pathsOf({ part, target }: PartTarget): PartPaths {
  const work = join(dirname(target), '.presync');
  return {
    part,
    target,
    work,
    stage: join(work, `restore-${basename(target)}`),
    replaced: join(work, `replaced-${basename(target)}`),
  };
}

/** A part and where it goes. */
export interface PartTarget {
  /** Its path in the archive. */
  part: string;
  /** The database folder, absolute. */
  target: string;
}

/** The paths of several parts. One that lies in the folder of another is put together there. */
export function allPaths(targets: readonly PartTarget[]): PartPaths[] {
  const roots = targets.filter((inner) => !targets.some((outer) => isWithin(inner, outer))).map(pathsOf);
  return targets.map((target) => {
    const within = roots.find((root) => isWithin(target, root));
    if (within === undefined) return roots.find(({ part }) => part === target.part) ?? pathsOf(target);
    const stage = join(within.stage, relative(within.target, target.target));
    return { ...target, work: within.work, stage, replaced: within.replaced, within };
  });
}

/** The part that a file lies in. */
export function partOf(parts: readonly PartPaths[], file: Pick<IndexedFile, 'path'>): PartPaths {
  const part = parts.find(({ part: path }) => path === dirname(file.path));
  if (part !== undefined) return part;
  throw new PresyncError('PATH_UNSAFE', `${file.path} lies in none of the snapshot's parts`, {
    hint: 'do not use this snapshot',
  });
}

function isWithin(inner: { target: string }, outer: { target: string }): boolean {
  return inner.target.startsWith(`${outer.target}/`);
}

/** Where a file is staged. A seal file waits under another name until all others are durable. */
export function stagedPath(paths: PartPaths, file: Pick<IndexedFile, 'path' | 'class'>): string {
  return join(paths.stage, `${basename(file.path)}${file.class === 'seal' ? SEAL_SUFFIX : ''}`);
}

const SEAL_SUFFIX = '.presync-unsealed';

const stateHead = { presync: z.literal('restore'), version: z.literal(1) };
const phaseSchema = z.enum(['fetching', 'sealed']);
const stateSchema = z.union([
  z.strictObject({
    ...stateHead,
    channel: channelSchema,
    sequence: sequenceSchema,
    manifest: sha256Schema,
    phase: phaseSchema,
  }),
  z.strictObject({
    ...stateHead,
    /** Digest of what tells this archive from others. */
    archive: sha256Schema,
    /** Of the archive's bytes, when it is sealed; null for one of several files. */
    sha256: sha256Schema.nullable(),
    phase: phaseSchema,
  }),
]);

/** What is being restored, and how far it is. */
export type RestoreState = z.infer<typeof stateSchema>;
type StateOf<T> = T extends unknown ? Omit<T, 'presync' | 'version'> : never;

export function statePath(paths: PartPaths): string {
  return join(paths.work, 'restore.json');
}

/** The notes of what is in place already. */
export function journalPath({ work }: PartPaths): string {
  return join(work, 'restore.journal');
}

export async function readState(paths: PartPaths): Promise<RestoreState | undefined> {
  return readNote(statePath(paths), stateSchema);
}

/** A note beside the database; undefined when there is none. */
export async function readNote<T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  try {
    return parseDocument(await readFile(path), schema, path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    if (!isPresyncError(error)) throw error;
    const newer = error.code === 'FORMAT_TOO_NEW' ? 'update presync on this machine, or ' : '';
    throw new PresyncError('TARGET_NOTES_DAMAGED', error.message, {
      cause: error,
      hint: `${newer}remove ${dirname(path)}, with what an interrupted restore has left there, and restore again`,
    });
  }
}

export async function writeState(paths: PartPaths, state: StateOf<RestoreState>): Promise<void> {
  const { phase, ...what } = state;
  const document = { presync: 'restore', version: 1, ...what, phase };
  await replaceFile(statePath(paths), encodeDocument(parseValue(document, stateSchema, statePath(paths))));
}

/** True when the path is a folder with something in it. */
async function holdsAnything(path: string): Promise<boolean> {
  try {
    return (await readdir(path)).length > 0;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}

const NOT_EMPTY_HINT =
  'use --existing reuse to bring it up to the snapshot, --existing replace to put the snapshot in its place, or another base path';

/** TARGET_NOT_EMPTY when there is a database that nobody said may be replaced. */
export async function assertNothingThere({ target }: PartPaths, hint = NOT_EMPTY_HINT): Promise<void> {
  if (!(await holdsAnything(target))) return;
  throw new PresyncError('TARGET_NOT_EMPTY', `${target} already holds a database`, { hint });
}

/** True when there is something of that name. */
export async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Puts back a database that a killed restore had moved aside, so that there is one again while the next attempt runs. */
export async function undoHalfSwap(paths: PartPaths): Promise<void> {
  if ((await exists(paths.replaced)) && !(await exists(paths.target)))
    await durableRename(paths.replaced, paths.target);
}

/** Makes or keeps the staged folder. */
export async function openStage(paths: PartPaths): Promise<void> {
  try {
    if (paths.within !== undefined) await mkdir(dirname(paths.stage), { recursive: true, mode: 0o700 });
    await mkdir(paths.stage, { mode: 0o700 });
    return;
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
  }
  // An earlier attempt may have sealed it: nothing may look like a database while it is changed.
  for (const name of await readdir(paths.stage)) {
    if (name === 'CURRENT' || name === 'metadata')
      await rename(join(paths.stage, name), join(paths.stage, `${name}${SEAL_SUFFIX}`));
  }
  await syncDirectory(paths.stage);
}

/** Bytes that the staged folder takes on disk already. */
export async function stagedBytes(paths: PartPaths): Promise<number> {
  let bytes = 0;
  if (!(await exists(paths.stage))) return 0;
  for (const name of await readdir(paths.stage)) bytes += (await stat(join(paths.stage, name))).blocks * 512;
  return bytes;
}

/** Gives a staged file its length. Returns true when the file is new, so that all of it is a hole. */
export async function createStagedFile(path: string, size: number): Promise<boolean> {
  let fresh = true;
  let handle = await open(path, 'wx', 0o600).catch((error: unknown) => {
    if (errnoOf(error) !== 'EEXIST') throw error;
    return undefined;
  });
  if (handle === undefined) {
    fresh = false;
    handle = await open(path, 'r+');
  }
  try {
    await handle.truncate(size);
  } finally {
    await handle.close();
  }
  return fresh;
}

/** Removes what the snapshot does not have, gives the seals their names, and makes all of it durable. */
export async function sealStage(
  paths: PartPaths,
  names: ReadonlySet<string>,
  owner: { uid: number; gid: number } | undefined,
): Promise<void> {
  for (const name of await readdir(paths.stage)) {
    const kept =
      names.has(name) || (name.endsWith(SEAL_SUFFIX) && names.has(name.slice(0, -SEAL_SUFFIX.length)));
    if (!kept) await rm(join(paths.stage, name), { recursive: true });
  }
  await syncDirectory(paths.stage);
  for (const name of await readdir(paths.stage)) {
    if (name.endsWith(SEAL_SUFFIX))
      await rename(join(paths.stage, name), join(paths.stage, name.slice(0, -SEAL_SUFFIX.length)));
  }
  // A part that lies in another one has folders between the two.
  const top = paths.within?.stage ?? dirname(paths.stage);
  for (let folder = paths.stage; folder !== top; folder = dirname(folder)) {
    if (owner !== undefined) await chown(folder, owner.uid, owner.gid);
    await chmod(folder, 0o755);
    await syncDirectory(folder);
  }
}

/** Removes the notes of a restore that is done, that of a swap last, and `.presync` itself when nothing else is in it. */
export async function clearWork(paths: PartPaths): Promise<void> {
  const left = (await exists(paths.work)) ? await readdir(paths.work) : [];
  const unfinished = left.filter((name) => /^(?:restore|swap)\.json\..+\.new$/.test(name));
  for (const name of [...unfinished, 'restore.json', 'restore.journal', 'restore-index.zst', 'swap.json'])
    await rm(join(paths.work, name), { force: true });
  await rmdir(paths.work).catch((error: unknown) => {
    if (errnoOf(error) !== 'ENOTEMPTY' && errnoOf(error) !== 'ENOENT') throw error;
  });
}
