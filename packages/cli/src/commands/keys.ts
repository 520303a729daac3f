import { open, stat, unlink } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { readSigningKey } from '@presync/format/key-files';
import { formatPublicKey, generateKey } from '@presync/format/signature';
import { errnoOf, ioError, PresyncError } from '@presync/runtime/errors';
import type { CommandHandler } from '../command.ts';

export const keysNew: CommandHandler<'keys new'> = async ({ config, log }) => {
  const key = generateKey();
  await writeNew(config.out, key.pem);
  const publicKey = formatPublicKey(key);
  log.info('keys.created', `the private key is in ${config.out}; keep a copy of it in a safe place`, {
    keyId: key.id,
    publicKey,
  });
  return { json: { keyId: key.id, publicKey, file: config.out }, text: [key.id] };
};

export const keysPublic: CommandHandler<'keys public'> = async ({ args, log }) => {
  const [path = ''] = args;
  const key = await readSigningKey(path);
  const { mode } = await stat(path);
  if ((mode & 0o077) !== 0) {
    log.warn('keys.exposed', `others than its owner may read the private key ${path}; run chmod 600 on it`);
  }
  const publicKey = formatPublicKey(key);
  return { json: { keyId: key.id, publicKey }, text: [publicKey] };
};

/** Writes the file durably, for its owner only, and never over another one. */
async function writeNew(path: string, content: string): Promise<void> {
  let made = false;
  try {
    const file = await open(path, 'wx', 0o600);
    made = true;
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    const folder = await open(dirname(resolve(path)), 'r');
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  } catch (error) {
    if (made) await unlink(path);
    if (errnoOf(error) === 'EEXIST') {
      throw new PresyncError(
        'CONFIG_INVALID',
        `--out names ${path}, which exists, and a key is never overwritten`,
        {
          cause: error,
          hint: 'choose another file, or move the old key away first',
        },
      );
    }
    throw ioError(error, 'write', path);
  }
}
