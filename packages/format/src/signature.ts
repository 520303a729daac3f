import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign,
  verify,
} from 'node:crypto';
import { PresyncError } from '@presync/runtime/errors';
import { z } from 'zod';
import { invalid, parseDocument } from './documents.ts';
import { MAX_SIGNATURES } from './limits.ts';

/**
 * A signed document is a DSSE envelope (secure-systems-lab/dsse): the payload's exact bytes in base64, their type, and
 * Ed25519 signatures over both. Any DSSE library can check it.
 */
const PAYLOAD_TYPE = 'application/vnd.presync.manifest+json';

/** What `presync keys public` prints and `--trust` takes. */
const PUBLIC_PREFIX = 'ed25519:';

const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;

const envelopeSchema = z.strictObject({
  payloadType: z.literal(PAYLOAD_TYPE),
  payload: z.string().regex(BASE64),
  signatures: z
    .array(z.strictObject({ keyid: z.string().min(1).max(64), sig: z.string().max(128).regex(BASE64) }))
    .max(MAX_SIGNATURES),
});

export interface PublicKey {
  /** The first 16 hexadecimal digits of the SHA-256 of the raw key. */
  id: string;
  key: KeyObject;
}

export interface PrivateKey extends PublicKey {
  privateKey: KeyObject;
}

/** A new key pair; `pem` is PKCS #8, as openssl writes it. */
export function generateKey(): PrivateKey & { pem: string } {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  return {
    id: keyId(publicKey),
    key: publicKey,
    privateKey,
    pem: privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
  };
}

/** Reads a PKCS #8 PEM private key. `what` names the file in the error (KEY_INVALID); the error never holds the key. */
export function parsePrivateKey(pem: string, what: string): PrivateKey {
  let privateKey: KeyObject;
  try {
    privateKey = createPrivateKey(pem);
  } catch {
    // The cause is withheld on purpose: some decoders quote their input.
    throw badKey(what, 'it is not a PEM private key');
  }
  if (privateKey.asymmetricKeyType !== 'ed25519')
    throw badKey(what, `it is of type ${privateKey.asymmetricKeyType}, not Ed25519`);
  const key = createPublicKey(privateKey);
  return { id: keyId(key), key, privateKey };
}

/** Reads a public key: `ed25519:<base64url>`, or a SubjectPublicKeyInfo PEM. A private key is refused, so that none is copied to a fleet by mistake. */
export function parsePublicKey(text: string, what: string): PublicKey {
  const trimmed = text.trim();
  if (trimmed.includes('PRIVATE KEY'))
    throw badKey(what, 'it is a private key; give the public one (presync keys public FILE)');
  let key: KeyObject;
  try {
    key = trimmed.startsWith(PUBLIC_PREFIX)
      ? createPublicKey({
          key: { kty: 'OKP', crv: 'Ed25519', x: trimmed.slice(PUBLIC_PREFIX.length) },
          format: 'jwk',
        })
      : createPublicKey(trimmed);
  } catch (error) {
    throw badKey(what, 'it is not an Ed25519 public key', error);
  }
  if (key.asymmetricKeyType !== 'ed25519')
    throw badKey(what, `it is of type ${key.asymmetricKeyType}, not Ed25519`);
  return { id: keyId(key), key };
}

export function formatPublicKey(key: PublicKey): string {
  return `${PUBLIC_PREFIX}${rawKey(key.key)}`;
}

function badKey(what: string, why: string, cause?: unknown): PresyncError {
  return new PresyncError('KEY_INVALID', `${what} cannot be used: ${why}`, {
    cause,
    hint: 'make a key pair with "presync keys new --out FILE"',
  });
}

function rawKey(key: KeyObject): string {
  return key.export({ format: 'jwk' }).x ?? '';
}

function keyId(key: KeyObject): string {
  return createHash('sha256')
    .update(Buffer.from(rawKey(key), 'base64url'))
    .digest('hex')
    .slice(0, 16);
}

/** DSSE's pre-authentication encoding: type and payload, each with its length, so that neither can pass for the other. */
function preAuthentication(payload: Uint8Array): Buffer {
  return Buffer.concat([
    Buffer.from(`DSSEv1 ${PAYLOAD_TYPE.length} ${PAYLOAD_TYPE} ${payload.length} `),
    payload,
  ]);
}

/**
 * The envelope's bytes. With no keys it is unsigned, which agents refuse unless told otherwise. A key that is given twice signs once; more
 * keys than an envelope may carry signatures are KEY_INVALID.
 */
export function sealEnvelope(payload: Uint8Array, keys: readonly PrivateKey[]): Buffer {
  const message = preAuthentication(payload);
  const signers = [...new Map(keys.map((key) => [key.id, key])).values()];
  if (signers.length > MAX_SIGNATURES) {
    throw new PresyncError(
      'KEY_INVALID',
      `${signers.length} keys are to sign, and a manifest carries at most ${MAX_SIGNATURES} signatures`,
      {
        hint: 'name fewer --sign-key',
      },
    );
  }
  const envelope: z.infer<typeof envelopeSchema> = {
    payloadType: PAYLOAD_TYPE,
    payload: Buffer.from(payload).toString('base64'),
    signatures: signers.map((key) => ({
      keyid: key.id,
      sig: sign(null, message, key.privateKey).toString('base64'),
    })),
  };
  return Buffer.from(`${JSON.stringify(envelope, null, 2)}\n`);
}

export interface OpenedEnvelope {
  payload: Buffer;
  /** Ids of the trusted keys whose signatures are good. */
  trustedBy: string[];
  /** Ids of all keys that the envelope claims. */
  signedBy: string[];
}

/**
 * Opens an envelope and checks its signatures. At least one must be by a trusted key (else MANIFEST_UNSIGNED or MANIFEST_UNTRUSTED), and none
 * that claims to be by one may be wrong. With `trusted: 'anybody'` no signature is asked for; that is `--insecure-no-verify`.
 */
export function openEnvelope(
  bytes: Uint8Array,
  trusted: readonly PublicKey[] | 'anybody',
  what: string,
): OpenedEnvelope {
  const envelope = parseDocument(bytes, envelopeSchema, what);
  const payload = Buffer.from(envelope.payload, 'base64');
  if (payload.toString('base64') !== envelope.payload)
    throw invalid(what, 'payload: is not canonical base64');
  const signedBy = envelope.signatures.map((signature) => signature.keyid);
  if (new Set(signedBy).size !== signedBy.length) throw invalid(what, 'signatures: a key signs twice');
  if (trusted === 'anybody') return { payload, trustedBy: [], signedBy };
  if (envelope.signatures.length === 0) {
    throw new PresyncError('MANIFEST_UNSIGNED', `${what} carries no signature`, {
      hint: 'take a snapshot with --sign-key on the source node',
    });
  }
  const message = preAuthentication(payload);
  const trustedBy: string[] = [];
  for (const { keyid, sig } of envelope.signatures) {
    const key = trusted.find(({ id }) => id === keyid);
    if (key === undefined) continue;
    if (!verify(null, message, key.key, Buffer.from(sig, 'base64'))) {
      throw new PresyncError(
        'MANIFEST_UNTRUSTED',
        `the signature on ${what} that claims to be by key ${keyid} is wrong`,
        {
          hint: 'do not use this snapshot; somebody changed it',
        },
      );
    }
    trustedBy.push(keyid);
  }
  if (trustedBy.length === 0) {
    throw new PresyncError(
      'MANIFEST_UNTRUSTED',
      `${what} is signed by ${signedBy.map((id) => JSON.stringify(id)).join(', ')}, none of which is trusted`,
      {
        hint: "give the source node's public key with --trust",
      },
    );
  }
  return { payload, trustedBy, signedBy };
}
