import { type PresyncError, throwIfAborted } from '@presync/runtime/errors';
import { isKey } from '../keys.ts';
import type { ObjectInfo } from '../object-store.ts';
import { malformed, type StoreCall } from './answer-errors.ts';

/** One page of a bucket's listing. */
export interface ListedPage {
  entries: Iterable<ListedEntry>;
  /** Where the next page begins; undefined for the last one. A page may be empty and yet not the last one. */
  next: string | undefined;
}

export interface ListedEntry {
  /** As the bucket knows it, with the store's prefix. */
  name: string;
  /** What else the page says of it; throws when that is not enough. Asked of presync's own objects only. */
  info(key: string): ObjectInfo;
}

/** The error for a listing that is not in key order. */
export type OutOfOrder = (key: string, last: string) => PresyncError;

/**
 * The objects of a listing that comes in pages. `root` is what stands before every key: the store's prefix and a slash, or nothing. Folder
 * markers of consoles and what other programs put there are left out. Keys that are not in order, a name that was not asked for and a page
 * that leads nowhere reject: what relies on the listing would miss objects otherwise.
 */
export async function* listed(
  call: StoreCall,
  root: string,
  fetchPage: (token: string | undefined) => Promise<ListedPage>,
  outOfOrder: OutOfOrder = (key, last) =>
    malformed(call, `a listing that is not in key order (${key} after ${last})`),
): AsyncGenerator<ObjectInfo> {
  let token: string | undefined;
  let last = '';
  do {
    const { entries, next } = await fetchPage(token);
    for (const { name, info } of entries) {
      throwIfAborted(call.signal);
      if (!name.startsWith(root + call.key))
        throw malformed(call, `a listing with ${name}, which was not asked for`);
      const key = name.slice(root.length);
      if (!isKey(key)) continue;
      if (key <= last) throw outOfOrder(key, last);
      last = key;
      yield info(key);
    }
    if (next !== undefined && (next === '' || next === token))
      throw malformed(call, 'a page of a listing that does not say where the next begins');
    token = next;
    throwIfAborted(call.signal);
  } while (token !== undefined);
}
