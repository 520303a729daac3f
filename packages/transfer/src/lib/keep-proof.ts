import { encodeDocument, type ProofDocument } from '@presync/format/documents';
import { repositoryKeys } from '@presync/format/paths';
import { isPresyncError, messageOf, PresyncError } from '@presync/runtime/errors';
import { readProof } from '../proof.ts';
import type { Repository } from '../repository.ts';

/** What a proof is of, and what it is to consist of. */
export type ProofSubject = Pick<ProofDocument, 'channel' | 'sequence' | 'manifest' | 'checks'>;

/** The proof as it stands in the store, and the version of the object. */
export interface KeptProof {
  document: ProofDocument;
  version: string;
}

function documentOf(
  { channel, sequence, manifest, checks }: ProofSubject,
  state: ProofDocument['state'],
  failure: ProofDocument['failure'] = null,
): ProofDocument {
  const changed = new Date().toISOString();
  return { presync: 'proof', version: 1, channel, sequence, manifest, state, checks, failure, changed };
}

/**
 * Notes that a snapshot is going to be proved, before there is a manifest that anybody could restore from. A writer that is killed
 * in between leaves a snapshot that nobody takes for proved.
 */
export async function beginProof(
  { store }: Repository,
  subject: ProofSubject,
  signal: AbortSignal,
): Promise<KeptProof> {
  const document = documentOf(subject, 'pending');
  const key = repositoryKeys.proof(subject.channel, subject.sequence);
  const { version } = await store.put(key, encodeDocument(document), {
    condition: { ifAbsent: true },
    signal,
  });
  return { document, version };
}

/** How much of a reason is kept. */
const MAX_REASON = 1000;

/** Notes how a proof ended. Rejects when that cannot be noted; what is there then still says that it has not passed. */
export async function endProof(
  repository: Repository,
  { document, version }: KeptProof,
  outcome: 'passed' | PresyncError,
  signal: AbortSignal,
): Promise<void> {
  const next =
    outcome === 'passed'
      ? documentOf(document, 'passed')
      : documentOf(document, 'failed', {
          code: outcome.code,
          reason: messageOf(outcome).slice(0, MAX_REASON),
        });
  const key = repositoryKeys.proof(document.channel, document.sequence);
  try {
    await repository.store.put(key, encodeDocument(next), { condition: { ifVersion: version }, signal });
  } catch (error) {
    if (!isPresyncError(error, 'CONDITION_FAILED')) throw error;
  }
  // What it says now counts, not the answer to the put.
  const now = await readProof(repository, { ...document, signal });
  if (now?.state === next.state && now.manifest.sha256 === next.manifest.sha256) return;
  throw new PresyncError(
    'CONTENT_MISMATCH',
    `${key} says ${now?.state ?? 'nothing'} where ${next.state} was written`,
    {
      hint: 'the snapshot is stored and not the newest: take another; if it goes on, find out who else writes to the repository',
    },
  );
}
