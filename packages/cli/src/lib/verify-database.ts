import { onlyChannel } from '@presync/bootstrap/find-snapshot';
import type { Manifest } from '@presync/format/manifest';
import type { PublicKey } from '@presync/format/signature';
import { databaseHolder } from '@presync/node/locks';
import { PresyncError } from '@presync/runtime/errors';
import { formatBytes } from '@presync/runtime/units';
import {
  type CompareResult,
  compareDatabase,
  type DifferentFile,
  wasOpened,
} from '@presync/transfer/compare-database';
import { partTargets, type RestorePlaces } from '@presync/transfer/part-targets';
import { resolvePinned } from '@presync/transfer/pins';
import { type Repository, resolveSnapshot } from '@presync/transfer/repository';
import { readRestored } from '@presync/transfer/restored';
import { readSeen } from '@presync/transfer/seen';
import type { Selection } from '@presync/transfer/verify';
import type { CommandContext, CommandResult } from '../command.ts';

/** Files that are printed; `--json` has them all. */
const SHOWN = 50;

export interface VerifyDatabaseOptions {
  repository: Repository;
  basePath: string;
  trusted: readonly PublicKey[] | 'anybody';
  selection: Selection;
  scratchDir: string;
  /** True when a snapshot is named; else it is the one that was restored there. */
  isNamed: boolean;
}

/** `presync verify --base-path`: whether a restored database on this machine is what its snapshot says. */
export async function verifyDatabase(
  { config, log, progress, signal }: CommandContext<'verify'>,
  { repository, basePath, trusted, selection, scratchDir, isNamed }: VerifyDatabaseOptions,
): Promise<CommandResult> {
  const { stateDir, genesis: genesisHash, relayBasePath } = config;
  const places: RestorePlaces = { basePath, relayBasePath };
  const restored = isNamed ? undefined : await readRestored({ stateDir, ...places });
  const there = restored?.manifest.repository.id === repository.id ? restored.manifest : undefined;
  const channel = config.channel ?? there?.channel ?? (await onlyChannel(repository, signal));
  const snapshot = there !== undefined && there.channel === channel ? there.sequence : config.snapshot;
  const { manifest } = await resolveSnapshot(repository, {
    channel,
    snapshot: await resolvePinned(repository, channel, { snapshot, signal }),
    trusted,
    genesisHash,
    seen: await readSeen({ stateDir, repositoryId: repository.id, channel }),
    allowExpired: true,
    signal,
  });
  const name = `${channel}#${manifest.sequence}`;
  const opened = (await isOpen(manifest, places, signal)) || (await wasOpened(manifest, places));
  progress.start({ label: `Comparing ${basePath} with ${name}`, total: manifest.totals.bytes });
  const result = await compareDatabase({
    repository,
    manifest,
    ...places,
    immutableOnly: opened,
    selection,
    scratchDir,
    concurrency: config.concurrency,
    onProgress: (bytes) => progress.advance(bytes),
    onEvent: (event, message, details) => log.info(event, message, details),
    signal,
  });
  progress.finish();
  if (result.files === 0) throw nothingToCompare(basePath, name, opened, selection);
  // A node merges old tables into new ones, and removes the old.
  const gone = opened ? result.different.filter(({ kind }) => kind === 'missing') : [];
  const wrong = result.different.filter((file) => !gone.includes(file));
  return {
    json: {
      channel,
      sequence: manifest.sequence,
      targets: partTargets(manifest, places).map(({ target }) => target),
      ok: wrong.length === 0,
      immutableOnly: opened,
      files: result.files,
      leftOut: result.leftOut,
      bytes: result.bytes,
      removedByNode: gone.length,
      different: wrong,
    },
    text: lines({ ...result, different: wrong }, { name, basePath, opened, gone: gone.length, selection }),
    exitCode: wrong.length === 0 ? 0 : new PresyncError('CONTENT_MISMATCH', '').exitCode,
  };
}

async function isOpen(manifest: Manifest, places: RestorePlaces, signal: AbortSignal): Promise<boolean> {
  const targets = partTargets(manifest, places);
  for (const { path, backend } of manifest.node.parts) {
    const target = targets.find(({ part }) => part === path)?.target ?? '';
    if ((await databaseHolder({ dir: target, backend }, { signal })) !== undefined) return true;
  }
  return false;
}

function nothingToCompare(
  basePath: string,
  name: string,
  opened: boolean,
  { globs = [] }: Selection,
): PresyncError {
  if (globs.length > 0 && !opened) {
    return new PresyncError('USAGE', `no file of ${name} is named ${globs.join(' or ')}`, {
      hint: 'quote the pattern, and leave folders out of it or begin it at the base path, as in "chains/*/db/full/*.sst"',
    });
  }
  return new PresyncError(
    'NOTHING_TO_COMPARE',
    `a node has opened the database in ${basePath}, and what is left of ${name} there cannot be told from what the node wrote`,
    {
      hint: 'compare a ParityDB before a node has opened it; to check the snapshot itself, leave --base-path out',
    },
  );
}

interface Told {
  name: string;
  basePath: string;
  opened: boolean;
  gone: number;
  selection: Selection;
}

function lines(
  { files, leftOut, bytes, different }: CompareResult,
  { name, basePath, opened, gone, selection }: Told,
): string[] {
  const { percent } = selection;
  const read = `${files} files${percent === undefined ? '' : `, ${percent}% of what is in them`}, ${formatBytes(bytes)} read`;
  return [
    `${basePath} compared with ${name}: ${read}`,
    ...(opened
      ? [
          `  a node has opened this database: its ${leftOut} files that change were not compared, and ${gone} tables that the node has merged into others are gone`,
        ]
      : []),
    ...different.slice(0, SHOWN).map(describe),
    ...(different.length > SHOWN ? [`and ${different.length - SHOWN} more; --json lists them`] : []),
    different.length === 0
      ? `Every byte that was compared is as in ${name}.`
      : `${different.length} ${different.length === 1 ? 'file is' : 'files are'} not as in ${name}. If that is the snapshot that was restored here, restore it again with --existing reuse, which fetches only what differs; if it is another one, name the right one with --snapshot.`,
  ];
}

function describe({ path, kind, at }: DifferentFile): string {
  switch (kind) {
    case 'content':
      return `  DIFFERENT  ${path}, at byte ${at} or after it`;
    case 'size':
      return `  DIFFERENT  ${path} has another length`;
    case 'missing':
      return `  MISSING    ${path}`;
    case 'extra':
      return `  UNKNOWN    ${path} is no file of the snapshot`;
  }
}
