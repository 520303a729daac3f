import { open, readFile, stat, unlink } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { formatPublicKey, generateKey, parsePrivateKey } from '@presync/format/signature';
import { errnoOf, ioError, PresyncError } from '@presync/runtime/errors';
import type { CommandHandler } from '../command.ts';

/** A PEM file with an Ed25519 key has about 120 bytes. */
const MAX_KEY_FILE_BYTES = 16 * 1024;

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
  let pem: string;
  try {
    const info = await stat(path);
    if (!info.isFile() || info.size > MAX_KEY_FILE_BYTES) {
      throw new PresyncError('KEY_INVALID', `${path} is not a key file`, {
        hint: 'name a file that "presync keys new" wrote',
      });
    }
    if ((info.mode & 0o077) !== 0) {
      log.warn('keys.exposed', `others than its owner may read the private key ${path}; run chmod 600 on it`);
    }
    pem = await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof PresyncError) throw error;
    throw new PresyncError('KEY_INVALID', ioError(error, 'read', path).message, {
      cause: error,
      hint: 'name a file that "presync keys new" wrote, and that you may read',
    });
  }
  const key = parsePrivateKey(pem, path);
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
