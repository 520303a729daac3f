import { composeTrust } from '@presync/bootstrap/compose';
import { onlyChannel } from '@presync/bootstrap/find-snapshot';
import type { Manifest } from '@presync/format/manifest';
import { formatBytes, formatDuration } from '@presync/runtime/units';
import { readStoreAccess } from '@presync/store/access';
import { composeStore } from '@presync/store/compose';
import { resolvePinned } from '@presync/transfer/pins';
import { quarantineOf, readProof } from '@presync/transfer/proof';
import { openRepository, resolveSnapshot } from '@presync/transfer/repository';
import { readSeen } from '@presync/transfer/seen';
import type { CommandHandler } from '../command.ts';

export const show: CommandHandler<'show'> = async ({ config, log, signal }) => {
  const trusted = await composeTrust(config, log);
  const store = await composeStore(config.store, { access: await readStoreAccess(config), signal });
  try {
    const repository = await openRepository(store, { signal });
    const channel = config.channel ?? (await onlyChannel(repository, signal));
    const snapshot = await resolveSnapshot(repository, {
      channel,
      snapshot: await resolvePinned(repository, channel, { snapshot: config.snapshot, signal }),
      trusted,
      genesisHash: config.genesis,
      seen: await readSeen({ stateDir: config.stateDir, repositoryId: repository.id, channel }),
      allowExpired: true,
      signal,
    });
    const { manifest, sha256, trustedBy, signedBy } = snapshot;
    const proof = await readProof(repository, { channel, sequence: manifest.sequence, signal });
    const quarantine = quarantineOf(proof, snapshot);
    const expired = manifest.expires !== null && Date.now() >= Date.parse(manifest.expires);
    const trust =
      trustedBy.length > 0
        ? `, trusted: ${trustedBy.join(', ')}`
        : '; NOBODY WAS CHECKED (--insecure-no-verify)';
    return {
      json: { manifest, manifestSha256: sha256, signedBy, trustedBy, expired, proof: proof ?? null },
      text: [
        `${channel}#${manifest.sequence}${expired ? ' (EXPIRED)' : ''}`,
        quarantine === undefined
          ? `  proof       ${proof === undefined ? 'none beside what was read back' : `passed ${proof.checks.join(', ')} at ${proof.changed}`}`
          : `  QUARANTINED ${quarantine}`,
        `  signed by   ${signedBy.length === 0 ? 'nobody' : signedBy.join(', ')}${trust}`,
        ...describe(manifest),
        `  manifest    SHA-256 ${sha256}; --json prints it whole`,
      ],
    };
  } finally {
    await store.close();
  }
};

function describe({ created, expires, chain, node, totals, pause, previous }: Manifest): string[] {
  const { anchor, head, blockTimeMs } = chain;
  const unknown = 'not known';
  const age = formatDuration(Math.max(0, Date.now() - Date.parse(created)));
  const state = `state pruning ${node.statePruning ?? unknown}, blocks pruning ${node.blocksPruning ?? unknown}`;
  return [
    `  taken       ${created}, ${age} ago; ${expires === null ? 'does not expire' : `expires ${expires}`}`,
    `  chain       ${chain.specId}, genesis ${chain.genesisHash}${blockTimeMs === null ? '' : `, a block in ${formatDuration(blockTimeMs)}`}`,
    `  holds       ${anchor === null ? 'blocks that no node has told of' : `block ${anchor.number} ${anchor.hash}`}${head === null ? '' : `, and no block above ${head.number}`}`,
    `  node        ${node.implementation ?? unknown} ${node.version ?? ''}`.trimEnd(),
    `              ${state}`,
    ...node.parts.map(
      ({ role, backend, path, databaseVersion }) =>
        `  database    ${role}: ${backend}, version ${databaseVersion}, in ${path}`,
    ),
    `  size        ${totals.files} files, ${formatBytes(totals.bytes)}; ${formatBytes(totals.stored)} in the store, of which ${formatBytes(totals.added)} were new`,
    `  paused      ${formatDuration(pause.seconds * 1000)} by ${pause.strategy}`,
    `  builds on   ${previous === null ? 'nothing: it is the first' : `#${previous.sequence}`}`,
  ];
}
