import { mkdir, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { ioError, PresyncError } from '@presync/runtime/errors';
import type { Logger } from '@presync/runtime/log';
import { assertDatabaseFile } from '@presync/transfer/database-file';
import type { Repository } from '@presync/transfer/repository';
import { restoreSnapshot } from '@presync/transfer/restore';
import type { FurtherProof } from '@presync/transfer/snapshot';
import { findIsolation } from './lib/isolation.ts';
import { checkProofCommand } from './lib/proof-command.ts';
import { clearProofs, createProofFolder, removeProofFolder } from './lib/proof-scratch.ts';
import { runProofNode } from './lib/run-proof-node.ts';

/** How a new snapshot is proved beyond being read back: it is restored, and, where there is a command, a node opens the copy. */
export interface ProofOptions {
  /** Where copies are restored to, one folder each, which goes with the proof. */
  dir: string;
  /** The node's command; undefined for a restore only. */
  command?: readonly string[] | undefined;
  isolation: 'namespace' | 'flags';
  /** Milliseconds until the node must have shown the anchor. */
  timeoutMs: number;
}

/** A Substrate node ends when less than 1 GiB is free; more than that must be left beside the copy. */
const NODE_ROOM = 1.25 * 1024 ** 3;

/**
 * Checks, before the source node is touched, that a proof can be carried out here: the command, the isolation, the room. Clears away what a killed
 * presync has left.
 *
 * @throws CONFIG_INVALID, PROOF_NOT_ISOLATED, NO_SPACE, IO_FAILED
 */
export async function prepareProof(
  options: ProofOptions,
  {
    bytes,
    concurrency,
    log,
    signal,
  }: { bytes: number; concurrency: number | undefined; log: Logger; signal: AbortSignal },
): Promise<(repository: Repository) => FurtherProof> {
  const { dir, command, timeoutMs } = options;
  if (command !== undefined) await checkProofCommand(command);
  await mkdir(dir, { recursive: true, mode: 0o700 }).catch((error: unknown) => {
    throw ioError(error, 'make the folder', dir);
  });
  await clearProofs(dir, log);
  await assertRoom(dir, bytes + (command === undefined ? 0 : NODE_ROOM));
  const isolation = command === undefined ? undefined : await findIsolation(options.isolation, { signal });
  if (isolation?.kind === 'flags') {
    log.warn('proof.flags_only', 'only flags of the node keep the proof node from the network');
  }
  return (repository) => ({
    checks: command === undefined ? ['restore'] : ['restore', 'node'],
    run: async (snapshot) => {
      const folder = await createProofFolder(dir);
      try {
        const basePath = join(folder, 'base');
        const { manifest } = snapshot;
        await restoreSnapshot({
          repository,
          snapshot,
          basePath,
          assertFile: (file) => assertDatabaseFile(manifest, file),
          concurrency,
          signal,
        });
        log.info('proof.restored', 'the snapshot was restored into scratch space', { dir: folder });
        if (command === undefined || isolation === undefined) return;
        const { genesisHash, anchor } = manifest.chain;
        await runProofNode({
          command,
          isolation,
          dir: folder,
          basePath,
          genesisHash,
          anchor,
          timeoutMs,
          log,
          signal,
        });
      } finally {
        await removeProofFolder(folder);
      }
    },
  });
}

async function assertRoom(dir: string, needed: number): Promise<void> {
  const { bavail, bsize } = await statfs(dir);
  const free = bavail * bsize;
  if (free >= needed) return;
  throw new PresyncError(
    'NO_SPACE',
    `${dir} has ${free} bytes free, and a proof by restoring needs ${Math.ceil(needed)}`,
    { hint: 'give a folder with more room with --prove-dir, or prove a sample with --prove' },
  );
}
