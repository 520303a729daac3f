import { throwIfAborted } from '@presync/runtime/errors';
import type { StoreAccess } from './access.ts';
import { createAzureStore } from './azure.ts';
import { createFileStore } from './file.ts';
import { createGcsStore } from './gcs.ts';
import { createHttpStore } from './http.ts';
import { createMemoryStore } from './memory.ts';
import type { CallOptions, ObjectStore, StoreNotice } from './object-store.ts';
import { createS3Store } from './s3.ts';
import { parseStoreUrl } from './store-url.ts';

export interface OpenOptions extends CallOptions {
  access?: StoreAccess | undefined;
  /** Told of what a store finds out. */
  onNotice?: ((notice: StoreNotice) => void) | undefined;
}

/**
 * Opens the store of a URL as its bare adapter: the program wraps it (`withMetrics`, `withRetry`, `withLimit`).
 * Nothing is read or sent, so a store that does not exist is found out by the first call.
 *
 * @throws PresyncError STORE_URL_INVALID.
 */
export async function openStore(
  text: string,
  { access, onNotice, signal }: OpenOptions,
): Promise<ObjectStore> {
  throwIfAborted(signal);
  const url = parseStoreUrl(text);
  const identity = access?.http;
  switch (url.kind) {
    case 'file':
      return createFileStore({ dir: url.dir });
    case 'memory':
      return createMemoryStore();
    case 's3':
      return createS3Store({ ...url, identity, onNotice });
    case 'azure':
      return createAzureStore({ ...url, identity });
    case 'gcs':
      return createGcsStore({ ...url, identity });
    case 'http':
      return createHttpStore({ ...url, access: access?.http });
  }
}
