import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import { newCorner } from './conformance.ts';
import {
  NEEDED_BY,
  type Permission,
  permissionName,
  READER_PERMISSIONS,
  WRITER_PERMISSIONS,
} from './lib/permission-names.ts';
import { type LeftObject, trackPuts } from './lib/tracked-puts.ts';
import type { CallOptions, ObjectInfo, ObjectStore, PutCondition } from './object-store.ts';
import type { StoreUrl } from './store-url.ts';

export type { Permission } from './lib/permission-names.ts';

export interface PermissionFinding {
  permission: Permission;
  /** `failed`: the store answered with an error that is no refusal. `untested`: it could not be found out; `note` says why. */
  outcome: 'granted' | 'missing' | 'failed' | 'untested' | 'not applicable';
  /** In the words of the cloud; one or the other of these is what it takes. */
  names: readonly string[];
  neededBy: readonly string[];
  error: PresyncError | undefined;
  note: string | undefined;
  /** What to do; undefined when nothing is. */
  hint: string | undefined;
}

export interface Permissions {
  findings: readonly PermissionFinding[];
  /** True when the store refuses to tell that an object is absent, as S3 does without s3:ListBucket. */
  absenceRefused: boolean;
  /** Objects that were there before, the first of them as listed; empty where they cannot be listed. For readers only. */
  objects: readonly ObjectInfo[];
}

export interface PermissionOptions extends CallOptions {
  url: StoreUrl;
  /** Told of what could not be removed again, also when the check rejects. */
  onLeft?: ((left: readonly LeftObject[]) => void) | undefined;
}

/** Of a store that is checked as a reader: a repository has it, and it names nothing else. */
const WELL_KNOWN = 'presync.json';

/** Objects of which a reader's check knows: enough to measure the speed with. */
const KNOWN_OBJECTS = 256;
const CHUNKS_PREFIX = 'chunks/';

/** What a restore lists, to find the channels. */
const CHANNELS_PREFIX = 'channels/';

/** Kinds of stores that do not tell a refusal from absence to somebody who may not list. */
const VEIL_ABSENCE: ReadonlySet<StoreUrl['kind']> = new Set(['s3', 'gcs']);

/** What is read of an object to see whether that is allowed. */
const PEEK_BYTES = 64 * 1024;

/** Errors that say nothing of a permission, and end the check. */
const FATAL = new Set(['STORE_NOT_FOUND', 'STORE_UNREACHABLE', 'ABORTED', 'NO_SPACE', 'INTERNAL']);

interface Attempt<T> {
  value?: T;
  error?: PresyncError;
}

interface Outcome {
  outcome: PermissionFinding['outcome'];
  error?: PresyncError;
  note?: string;
}

/**
 * Finds out what these credentials may do, by doing it with one small object under `checks/`, which is removed again.
 *
 * @throws PresyncError STORE_NOT_FOUND, STORE_UNREACHABLE, NO_SPACE: there is no store to be checked.
 */
export async function checkWriter(
  store: ObjectStore,
  { url, onLeft, signal }: PermissionOptions,
): Promise<Permissions> {
  const corner = newCorner();
  const key = `${corner}permissions`;
  const tracked = trackPuts(store, corner);
  const found = new Map<Permission, Outcome>();
  let absent: Attempt<unknown> = {};
  try {
    const { store: own } = tracked;
    const version = await checkPuts(own, key, found, signal);
    const listed = await attempt(() => firstOf(own, '', 1, signal));
    found.set('list', outcomeOf(listed));
    const readable = version === undefined ? listed.value?.[0]?.key : key;
    found.set('get', readable === undefined ? untested('put') : await lookAt(own, readable, signal));
    absent = await attempt(() => own.stat(`${corner}absent`, { signal }));
    // A folder is not asked for what is not there.
    const removable = version !== undefined || url.kind !== 'file';
    found.set(
      'delete',
      removable ? outcomeOf(await attempt(() => own.remove(key, { signal }))) : untested('put'),
    );
  } finally {
    const left = await tracked.cleanUp();
    onLeft?.(left);
  }
  return {
    findings: WRITER_PERMISSIONS.map((permission) => describe(url, permission, found.get(permission))),
    absenceRefused: isRefusal(absent.error),
    objects: [],
  };
}

/** Creates and replaces an object. Gives its version; undefined when it may not be made. */
async function checkPuts(
  store: ObjectStore,
  key: string,
  found: Map<Permission, Outcome>,
  signal: AbortSignal,
): Promise<string | undefined> {
  const put = (condition?: PutCondition): Promise<Attempt<{ version: string }>> =>
    attempt(() =>
      store.put(key, Buffer.from(`presync: ${JSON.stringify(condition)}\n`), { condition, signal }),
    );
  const created = await put({ ifAbsent: true });
  // A store that knows no conditions may yet take puts.
  const made = isUnconditional(created.error) ? await put() : created;
  found.set('put', outcomeOf(made));
  found.set('conditional put', made.error === undefined ? outcomeOf(created) : untested('put'));
  const version = made.value?.version;
  if (version === undefined) {
    found.set('replace', untested('put'));
    return undefined;
  }
  let replaced = created.error === undefined ? await put({ ifVersion: version }) : await put();
  if (isUnconditional(replaced.error)) {
    found.set('conditional put', outcomeOf(replaced));
    replaced = await put();
  }
  found.set('replace', outcomeOf(replaced));
  return version;
}

/**
 * Finds out whether these credentials may read what is there. Writes nothing.
 *
 * @throws PresyncError REPOSITORY_NOT_FOUND when there is nothing to read; STORE_NOT_FOUND, STORE_UNREACHABLE.
 */
export async function checkReader(
  store: ObjectStore,
  { url, signal }: PermissionOptions,
): Promise<Permissions> {
  const found = new Map<Permission, Outcome>();
  const wellKnown = await attempt(() => store.stat(WELL_KNOWN, { signal }));
  const absent = await attempt(() => store.stat(`${newCorner()}absent`, { signal }));
  let listed: Attempt<ObjectInfo[]> = { value: [] };
  if (store.traits.listable) {
    listed = await attempt(() => firstOf(store, CHANNELS_PREFIX, 1, signal));
    found.set('list', outcomeOf(listed));
  } else {
    found.set('list', { outcome: 'not applicable', note: 'a web server has no listing' });
  }
  const objects = listed.error === undefined ? await objectsOf(store, signal) : [];
  const readable = wellKnown.value ?? objects[0];
  if (readable !== undefined) {
    found.set('get', await lookAt(store, readable.key, signal));
  } else if (wellKnown.error === undefined) {
    throw new PresyncError(
      'REPOSITORY_NOT_FOUND',
      `there is nothing to read at ${store.location}: it has no ${WELL_KNOWN}`,
      {
        hint: 'look at --store; a repository is made by the first "presync snapshot"',
      },
    );
  } else if (VEIL_ABSENCE.has(url.kind) && listed.error !== undefined && isRefusal(wellKnown.error)) {
    found.set('get', {
      outcome: 'untested',
      note: `${WELL_KNOWN} is refused: without a listing the store does not tell whether it is absent or may not be read`,
      error: wellKnown.error,
    });
  } else {
    found.set('get', outcomeOf(wellKnown));
  }
  return {
    findings: READER_PERMISSIONS.map((permission) => describe(url, permission, found.get(permission))),
    absenceRefused: isRefusal(absent.error),
    objects: objects.length > 0 ? objects : wellKnown.value === undefined ? [] : [wellKnown.value],
  };
}

/**
 * The permissions that somebody who only restores, or somebody who writes as well, cannot rely on. What only another missing one kept from
 * being found out is not among them.
 */
export function missingFor(
  who: 'reader' | 'writer',
  findings: readonly PermissionFinding[],
): PermissionFinding[] {
  const needed = who === 'reader' ? READER_PERMISSIONS : WRITER_PERMISSIONS;
  return findings.filter(({ permission, error }) => needed.includes(permission) && error !== undefined);
}

/** The error with which the store refused everything that it was asked; undefined when it allowed anything. Then it is the credentials that are wrong. */
export function refusedAltogether(findings: readonly PermissionFinding[]): PresyncError | undefined {
  if (findings.some(({ outcome }) => outcome === 'granted')) return undefined;
  const missing = findings.filter(({ outcome }) => outcome === 'missing');
  return missing.length > 1 ? missing[0]?.error : undefined;
}

function describe(
  url: StoreUrl,
  permission: Permission,
  { outcome, error, note }: Outcome = { outcome: 'untested' },
): PermissionFinding {
  const { names, grant } = permissionName(url, permission);
  // Here it is known which permission it is, where the adapter can only guess.
  const hint = outcome === 'missing' && isPresyncError(error, 'STORE_FORBIDDEN') ? grant : error?.hint;
  const neededBy = NEEDED_BY[permission].filter((part) => url.kind !== 'http' || part.startsWith('restore'));
  return { permission, outcome, names, neededBy, error, note, hint };
}

async function attempt<T>(work: () => Promise<T>): Promise<Attempt<T>> {
  try {
    return { value: await work() };
  } catch (error) {
    if (!isPresyncError(error) || FATAL.has(error.code)) throw error;
    return { error };
  }
}

function isRefusal(error: PresyncError | undefined): boolean {
  return isPresyncError(error, 'STORE_FORBIDDEN') || isPresyncError(error, 'STORE_READ_ONLY');
}

function isUnconditional(error: PresyncError | undefined): boolean {
  return isPresyncError(error, 'STORE_NO_CONDITIONAL_WRITES');
}

function outcomeOf({ error }: Attempt<unknown>): Outcome {
  if (error === undefined) return { outcome: 'granted' };
  return { outcome: isRefusal(error) ? 'missing' : 'failed', error };
}

function untested(permission: Permission): Outcome {
  return { outcome: 'untested', note: `it takes an object to find out, and ${permission} is missing` };
}

/** Objects that are there: chunks, or else what there is. None where the listing has none of them. */
async function objectsOf(store: ObjectStore, signal: AbortSignal): Promise<ObjectInfo[]> {
  if (!store.traits.listable) return [];
  for (const prefix of [CHUNKS_PREFIX, '']) {
    const { value = [] } = await attempt(() => firstOf(store, prefix, KNOWN_OBJECTS, signal));
    if (value.length > 0) return value;
  }
  return [];
}

/** Both ways of looking at an object. */
async function lookAt(store: ObjectStore, key: string, signal: AbortSignal): Promise<Outcome> {
  const stat = await attempt(() => store.stat(key, { signal }));
  if (stat.error !== undefined) return outcomeOf(stat);
  const range = { offset: 0, length: PEEK_BYTES };
  return outcomeOf(await attempt(() => store.read(key, { maxBytes: PEEK_BYTES, range, signal })));
}

async function firstOf(
  store: ObjectStore,
  prefix: string,
  count: number,
  signal: AbortSignal,
): Promise<ObjectInfo[]> {
  const found: ObjectInfo[] = [];
  for await (const info of store.list(prefix, { signal })) {
    found.push(info);
    if (found.length >= count) break;
  }
  return found;
}
