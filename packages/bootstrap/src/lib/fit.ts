import type { Manifest } from '@presync/format/manifest';
import { type Backend, isPartPath } from '@presync/node/layout';
import { PresyncError } from '@presync/runtime/errors';

/** What this machine is for. What is undefined may be anything. */
export interface Fit {
  /** Chain spec id. */
  chain?: string | undefined;
  backend?: Backend | undefined;
  genesisHash?: string | undefined;
  /** Refuse a snapshot that is older, milliseconds. */
  maxAgeMs?: number | undefined;
}

/** True for a snapshot of the chain and with the backend that are demanded. */
export function isFit({ chain, node }: Manifest, wanted: Fit): boolean {
  return (
    chain.specId === (wanted.chain ?? chain.specId) &&
    chain.genesisHash === (wanted.genesisHash ?? chain.genesisHash) &&
    node.parts.every(({ role, backend }) => role !== 'main' || backend === (wanted.backend ?? backend))
  );
}

/** Refuses a snapshot that is of no use to a node of this machine, however new it is. */
export function assertForThisNode(manifest: Manifest, fit: Fit): void {
  const name = nameOf(manifest);
  if (fit.chain !== undefined && manifest.chain.specId !== fit.chain) {
    throw new PresyncError(
      'MANIFEST_FOREIGN',
      `${name} is of chain ${manifest.chain.specId}, not ${fit.chain}`,
      { hint: 'check --channel and --chain' },
    );
  }
  for (const part of manifest.node.parts) {
    if (fit.backend !== undefined && part.role === 'main' && part.backend !== fit.backend) {
      throw new PresyncError(
        'TARGET_BACKEND',
        `${name} is a ${part.backend} database, and the node here uses ${fit.backend}`,
        {
          hint: 'choose a channel with that backend, or start the node with the other --database',
        },
      );
    }
    if (!isPartPath(part, manifest.chain.specId, manifest.node.parts)) {
      throw new PresyncError(
        'PATH_UNSAFE',
        `${name} would be restored to ${part.path}, where no node of chain ${manifest.chain.specId} looks for it`,
        {
          hint: 'do not use this snapshot',
        },
      );
    }
  }
}

export function isTooOld({ created }: Manifest, { maxAgeMs }: Fit): boolean {
  return maxAgeMs !== undefined && Date.now() - Date.parse(created) > maxAgeMs;
}

export function assertNotTooOld(manifest: Manifest, fit: Fit): void {
  if (!isTooOld(manifest, fit)) return;
  throw new PresyncError(
    'SNAPSHOT_NOT_FOUND',
    `${nameOf(manifest)} of ${manifest.created} is older than --max-age allows`,
    {
      hint: 'find out why the source node takes no snapshots, or allow an older one',
    },
  );
}

function nameOf({ channel, sequence }: Manifest): string {
  return `snapshot ${channel}#${sequence}`;
}
