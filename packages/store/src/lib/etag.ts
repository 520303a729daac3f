import { malformed, type StoreCall } from './answer-errors.ts';

/** The version that an ETag stands for. Some listings have it without its quotes, and conditions want it with them. */
export function quotedEtag(call: StoreCall, etag: string | undefined): string {
  if (etag === undefined || etag === '') throw malformed(call, 'no ETag');
  return etag.endsWith('"') ? etag : `"${etag}"`;
}
