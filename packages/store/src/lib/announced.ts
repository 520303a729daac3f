import type { ReadOptions } from '../object-store.ts';
import { malformed, type StoreCall } from './answer-errors.ts';

/** What the head of an answer to a GET says of its body. */
export interface AnswerHead {
  status: number | undefined;
  contentLength: number | undefined;
  contentRange: string | undefined;
}

/**
 * How many bytes will come, and the size of the whole object. The answer must be the range that was asked for, and nothing but it: caches
 * have been seen to give a part that they had kept for the whole object, or another part.
 */
export function announced(
  call: StoreCall,
  { status, contentLength, contentRange }: AnswerHead,
  range: ReadOptions['range'],
): { length: number; size: number } {
  if (contentLength === undefined) throw malformed(call, 'no Content-Length');
  if (status !== 206) {
    const whole = range === undefined || (range.offset === 0 && range.length >= contentLength);
    if (!whole) throw malformed(call, 'the whole object where a range was asked');
    return { length: contentLength, size: contentLength };
  }
  const parts = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(contentRange ?? '');
  const [start, end, size] = (parts ?? []).slice(1).map(Number);
  if (range === undefined || start === undefined || end === undefined || size === undefined) {
    throw malformed(
      call,
      `a part of the object (${contentRange ?? 'no Content-Range'}) that was not asked for`,
    );
  }
  const expectedEnd = Math.min(range.offset + range.length, size) - 1;
  if (start !== range.offset || end !== expectedEnd || contentLength !== end - start + 1) {
    throw malformed(
      call,
      `${contentRange} (${contentLength} bytes) where ${range.offset}+${range.length} was asked`,
    );
  }
  return { length: contentLength, size };
}
