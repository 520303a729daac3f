import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Backend, databasePath } from '@presync/node/layout';
import { databaseHolder } from '@presync/node/locks';
import { errnoOf, ioError, PresyncError } from '@presync/runtime/errors';
import { interruptedRestore } from '@presync/transfer/restore';
import { type Finding, refusal, warning } from './finding.ts';

/** A database's place. */
export interface TargetPart {
  /** The database folder, relative to the base path. */
  path: string;
  backend: Backend;
  /** As in a manifest; default `main`. */
  role?: string | undefined;
}

export interface TargetOptions {
  /** The backend that the node is told to open, and no other, where that is known. */
  opens?: Backend | undefined;
  signal: AbortSignal;
}

/** That somebody has the database open. */
export async function lookForHolder(
  basePath: string,
  part: TargetPart,
  { signal }: Pick<TargetOptions, 'signal'>,
): Promise<Finding[]> {
  const target = join(basePath, ...part.path.split('/'));
  const holder = await databaseHolder({ dir: target, backend: part.backend }, { signal });
  if (holder === undefined) return [];
  const who = holder.pid === undefined ? 'a node' : `process ${holder.pid}`;
  return [refusal('running', 'TARGET_RUNNING', `${who} has ${target} open`, 'stop the node first')];
}

/** That another database would be opened in the stead of this one. */
export async function lookForOthers(
  basePath: string,
  part: TargetPart,
  { opens }: Pick<TargetOptions, 'opens'>,
): Promise<Finding[]> {
  const findings: Finding[] = [];
  const target = join(basePath, ...part.path.split('/'));
  // What is kept of parachains has no sibling, and no layout that was older.
  if (part.role === 'parachains' || part.role === 'relay-parachains') return findings;
  const other: Backend = part.backend === 'rocksdb' ? 'paritydb' : 'rocksdb';
  // From the end: a relay chain's lies below another folder.
  const specId = part.path.split('/').at(-3) ?? '';
  const sibling = join(target, '../../../..', ...databasePath(specId, other).split('/'));
  if ((await names(sibling)).some((name) => name === 'CURRENT' || name === 'metadata')) {
    findings.push(
      opens === part.backend
        ? warning(
            'sibling',
            `${sibling} holds a ${other} database of the same chain, which the node leaves alone with --database ${opens}`,
            'remove it when it is not needed any more: it takes room',
          )
        : refusal(
            'sibling',
            'TARGET_BACKEND',
            `${sibling} holds a ${other} database of the same chain, which a node may open instead of the restored one`,
            'move it away, or restore a snapshot with that backend',
          ),
    );
  }
  // Substrate takes these for a database of an old layout and moves it into the folder below.
  const stray = (await names(dirname(target))).find(
    (name) => name === 'db_version' || name === 'metadata' || name === 'CURRENT',
  );
  if (stray !== undefined) {
    findings.push(
      refusal(
        'layout',
        'TARGET_NOT_EMPTY',
        `${join(dirname(target), stray)} belongs to a database of an old layout, which a node would migrate`,
        'move it away',
      ),
    );
  }
  return findings;
}

/** Throws the first thing that stands against a database at this place. */
export async function assertTarget(
  basePath: string,
  part: TargetPart,
  options: TargetOptions,
): Promise<void> {
  const findings = [
    ...(await lookForHolder(basePath, part, options)),
    ...(await lookForOthers(basePath, part, options)),
  ];
  const found = findings.find(({ verdict }) => verdict === 'refusal');
  if (found === undefined) return;
  throw new PresyncError(found.code ?? 'INTERNAL', found.message, { hint: found.hint ?? undefined });
}

/** The names in a folder; none when there is no such folder. */
export async function names(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return [];
    throw ioError(error, 'list', dir);
  }
}

/** True when there is something in the folder. */
export async function holdsAnything(dir: string): Promise<boolean> {
  return (await names(dir)).length > 0;
}

/** A database of any chain in a base path; undefined when there is none. */
export async function anyDatabase(basePath: string): Promise<{ dir: string; isWhole: boolean } | undefined> {
  for (const chain of await names(join(basePath, 'chains'))) {
    for (const backend of ['rocksdb', 'paritydb'] as const) {
      const path = databasePath(chain, backend);
      const dir = join(basePath, ...path.split('/'));
      if (await holdsAnything(dir)) return { dir, isWhole: await isWhole([{ basePath, path, backend }]) };
    }
  }
  return undefined;
}

/** True when every part has a database that can be opened, and none is half restored. */
export async function isWhole(parts: readonly (TargetPart & { basePath: string })[]): Promise<boolean> {
  for (const { basePath, ...part } of parts) {
    if ((await interruptedRestore(basePath, part.path)) !== undefined) return false;
    const found = await names(join(basePath, ...part.path.split('/')));
    if (!found.includes(part.backend === 'rocksdb' ? 'CURRENT' : 'metadata')) return false;
  }
  return true;
}
