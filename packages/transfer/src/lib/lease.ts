import { hostname } from 'node:os';
import { encodeDocument } from '@presync/format/documents';
import { repositoryKeys } from '@presync/format/paths';
import { messageOf } from '@presync/runtime/errors';
import type { Repository } from '../repository.ts';
import type { UploadOptions } from '../snapshot.ts';
import { confirmStored } from './confirm-stored.ts';

/** How long a writer's lease holds without renewal. */
const LEASE_MS = 24 * 60 * 60 * 1000;
export async function takeLease(
  { store }: Repository,
  channel: string,
  sequence: number | null,
  signal: AbortSignal,
): Promise<string> {
  const id = crypto.randomUUID();
  const now = Date.now();
  const key = repositoryKeys.lease('writer', id);
  const document = encodeDocument({
    presync: 'lease',
    version: 1,
    kind: 'writer',
    id,
    channel,
    sequence,
    holder: `${hostname()} ${process.pid}`.slice(0, 255),
    created: new Date(now).toISOString(),
    expires: new Date(now + LEASE_MS).toISOString(),
  });
  // Nobody else knows the key, so that the put may be made again; and without a lease nothing protects what is put.
  await store.put(key, document, { signal });
  await confirmStored(store, key, document.byteLength, signal);
  return key;
}

/** Also after an abort, so with a signal of its own; a lease that cannot be dropped expires by itself. */
export async function dropLease({ repository, onEvent }: UploadOptions, key: string): Promise<void> {
  try {
    await repository.store.remove(key, { signal: AbortSignal.timeout(10_000) });
  } catch (error) {
    onEvent?.('lease.not_dropped', 'the lease could not be dropped; it expires by itself', {
      key,
      reason: messageOf(error),
    });
  }
}
