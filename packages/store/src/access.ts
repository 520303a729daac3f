import { readFile } from 'node:fs/promises';
import * as tls from 'node:tls';
import { messageOf, PresyncError } from '@presync/runtime/errors';
import type { HttpAccess } from './http.ts';

/** The options of every command that uses a store. */
export interface AccessConfig {
  storeAuth?: string | undefined;
  storeCa?: string | undefined;
  storeCert?: string | undefined;
  storeCertKey?: string | undefined;
  /** Bytes a second. */
  bandwidth?: number | undefined;
}

/** How stores are spoken to. The clouds' own credentials come from each cloud's usual chain, not from here. */
export interface StoreAccess {
  http?: HttpAccess | undefined;
  bandwidth?: number | undefined;
}

/** More than any file with a handful of lines or certificates has. */
const MAX_FILE_BYTES = 1024 * 1024;

/**
 * Reads the files that the options name. Authorities of `storeCa` are trusted by the whole process from then on.
 *
 * @throws PresyncError CONFIG_INVALID, which names the file and never repeats what is in it.
 */
export async function readStoreAccess(config: AccessConfig): Promise<StoreAccess> {
  const { storeAuth, storeCa, storeCert, storeCertKey, bandwidth } = config;
  if (storeCa !== undefined) trustAuthorities(await readSmall(storeCa, '--store-ca'), storeCa);
  if ((storeCert === undefined) !== (storeCertKey === undefined)) {
    throw new PresyncError(
      'CONFIG_INVALID',
      'a client certificate needs its private key, and the other way round',
      {
        hint: 'give both --store-cert and --store-cert-key',
      },
    );
  }
  const lines =
    storeAuth === undefined ? new Map() : parseAuth(await readSmall(storeAuth, '--store-auth'), storeAuth);
  return {
    bandwidth,
    http: {
      authorization: (origin) => lines.get(origin),
      ...(storeCert === undefined || storeCertKey === undefined
        ? {}
        : {
            cert: await readSmall(storeCert, '--store-cert'),
            key: await readSmall(storeCertKey, '--store-cert-key'),
          }),
    },
  };
}

async function readSmall(path: string, option: string): Promise<string> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw new PresyncError('CONFIG_INVALID', `the file of ${option} cannot be read: ${messageOf(error)}`, {
      cause: error,
      hint: `look at the path and its permissions, and run presync as a user who may read it`,
    });
  }
  if (bytes.length > MAX_FILE_BYTES)
    throw new PresyncError('CONFIG_INVALID', `${path} (${option}) is larger than ${MAX_FILE_BYTES} bytes`, {
      hint: 'it is not the file that was meant',
    });
  return bytes.toString('utf8');
}

function trustAuthorities(pem: string, path: string): void {
  const certificates = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  const invalid = (why: string, cause?: unknown): PresyncError =>
    new PresyncError('CONFIG_INVALID', `${path} (--store-ca) ${why}`, {
      cause,
      hint: 'give a PEM file with the certificates of the authorities that signed the store’s certificate',
    });
  if (certificates.length === 0) throw invalid('holds no certificate');
  // Node 24.5 and later.
  if (typeof tls.setDefaultCACertificates !== 'function')
    throw invalid(`cannot be used with Node ${process.version}: set NODE_EXTRA_CA_CERTS to it`);
  try {
    tls.setDefaultCACertificates([...tls.getCACertificates('default'), ...certificates]);
  } catch (error) {
    throw invalid('holds something that is no certificate', error);
  }
}

/** `ORIGIN bearer TOKEN` or `ORIGIN basic USER:PASSWORD`, one a line; `#` begins a comment line. */
function parseAuth(text: string, path: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === '' || line.trimStart().startsWith('#')) continue;
    const invalid = (why: string): PresyncError =>
      new PresyncError('CONFIG_INVALID', `line ${index + 1} of ${path} (--store-auth) ${why}`, {
        hint: 'write https://host[:port] bearer TOKEN, or https://host[:port] basic USER:PASSWORD',
      });
    const [, place = '', scheme = '', secret = ''] =
      /^\s*(\S+)\s+(bearer|basic)\s+(\S.*?)\s*$/i.exec(line) ?? [];
    if (place === '') throw invalid('has another form');
    const url = URL.canParse(place) ? new URL(place) : undefined;
    if (url === undefined || !/^https?:$/.test(url.protocol) || `${url.origin}` !== place.replace(/\/$/, ''))
      throw invalid('does not begin with an origin');
    if (found.has(url.origin)) throw invalid(`names ${url.origin} a second time`);
    // RFC 9110, 5.5: what may stand in a header.
    if (!/^[\x21-\x7e\x80-\u{10ffff}](?:[\x20-\x7e\x80-\u{10ffff}]*)$/u.test(secret))
      throw invalid('has a control character');
    if (scheme.toLowerCase() === 'bearer') {
      if (!/^[\x21-\x7e]+$/.test(secret))
        throw invalid('has a token with a space or another character that no token has');
      found.set(url.origin, `Bearer ${secret}`);
    } else {
      if (!secret.includes(':')) throw invalid('has no colon between user and password');
      found.set(url.origin, `Basic ${Buffer.from(secret, 'utf8').toString('base64')}`);
    }
  }
  return found;
}
