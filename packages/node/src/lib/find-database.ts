import { readdir, realpath, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { errnoOf, ioError, PresyncError, throwIfAborted } from '@presync/runtime/errors';
import type { Backend, DatabaseLayout } from '../layout.ts';

export interface FindDatabaseOptions {
  /** The folder that the node gets as `--base-path`. */
  basePath: string;
  /** The chain spec id; may be left out when the base path holds one chain only. */
  chainId?: string | undefined;
  /** May be left out when the chain has one backend only. */
  backend?: Backend | undefined;
  signal: AbortSignal;
}

const BACKENDS: readonly Backend[] = ['rocksdb', 'paritydb'];
const BACKEND_FOLDER = { rocksdb: 'db', paritydb: 'paritydb' } as const satisfies Record<Backend, string>;

/**
 * The `full` folder of a chain relative to the base path, in POSIX form.
 *
 * @throws CONFIG_INVALID when the chain id cannot be the name of a folder
 */
export function databasePath(chainId: string, backend: Backend): string {
  const invalid =
    chainId === '' ||
    chainId === '.' ||
    chainId === '..' ||
    /[/\\]/.test(chainId) ||
    hasControlCharacter(chainId) ||
    chainId.length > 255;
  if (invalid) {
    throw new PresyncError(
      'CONFIG_INVALID',
      `chain id ${JSON.stringify(chainId)} cannot be the name of a folder`,
      {
        hint: 'give the id of the chain specification, for example polkadot or ksmcc3',
      },
    );
  }
  return `chains/${chainId}/${BACKEND_FOLDER[backend]}/full`;
}

/**
 * Finds a chain's database below a node's base path. Folders on the way may be symbolic links.
 *
 * @throws NODE_LAYOUT_NOT_FOUND when there is none
 * @throws NODE_LAYOUT_AMBIGUOUS when there are several and the options do not say which one
 * @throws CONFIG_INVALID, IO_FAILED, ABORTED
 */
export async function findDatabase(options: FindDatabaseOptions): Promise<DatabaseLayout> {
  const { signal } = options;
  throwIfAborted(signal);
  const basePath = resolve(options.basePath);
  const wanted = options.backend === undefined ? BACKENDS : [options.backend];
  const chains = options.chainId === undefined ? await listChains(basePath) : [options.chainId];

  const found: DatabaseLayout[] = [];
  for (const chainId of chains) {
    for (const backend of wanted) {
      throwIfAborted(signal);
      const archivePrefix = databasePath(chainId, backend);
      const dir = await existingFolder(join(basePath, archivePrefix));
      if (dir !== undefined) found.push({ basePath, chainId, backend, dir, archivePrefix });
    }
  }

  const [first, ...others] = found;
  if (first === undefined) throw await notFound(basePath, options);
  if (others.length === 0) return first;
  const chainIds = [...new Set(found.map((layout) => layout.chainId))];
  if (chainIds.length > 1) {
    throw new PresyncError(
      'NODE_LAYOUT_AMBIGUOUS',
      `${basePath} holds databases of several chains: ${chainIds.join(', ')}`,
      {
        hint: 'name one of them with --chain',
      },
    );
  }
  throw new PresyncError(
    'NODE_LAYOUT_AMBIGUOUS',
    `${basePath} holds both a RocksDB (db/full) and a ParityDB (paritydb/full) of chain ${first.chainId}`,
    {
      hint: 'remove the one that the node does not use (with --database auto it opens RocksDB first), or say which one is meant',
    },
  );
}

async function listChains(basePath: string): Promise<string[]> {
  try {
    const names = await readdir(join(basePath, 'chains'));
    return names.filter((name) => !name.startsWith('.') && !hasControlCharacter(name)).sort();
  } catch (error) {
    if (isAbsent(error)) return [];
    throw ioError(error, 'list', join(basePath, 'chains'));
  }
}

async function existingFolder(path: string): Promise<string | undefined> {
  try {
    const real = await realpath(path);
    return (await stat(real)).isDirectory() ? real : undefined;
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw ioError(error, 'look at', path);
  }
}

async function notFound(basePath: string, options: FindDatabaseOptions): Promise<PresyncError> {
  const kind = options.backend === undefined ? 'database' : `${options.backend} database`;
  const what = options.chainId === undefined ? `no chain ${kind}` : `no ${kind} of chain ${options.chainId}`;
  let hint =
    'give the folder that the node gets as --base-path; it holds chains/<chain id>/db/full or chains/<chain id>/paritydb/full';
  const inside = /^(.*?)\/chains(?:\/[^/]+(?:\/(?:db|paritydb)(?:\/full)?)?)?$/.exec(basePath);
  const names = await listChains(basePath);
  if (inside?.[1] !== undefined && inside[1] !== '')
    hint = `give the base path itself, which seems to be ${inside[1]}`;
  else if ((await existingFolder(basePath)) === undefined)
    hint = `there is no folder ${basePath}: check the path`;
  else if (options.chainId !== undefined && names.length > 0 && !names.includes(options.chainId)) {
    hint = `the chains there are: ${names.join(', ')}; the name is the id in the chain specification, not the chain's display name`;
  } else if ((await existingFolder(join(basePath, 'polkadot', 'chains'))) !== undefined) {
    hint = `the relay chain's base path is ${join(basePath, 'polkadot')}`;
  } else if (basename(basePath) === 'full') hint = 'give the base path, not the database folder';
  return new PresyncError('NODE_LAYOUT_NOT_FOUND', `${what} in ${basePath}`, { hint });
}

function isAbsent(error: unknown): boolean {
  const code = errnoOf(error);
  return code === 'ENOENT' || code === 'ENOTDIR';
}

function hasControlCharacter(text: string): boolean {
  return [...text].some((character) => character.charCodeAt(0) < 0x20 || character === '\x7f');
}
