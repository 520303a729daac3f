import { mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, ioError } from '@presync/runtime/errors';
import { DEADMAN_SUFFIX, SCRIPT_SUFFIX } from './deadman.ts';
import { isProcessId, isRecord, type PauseTarget, parseTarget } from './pause-target.ts';
import type { ProcessId } from './proc.ts';

/** What is on disk while a node is paused. */
export interface PauseIntent {
  id: string;
  /** Start times count from boot, so an intent of an earlier boot names nobody. */
  bootId: string;
  target: PauseTarget;
  owner: ProcessId;
  budgetMs: number;
  /** ISO 8601. */
  created: string;
}

export interface StoredIntent {
  path: string;
  /** Undefined when the file is not an intent: half written by a crash, or damaged. */
  intent: PauseIntent | undefined;
  byDeadman: boolean;
}

export async function currentBootId(): Promise<string> {
  try {
    return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  } catch (error) {
    throw ioError(error, 'read', '/proc/sys/kernel/random/boot_id');
  }
}

export function intentPathOf(stateDir: string, id: string): string {
  return join(stateDir, `pause-${id}.json`);
}

/** Writes the intent durably, and tells its path: when this resolves it survives a crash of the machine. */
export async function writeIntent(
  stateDir: string,
  fields: Pick<PauseIntent, 'id' | 'target' | 'owner' | 'budgetMs'>,
): Promise<string> {
  const intent: PauseIntent = {
    ...fields,
    bootId: await currentBootId(),
    created: new Date().toISOString(),
  };
  const path = intentPathOf(stateDir, intent.id);
  const temporary = join(stateDir, `.pause-${intent.id}.tmp`);
  try {
    await mkdir(stateDir, { recursive: true, mode: 0o700 });
    {
      await using file = await open(temporary, 'wx', 0o600);
      await file.writeFile(`${JSON.stringify(intent, undefined, 2)}\n`);
      await file.sync();
    }
    await rename(temporary, path);
    await syncFolder(stateDir);
    return path;
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw ioError(error, 'write', path);
  }
}

/** Removes the intent, under both its names, and what the deadman has beside it. True when the deadman had renamed it. */
export async function removeIntent(path: string): Promise<boolean> {
  const own = path.endsWith(DEADMAN_SUFFIX) ? path.slice(0, -DEADMAN_SUFFIX.length) : path;
  try {
    await rm(own, { force: true });
    await rm(`${own}${SCRIPT_SUFFIX}`, { force: true });
    try {
      await rm(`${own}${DEADMAN_SUFFIX}`);
      return true;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return false;
      throw error;
    }
  } catch (error) {
    throw ioError(error, 'remove', path);
  }
}

/** All intents in the folder, oldest name first; none when there is no folder. */
export async function listIntents(stateDir: string): Promise<StoredIntent[]> {
  let names: string[];
  try {
    names = await readdir(stateDir);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw ioError(error, 'list', stateDir);
  }
  const found: StoredIntent[] = [];
  for (const name of names.sort()) {
    if (!/^pause-[0-9a-f-]{36}\.json(?:\.resumed-by-deadman)?$/.test(name)) continue;
    const path = join(stateDir, name);
    try {
      const intent = parseIntent(await readFile(path, 'utf8'));
      found.push({ path, intent, byDeadman: name.endsWith(DEADMAN_SUFFIX) });
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw ioError(error, 'read', path);
    }
  }
  return found;
}

async function syncFolder(path: string): Promise<void> {
  await using folder = await open(path, 'r');
  await folder.sync();
}

function parseIntent(text: string): PauseIntent | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isRecord(value)) return undefined;
  const { id, bootId, owner, budgetMs, created } = value;
  const target = parseTarget(value.target);
  if (
    typeof id !== 'string' ||
    typeof bootId !== 'string' ||
    typeof budgetMs !== 'number' ||
    typeof created !== 'string'
  )
    return undefined;
  if (target === undefined || !isProcessId(owner)) return undefined;
  return { id, bootId, target, owner, budgetMs, created };
}
