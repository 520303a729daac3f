import { readFile } from 'node:fs/promises';
import { messageOf, PresyncError } from '@presync/runtime/errors';
import { type PrivateKey, type PublicKey, parsePrivateKey, parsePublicKey } from './signature.ts';

/** Reads a private key file. KEY_INVALID names the file, never what is in it. */
export async function readSigningKey(path: string): Promise<PrivateKey> {
  return parsePrivateKey(await readKey(path), path);
}

/** A trusted key as `--trust` takes it: the key itself (`ed25519:…`), or a file that holds it. */
export async function readTrustedKey(keyOrFile: string): Promise<PublicKey> {
  if (keyOrFile.startsWith('ed25519:')) return parsePublicKey(keyOrFile, 'the trusted key');
  return parsePublicKey(await readKey(keyOrFile), keyOrFile);
}

async function readKey(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new PresyncError('KEY_INVALID', `cannot read the key file ${path}: ${messageOf(error)}`, {
      cause: error,
      hint: 'check the path, and that the user who runs presync may read it',
    });
  }
}
