import { type ProofDocument, parseProof } from '@presync/format/documents';
import { MAX_DOCUMENT_SIZE } from '@presync/format/limits';
import { repositoryKeys } from '@presync/format/paths';
import { isPresyncError, PresyncError } from '@presync/runtime/errors';
import { readAgain } from './lib/read-again.ts';
import type { Repository, Snapshot } from './repository.ts';

/** What the source node says of a snapshot's proof; undefined when it never set out to prove it. */
export function readProof(
  { store }: Repository,
  { channel, sequence, signal }: { channel: string; sequence: number; signal: AbortSignal },
): Promise<ProofDocument | undefined> {
  return readAgain(signal, async () => {
    const key = repositoryKeys.proof(channel, sequence);
    try {
      const { bytes } = await store.read(key, { maxBytes: MAX_DOCUMENT_SIZE, signal });
      const proof = parseProof(bytes, `${key} at ${store.location}`);
      if (proof.channel === channel && proof.sequence === sequence) return proof;
    } catch (error) {
      if (isPresyncError(error, 'OBJECT_NOT_FOUND')) return undefined;
      throw error;
    }
    throw new PresyncError('FORMAT_INVALID', `${key} is the proof of another snapshot: it was moved`, {
      hint: 'find out who wrote to the repository',
    });
  });
}

/** Why a snapshot is in quarantine; undefined when it is not. */
export function quarantineOf(
  proof: ProofDocument | undefined,
  snapshot: Pick<Snapshot, 'sha256'>,
): string | undefined {
  if (proof === undefined) return undefined;
  if (proof.manifest.sha256 !== snapshot.sha256) return 'its proof is that of another manifest';
  if (proof.state === 'passed') return undefined;
  if (proof.failure === null) return `its proof of ${proof.changed} has not ended`;
  return `it failed its proof at ${proof.changed}: ${proof.failure.code}: ${proof.failure.reason}`;
}

/**
 * SNAPSHOT_QUARANTINED unless the snapshot has passed its proof, or nobody set out to prove it. A snapshot that `latest` names need not be
 * asked for: it was moved there because it had passed.
 */
export async function assertNotQuarantined(
  repository: Repository,
  snapshot: Snapshot,
  { signal }: { signal: AbortSignal },
): Promise<void> {
  const { channel, sequence } = snapshot.manifest;
  const why = quarantineOf(await readProof(repository, { channel, sequence, signal }), snapshot);
  if (why === undefined) return;
  throw new PresyncError('SNAPSHOT_QUARANTINED', `snapshot ${channel}#${sequence} is in quarantine: ${why}`, {
    hint: 'use another snapshot (see "presync list"), or say --allow-quarantined if you must have this one',
  });
}
