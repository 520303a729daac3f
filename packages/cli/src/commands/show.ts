import { composeTrust } from '@presync/bootstrap/compose';
import { onlyChannel } from '@presync/bootstrap/find-snapshot';
import { readStoreAccess } from '@presync/store/access';
import { composeStore } from '@presync/store/compose';
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
      snapshot: config.snapshot,
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
    return {
      json: { manifest, manifestSha256: sha256, signedBy, trustedBy, expired, proof: proof ?? null },
      text: [
        `${channel}#${manifest.sequence}${expired ? ' (EXPIRED)' : ''}`,
        quarantine === undefined
          ? `proof: ${proof === undefined ? 'none' : `passed ${proof.checks.join(', ')} at ${proof.changed}`}`
          : `QUARANTINED: ${quarantine}`,
        `signed by ${signedBy.length === 0 ? 'nobody' : signedBy.join(', ')}; trusted: ${trustedBy.length === 0 ? 'none' : trustedBy.join(', ')}`,
        JSON.stringify(manifest, null, 2),
      ],
    };
  } finally {
    await store.close();
  }
};
