import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';

/** The openssl command on the PATH; undefined without one. */
export function findOpenssl(): string | undefined {
  return (process.env.PATH ?? '')
    .split(delimiter)
    .map((dir) => join(dir, 'openssl'))
    .find((path) => existsSync(path));
}

/** A certificate for 127.0.0.1 and localhost that nobody trusts yet, good for a day, with its key. */
export async function makeCertificate(): Promise<{ cert: string; key: string }> {
  const openssl = findOpenssl();
  if (openssl === undefined) throw new Error('openssl is not to be found');
  const dir = await mkdtemp(join(tmpdir(), 'presync-certificate-'));
  try {
    const [certFile, keyFile] = [join(dir, 'cert.pem'), join(dir, 'key.pem')];
    await promisify(execFile)(openssl, [
      ...[
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-days',
        '1',
      ],
      ...['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost'],
      ...['-out', certFile, '-keyout', keyFile],
    ]);
    return { cert: await readFile(certFile, 'utf8'), key: await readFile(keyFile, 'utf8') };
  } finally {
    await rm(dir, { recursive: true });
  }
}
