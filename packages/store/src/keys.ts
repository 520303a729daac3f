import { PresyncError } from '@presync/runtime/errors';

/** Characters in a key, the `/` included. */
export const MAX_KEY_LENGTH = 512;

/** Characters in one segment: what a file name may have on every common file system. */
export const MAX_SEGMENT_LENGTH = 255;

/** Where everything lies that checks of a store put, each in a folder of its own. */
export const CHECKS_PREFIX = 'checks/';

const SEGMENT = /^[A-Za-z0-9_-][A-Za-z0-9._-]*$/;

/** True for a segment that the ObjectStore contract allows in a key. */
export function isKeySegment(segment: string): boolean {
  return segment.length <= MAX_SEGMENT_LENGTH && SEGMENT.test(segment);
}

/** True for a key that the ObjectStore contract allows. */
export function isKey(key: string): boolean {
  return key.length <= MAX_KEY_LENGTH && key.split('/').every(isKeySegment);
}

/** Throws INTERNAL for a key that the ObjectStore contract does not allow. Every adapter calls it first. */
export function assertKey(key: string): void {
  if (isKey(key)) return;
  throw new PresyncError('INTERNAL', `${JSON.stringify(key)} is not a valid object key`, {
    hint: 'this is a defect in the caller: names are to be checked before keys are made of them',
  });
}

/** Throws INTERNAL for a list prefix with which no key can begin. */
export function assertPrefix(prefix: string): void {
  const segments = prefix.split('/');
  const last = segments.pop() ?? '';
  if (
    prefix.length <= MAX_KEY_LENGTH &&
    segments.every(isKeySegment) &&
    (last === '' || isKeySegment(last))
  ) {
    return;
  }
  throw new PresyncError(
    'INTERNAL',
    `${JSON.stringify(prefix)} is not a prefix that an object key can have`,
    {
      hint: 'this is a defect in the caller: names are to be checked before keys are made of them',
    },
  );
}
