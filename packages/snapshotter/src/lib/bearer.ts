import { timingSafeEqual } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { messageOf, PresyncError } from '@presync/runtime/errors';

/** @throws CONFIG_INVALID for a file that cannot be read or holds nothing */
export async function readToken(path: string): Promise<string> {
  const token = (await readSmall(path)).trim();
  if (token !== '') return token;
  throw new PresyncError('CONFIG_INVALID', `${path} holds no token`, {
    hint: 'write a long random text into it',
  });
}

/** @throws CONFIG_INVALID for a file that cannot be read */
export async function readSmall(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new PresyncError('CONFIG_INVALID', `cannot read ${path}: ${messageOf(error)}`, {
      cause: error,
      hint: 'look at the path and its permissions',
    });
  }
}

/** Compares in a time that tells nothing of the token but its length. */
export function isAuthorized(header: string | undefined, token: string): boolean {
  const given = Buffer.from(/^Bearer (.+)$/i.exec(header ?? '')?.[1] ?? '');
  const wanted = Buffer.from(token);
  return given.length === wanted.length && timingSafeEqual(given, wanted);
}
