import { type LeaseDocument, parseLease } from '@presync/format/documents';
import { MAX_DOCUMENT_SIZE } from '@presync/format/limits';
import { repositoryKeys } from '@presync/format/paths';
import { isPresyncError } from '@presync/runtime/errors';
import type { ObjectStore } from '@presync/store/object-store';
import { type Clock, MAX_LANDING_MS, MAX_SKEW_MS } from '../clock.ts';
import { readAgain } from './read-again.ts';

/** A lease as a collector sees it. */
export interface FoundLease {
  /** `<kind>/<id>` */
  name: string;
  key: string;
  /** Undefined when it cannot be read: then it counts as held. */
  document: LeaseDocument | undefined;
  expired: boolean;
}

/**
 * All leases, each read after the call began. One counts as expired when its holder has given up by its own clock, whichever of the two clocks is wrong,
 * and nothing that the holder sent before can be carried out any more.
 */
export async function listLeases(
  store: ObjectStore,
  clock: Clock,
  signal: AbortSignal,
): Promise<FoundLease[]> {
  const found: FoundLease[] = [];
  for await (const { key } of store.list(repositoryKeys.leases, { signal })) {
    const name = /^leases\/((?:writer|reader)\/[^/]+)\.json$/.exec(key)?.[1];
    if (name === undefined) continue;
    try {
      const document = await readAgain(signal, async () => {
        const { bytes } = await store.read(key, { maxBytes: MAX_DOCUMENT_SIZE, signal });
        return parseLease(bytes, `${key} at ${store.location}`);
      });
      found.push({ name, key, document, expired: isExpired(document, clock) });
    } catch (error) {
      if (isPresyncError(error, 'OBJECT_NOT_FOUND')) continue;
      if (!isPresyncError(error) || error.exitCode !== 4) throw error;
      found.push({ name, key, document: undefined, expired: false });
    }
  }
  return found;
}

function isExpired({ expires }: LeaseDocument, clock: Clock): boolean {
  return clock.now() >= Date.parse(expires) + MAX_SKEW_MS + MAX_LANDING_MS;
}
