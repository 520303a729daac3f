import { PresyncError } from '@presync/runtime/errors';
import { isKey } from './keys.ts';
import { malformed, type StoreCall } from './lib/answer-errors.ts';
import type { ObjectInfo } from './object-store.ts';

/**
 * Where a peer gives listings, below its base URL: `?prefix=…&after=…` answers with JSON Lines of `{key, size, version}`, in key order,
 * after the key `after`; an empty page is the last one. No object's key begins with a dot, so the path is free.
 */
export const LIST_PATH = '.presync/list';

/** Objects that a peer puts into one page. */
export const LIST_PAGE_OBJECTS = 1000;

/** A page's line has a key of at most 512 characters, a size and a version. */
const MAX_PAGE_BYTES = 2 * 1024 * 1024;

/** All objects of a peer under a prefix, page by page. */
export async function* listPages(
  prefix: string,
  call: StoreCall,
  fetchPage: (path: string, maxBytes: number) => Promise<Uint8Array>,
): AsyncGenerator<ObjectInfo> {
  let last = '';
  for (;;) {
    const query = new URLSearchParams({ prefix, after: last });
    const page = await fetchPage(`${LIST_PATH}?${query}`, MAX_PAGE_BYTES);
    const lines = Buffer.from(page)
      .toString('utf8')
      .split('\n')
      .filter((line) => line !== '');
    if (lines.length === 0) return;
    for (const line of lines) {
      const info = parseLine(line, call);
      if (!info.key.startsWith(prefix) || info.key <= last)
        throw malformed(call, `a listing that is not in key order (${info.key} after ${last})`);
      last = info.key;
      yield info;
    }
  }
}

function parseLine(line: string, call: StoreCall): ObjectInfo {
  try {
    const { key, size, version }: Record<string, unknown> = JSON.parse(line);
    if (
      typeof key === 'string' &&
      isKey(key) &&
      typeof size === 'number' &&
      Number.isSafeInteger(size) &&
      size >= 0 &&
      typeof version === 'string'
    )
      return { key, size, version };
  } catch (error) {
    if (error instanceof PresyncError) throw error;
  }
  throw malformed(call, 'a listing that is none');
}
